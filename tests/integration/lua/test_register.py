"""register: an epoch may lease until its deadline; a fenced one never again."""

from __future__ import annotations

from bananas.broker import MEMORY_MS
from bare_queue import START_MS, BareQueue


def test_epoch_its_process_and_its_places_are_known(queue: BareQueue) -> None:
    """The deadline is one ttl from now; the info and the places are kept for readers."""
    assert queue.register("e1", 15, ["queue:high", "queue:low"])
    assert queue.snapshot() == {
        "queue:processing:epochs": ("zset", {"e1": START_MS + 15_000}, -1),
        "workers": ("hash", {"e1": b'{"pid": 1}'}, -1),
        "places": ("set", {"queue:high", "queue:low"}, -1),
    }


def test_places_may_be_none(queue: BareQueue) -> None:
    """A process that serves nothing, as a scheduler, registers all the same."""
    assert queue.register("e1", places=())
    assert "places" not in queue.snapshot()


def test_another_call_only_extends(queue: BareQueue) -> None:
    """A copy has no effect, early or late; nothing sets the deadline back."""
    queue.register("e1", 15)
    early = queue.last
    before = queue.snapshot()
    for ms in (0, 20_000):  # the second: lapsed, and not reclaimed yet
        queue.now_ms += ms
        assert queue.again() == 1
        assert queue.snapshot() == before
    queue.register("e1", 60)
    before = queue.snapshot()
    assert queue.again(early) == 1
    assert queue.snapshot() == before


def test_request_is_remembered_for_a_minute(queue: BareQueue) -> None:
    """Processes come and go for ever; what remembers their calls does not stay."""
    queue.register()
    left_ms = queue.client.pttl(queue.last.keys[3])
    assert MEMORY_MS - 5000 < left_ms <= MEMORY_MS


def test_copy_does_not_bring_a_process_back_that_has_left(queue: BareQueue) -> None:
    """Nor can a late copy of its dequeue, then, lease jobs to nobody."""
    queue.register()
    copy = queue.last
    assert queue.again(copy) == 1
    queue.run(queue.broker.reclaim("e1", proven=True))
    before = queue.snapshot()
    assert queue.again(copy) == 0
    assert queue.snapshot() == before


def test_fenced_epoch_stays_fenced(queue: BareQueue) -> None:
    """While its jobs are given back, an epoch cannot come back to life."""
    queue.leased("a", "b")
    queue.run(queue.broker.reclaim("e1", proven=True, limit=1))
    before = queue.snapshot()
    assert not queue.register("e1")
    assert queue.snapshot() == before


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    keys = queue.keys
    queue.refuses_wrong_types(queue.register, keys.epochs, keys.workers, keys.places())


def test_at_maxmemory_a_process_can_start(own_queue: BareQueue) -> None:
    """A full server can still be drained by new workers."""
    with own_queue.full():
        assert own_queue.register("e1")
        assert own_queue.client.zscore(own_queue.keys.epochs, "e1") == START_MS + 15_000
