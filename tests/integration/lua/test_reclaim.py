"""reclaim: a dead or lapsed process's jobs go back to the front, each once, in chunks."""

from __future__ import annotations

from typing import Any

import pytest

from bananas.broker import Fenced, GiveBack
from bananas.keys import place
from bare_queue import START_MS, BareQueue, ids_of, record

NORMAL = "queue:normal"
GPU = place("high", "gpu", "resize")


def reclaim(
    queue: BareQueue,
    epoch: str = "e1",
    *,
    proven: bool = True,
    **options: Any,  # noqa: ANN401 - reclaim's own
) -> GiveBack:
    """Run one step."""
    step: GiveBack = queue.run(queue.broker.reclaim(epoch, proven=proven, **options))
    return step


def test_jobs_go_back_to_the_front_in_their_order(queue: BareQueue) -> None:
    """Oldest first, before what came later, each at its place; nothing of the epoch is left."""
    queue.register(places=(NORMAL, GPU))
    queue.enqueue("a", "c")
    queue.enqueue("b", "d", place=GPU)
    first = queue.dequeue(NORMAL, GPU, limit=3)
    second = queue.dequeue(NORMAL, GPU)
    queue.enqueue("x")
    queue.enqueue("y", place=GPU)
    for where in (NORMAL, GPU):
        queue.client.delete(queue.keys.wake(where))
    assert reclaim(queue) == GiveBack("done", 4, [])
    assert queue.waiting() == ["a", "c", "x"]
    assert queue.waiting(GPU) == ["b", "d", "y"]
    assert (queue.markers(), queue.markers(GPU)) == (1, 1)
    assert queue.counters()["reclaimed"] == 4
    found = queue.snapshot()
    assert not [name for name in found if "processing" in name or name in {"workers", "crashes"}]
    assert queue.settle(first.request, dropped=[b"a"]) == ["a"]
    assert queue.settle(second.request, dropped=[b"d"]) == ["d"]
    assert queue.drift() == 0


def test_second_copy_has_no_effect(queue: BareQueue) -> None:
    """The job is in one place, also when a delayed copy comes after others leased it."""
    queue.leased("a")
    reclaim(queue, charged=[b"a"])
    copy = queue.last
    before = queue.snapshot()
    assert queue.again(copy) == [b"gone", 0]
    assert queue.snapshot() == before
    queue.register("e2")
    assert [(job.job_id, job.crashes) for job in queue.dequeue(epoch="e2").jobs] == [(b"a", 1)]
    before = queue.snapshot()
    assert queue.again(copy) == [b"gone", 0]
    assert queue.snapshot() == before


def test_unknown_epoch_is_gone(queue: BareQueue) -> None:
    """There is nothing to give back, and nothing is made."""
    assert reclaim(queue, "never") == GiveBack("gone", 0, [])
    assert queue.snapshot() == {}


def test_leases_of_an_epoch_that_the_server_has_forgotten_come_back(queue: BareQueue) -> None:
    """Where the list of epochs is lost, who knows of one still gives its jobs back."""
    queue.leased("a", "b")
    queue.client.delete(queue.keys.epochs)
    assert reclaim(queue, limit=1).state == "more"
    assert reclaim(queue) == GiveBack("done", 1, [])
    assert sorted(queue.waiting()) == ["a", "b"]
    assert queue.drift() == 0


def test_living_epoch_is_left_alone(queue: BareQueue) -> None:
    """Without proof the deadline decides, in the script that moves."""
    queue.leased("a")
    before = queue.snapshot()
    assert reclaim(queue, proven=False) == GiveBack("alive", 0, [])
    assert queue.snapshot() == before
    queue.now_ms += 15_000
    assert reclaim(queue, proven=False) == GiveBack("done", 1, [])
    assert queue.waiting() == ["a"]


def test_beat_that_came_first_wins(queue: BareQueue) -> None:
    """Between being seen as lapsed and being reclaimed, a beat saves the leases."""
    queue.leased("a")
    queue.now_ms += 20_000
    assert queue.run(queue.broker.lapsed()).epochs == ["e1"]
    queue.run(queue.broker.beat(15, ["e1"]))
    assert reclaim(queue, proven=False).state == "alive"


def test_epoch_without_a_lease_is_forgotten(queue: BareQueue) -> None:
    """An idle process that ends leaves nothing."""
    queue.register(places=())
    assert reclaim(queue) == GiveBack("done", 0, [])
    assert queue.snapshot() == {}


def test_chunks_fence_first_and_end_done(queue: BareQueue) -> None:
    """The first chunk fences; each moves its limit; the last says done."""
    queue.leased("a", "b", "c", "d", "e")
    assert reclaim(queue, limit=2) == GiveBack("more", 2, [])
    assert queue.client.zscore(queue.keys.epochs, "e1") == 0
    assert queue.dequeue() == Fenced("e1")
    assert queue.run(queue.broker.lapsed()).epochs == ["e1"]
    assert queue.drift() == 0
    assert reclaim(queue, proven=False, limit=2) == GiveBack("more", 2, [])
    assert reclaim(queue, limit=2) == GiveBack("done", 1, [])
    assert sorted(queue.waiting()) == ["a", "b", "c", "d", "e"]
    assert queue.drift() == 0


def test_largest_chunk_is_one_step(queue: BareQueue) -> None:
    """A thousand jobs of several leases come back in one call and in order."""
    queue.register()
    ids = [f"j{number:04}" for number in range(1000)]
    queue.enqueue(*ids[:500])
    queue.enqueue(*ids[500:])
    for _ in range(4):
        queue.dequeue(limit=250)
    assert reclaim(queue, limit=1000) == GiveBack("done", 1000, [])
    assert queue.waiting() == ids


def test_more_leases_than_a_call_looks_at_are_all_given_back(queue: BareQueue) -> None:
    """It is done when nothing is left of the epoch, not when what it looked at is."""
    queue.leased("a")
    leases = queue.keys.epoch_leases("e1")
    queue.client.sadd(leases, *(f"r{number}" for number in range(9000)))
    steps = [reclaim(queue)]
    while steps[-1].state == "more" and len(steps) < 10:
        steps.append(reclaim(queue))
    assert [step.state for step in steps] == ["more"] * 9 + ["done"]
    assert queue.client.exists(leases) == 0
    assert queue.waiting() == ["a"]
    assert queue.drift() == 0


def test_only_charged_jobs_have_crashed(queue: BareQueue) -> None:
    """Neighbours are not charged; strangers named by mistake are not either; each death is one."""
    queue.leased("a", "b", "c")
    reclaim(queue, charged=[b"a", b"stranger"])
    assert queue.client.hgetall(queue.keys.crashes) == {b"a": b"1"}
    queue.register("e2")
    queue.dequeue(epoch="e2")
    reclaim(queue, "e2", charged=[b"a", b"b"])
    assert queue.client.hgetall(queue.keys.crashes) == {b"a": b"2", b"b": b"1"}


def test_charge_over_chunks_counts_once(queue: BareQueue) -> None:
    """The same charge sent with every chunk counts when its job moves, and only then."""
    queue.leased("a", "b", "c", "d")
    for _ in range(4):
        reclaim(queue, charged=[b"a", b"b", b"c", b"d"], limit=1)
    assert queue.client.hgetall(queue.keys.crashes) == dict.fromkeys([b"a", b"b", b"c", b"d"], b"1")


@pytest.mark.parametrize(
    "data",
    [
        record("f", None),
        b'{"id":"f","list":"mailing"}',
        b'{"id":"f","list":"queue:dead"}',
        b'{"id":"f","list":"queue:high"',
        b'{"id":"f","list":"xqueue:high"}',
        b'{"payload":{"list":"queue:high"}}',
        b"",
        None,
    ],
)
def test_job_without_a_place_stays_until_its_place_is_named(
    queue: BareQueue, data: bytes | None
) -> None:
    """Foreign, broken and missing records block no neighbour, and go where the caller says."""
    queue.register()
    if data is not None:
        queue.client.set(queue.keys.job("f"), data)
    queue.client.lpush(queue.keys.waiting(NORMAL), "f")
    queue.enqueue("a")
    token = queue.dequeue().request
    assert reclaim(queue) == GiveBack("more", 1, [b"f"])
    assert queue.waiting() == ["a"]
    assert queue.lease(token) == {"f"}
    assert reclaim(queue) == GiveBack("more", 0, [b"f"])
    assert reclaim(queue, placed={b"f": GPU}) == GiveBack("done", 1, [])
    assert queue.waiting(GPU) == ["f"]
    assert {waiting.place for waiting in queue.run(queue.broker.audit()).places} == {NORMAL, GPU}
    assert queue.drift() == 1  # the foreign one


def test_record_of_another_type_blocks_no_neighbour(queue: BareQueue) -> None:
    """A key of another type under a record's name is an unplaced job, not an error."""
    queue.leased("a", "f")
    queue.client.delete(queue.keys.job("f"))
    queue.client.rpush(queue.keys.job("f"), "wrong")
    assert reclaim(queue) == GiveBack("more", 1, [b"f"])
    assert reclaim(queue, placed={b"f": NORMAL}) == GiveBack("done", 1, [])


def test_many_unplaced_jobs_come_back_within_bounds(queue: BareQueue) -> None:
    """With more foreign jobs than a chunk holds, naming what was reported ends in done."""
    queue.register()
    for number in range(30):
        queue.push_foreign(f"f{number:02}")
    queue.dequeue()
    placed: dict[bytes, str] = {}
    for _ in range(100):
        step = reclaim(queue, limit=10, placed=placed)
        assert step.moved + len(step.unplaced) <= 10
        placed = dict.fromkeys(step.unplaced, NORMAL)
        if step.state == "done":
            break
    assert len(queue.waiting()) == 30
    assert step.state == "done"


def test_tombstone_comes_back_and_is_still_one(queue: BareQueue) -> None:
    """A cancelled job that was leased to be dropped goes round again and is counted once."""
    queue.register()
    queue.enqueue("a")
    queue.run(queue.broker.cancel("a", record("a"), record("a", c=1), ttl_s=9, foreign=False))
    queue.dequeue()
    assert queue.drift() == 0
    reclaim(queue, placed={b"a": NORMAL})
    assert queue.drift() == 0
    queue.register("e2")
    batch = queue.dequeue(epoch="e2")
    assert ids_of(batch) == ["a"]
    assert queue.settle(batch.request, epoch="e2", forgotten=[b"a"]) == []
    assert queue.counters()["cancelled"] == 1
    assert queue.drift() == 0


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    token = queue.leased("a")
    queue.now_ms = START_MS + 20_000
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: reclaim(queue, charged=[b"a"], proven=False),
        keys.epochs,
        keys.epoch_leases("e1"),
        keys.lease(token),
        keys.counters,
        keys.crashes,
        keys.workers,
        keys.places(),
        keys.waiting(NORMAL),
        keys.wake(NORMAL),
    )


@pytest.mark.parametrize("limit", [1, 100])
def test_at_maxmemory_jobs_come_back(own_queue: BareQueue, limit: int) -> None:
    """A full server gives a dead worker's jobs to the living."""
    queue = own_queue
    queue.leased("a", "b")
    queue.client.delete(queue.keys.wake(NORMAL))
    queue.client.script_flush()
    with queue.full():
        while reclaim(queue, charged=[b"a"], limit=limit).state == "more":
            pass
        assert sorted(queue.waiting()) == ["a", "b"]
        assert queue.markers() == 1
        assert queue.client.hget(queue.keys.crashes, "a") == b"1"
    assert queue.drift() == 0


def test_at_maxmemory_an_epoch_of_unplaced_jobs_is_fenced(own_queue: BareQueue) -> None:
    """Fencing works there too when nothing can be moved yet."""
    queue = own_queue
    queue.register()
    queue.push_foreign("f")
    queue.dequeue()
    with queue.full():
        assert reclaim(queue) == GiveBack("more", 0, [b"f"])
        assert queue.dequeue() == Fenced("e1")
        assert reclaim(queue, placed={b"f": NORMAL}) == GiveBack("done", 1, [])
