"""beat: living epochs are extended, never set back; fenced ones are told so."""

from __future__ import annotations

import pytest

from bare_queue import START_MS, BareQueue


def deadlines(queue: BareQueue) -> dict[str, float]:
    """Return the epochs' deadlines."""
    found = queue.client.zrange(queue.keys.epochs, 0, -1, withscores=True)
    return {epoch.decode(): deadline for epoch, deadline in found}


def test_deadline_is_one_ttl_from_now(queue: BareQueue) -> None:
    """All epochs of a host are extended in one call, and nothing else changes."""
    for epoch in ("e1", "e2", "e3"):
        queue.register(epoch, 15)
    queue.now_ms += 3000
    assert queue.run(queue.broker.beat(15, ["e1", "e2"])) == [True, True]
    assert deadlines(queue) == {
        "e1": START_MS + 18_000,
        "e2": START_MS + 18_000,
        "e3": START_MS + 15_000,
    }


@pytest.mark.parametrize("shift_ms", [-60_000, 0])
def test_deadline_never_shrinks(queue: BareQueue, shift_ms: int) -> None:
    """A shorter ttl, a copy, or a clock that jumped back takes nothing away."""
    queue.register("e1", 60)
    queue.now_ms += shift_ms
    before = queue.snapshot()
    assert queue.run(queue.broker.beat(15, ["e1"])) == [True]
    assert queue.snapshot() == before


def test_deadline_of_a_clock_that_was_set_back_comes_back(queue: BareQueue) -> None:
    """Or a host lost after that would keep its jobs until the old time came again."""
    queue.register("e1", 15)
    queue.now_ms -= 3_600_000
    assert queue.run(queue.broker.beat(15, ["e1"])) == [True]
    assert deadlines(queue) == {"e1": queue.now_ms + 15_000}


def test_lapsed_epoch_that_nobody_reclaimed_is_extended(queue: BareQueue) -> None:
    """After an outage longer than the ttl no lease is lost, if nobody was quicker."""
    queue.register("e1", 15)
    queue.now_ms += 600_000
    assert queue.run(queue.broker.beat(15, ["e1"])) == [True]
    assert deadlines(queue) == {"e1": START_MS + 615_000}


def test_fenced_and_unknown_epochs_are_told_and_not_revived(queue: BareQueue) -> None:
    """One answer an epoch, in order; a beat brings back neither a fenced one nor one gone."""
    queue.leased("a", "b")
    queue.register("e2")
    queue.run(queue.broker.reclaim("e1", proven=True, limit=1))
    before = queue.snapshot()
    assert queue.run(queue.broker.beat(15, ["never", "e2", "e1"])) == [False, True, False]
    assert queue.snapshot() == before
    queue.run(queue.broker.reclaim("e1", proven=True))
    assert queue.run(queue.broker.beat(15, ["e1"])) == [False]
    assert set(deadlines(queue)) == {"e2"}


def test_many_epochs_in_one_call(queue: BareQueue) -> None:
    """A thousand epochs beat at once."""
    names = [f"e{number}" for number in range(1000)]
    queue.client.zadd(queue.keys.epochs, dict.fromkeys(names, START_MS))
    assert all(queue.run(queue.broker.beat(15, names)))
    assert set(deadlines(queue).values()) == {START_MS + 15_000}


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """The key is looked at before the first write."""
    queue.refuses_wrong_types(lambda: queue.run(queue.broker.beat(15, ["e1"])), queue.keys.epochs)


def test_at_maxmemory_beats_go_on(own_queue: BareQueue) -> None:
    """A full server costs nobody a lease, also when the script is unknown to it."""
    own_queue.register("e1")
    own_queue.now_ms += 5000
    own_queue.client.script_flush()
    with own_queue.full():
        assert own_queue.run(own_queue.broker.beat(15, ["e1"])) == [True]
        assert deadlines(own_queue) == {"e1": START_MS + 20_000}
