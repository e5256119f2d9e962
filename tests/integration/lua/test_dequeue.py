"""dequeue: the oldest first, leased to one epoch, and the same batch for the same request."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bananas.broker import MEMORY_MS, Fenced
from bananas.keys import place
from bare_queue import START_MS, BareQueue, ids_of, plain_scripts, record

HIGH, NORMAL, LOW = "queue:high", "queue:normal", "queue:low"


def test_jobs_move_from_their_list_to_a_lease(queue: BareQueue) -> None:
    """A lease holds the ids, the epoch holds the lease, the count moved, the rest is as before."""
    queue.register()
    queue.enqueue("a", "b", "c")
    before = queue.snapshot()
    batch = queue.dequeue(limit=2, request="r")
    assert batch.request == "r"
    assert batch.now_ms == START_MS
    assert [tuple(job) for job in batch.jobs] == [
        (b"a", record("a"), NORMAL, 0),
        (b"b", record("b"), NORMAL, 0),
    ]
    after = queue.snapshot()
    assert after.pop("request:r")[1] == b"1"
    assert after.pop("queue:processing:lease:r") == ("set", {"a", "b"}, -1)
    assert after.pop("queue:processing:epoch:e1") == ("set", {"r"}, -1)
    before["queue:normal"] = ("list", ["c"], -1)
    before["counters"] = ("hash", {"accepted": b"3", "leased": b"2"}, -1)
    assert after == before
    assert queue.drift() == 0


def test_nothing_waiting_leaves_nothing(queue: BareQueue) -> None:
    """An idle worker's question costs no memory, not even of its request."""
    queue.register()
    before = queue.snapshot()
    assert ids_of(queue.dequeue(HIGH, NORMAL)) == []
    assert queue.snapshot() == before


def test_places_are_served_in_their_order_and_each_from_its_oldest(queue: BareQueue) -> None:
    """High before normal before low; first in, first out; the sorted list before the common one."""
    queue.register()
    queue.enqueue("l1", place=LOW)
    queue.enqueue("n1", "n2")
    queue.enqueue("h1", "h2", place=HIGH)
    queue.client.lpush(queue.keys.sorted(NORMAL), "s1", "s2")
    batch = queue.dequeue(HIGH, NORMAL, LOW, limit=6)
    assert ids_of(batch) == ["h1", "h2", "s1", "s2", "n1", "n2"]
    assert [job.place for job in batch.jobs] == [HIGH] * 2 + [NORMAL] * 4
    assert queue.waiting(LOW) == ["l1"]
    assert queue.looked_through() == []


def test_only_named_places_are_served(queue: BareQueue) -> None:
    """A worker of other places takes nothing here."""
    queue.register()
    gpu = place("high", "gpu")
    queue.enqueue("a", place=gpu)
    assert ids_of(queue.dequeue(HIGH, NORMAL, LOW)) == []
    assert ids_of(queue.dequeue(gpu)) == ["a"]


@pytest.mark.parametrize("limit", [1, 31, 32, 33, 95, 96, 97, 250, 1000])
def test_limit_is_exact_and_order_kept(queue: BareQueue, limit: int) -> None:
    """However the records are read in steps, `limit` jobs come, oldest first, over two lists."""
    queue.register()
    ids = [f"j{number:04}" for number in range(1001)]
    queue.enqueue(*ids[:500])
    queue.enqueue(*ids[500:980])
    queue.enqueue(*ids[980:], place=LOW)
    batch = queue.dequeue(NORMAL, LOW, limit=limit)
    assert ids_of(batch) == ids[:limit]
    assert [job.record for job in batch.jobs if job.place == LOW] == [
        record(job_id, LOW) for job_id in ids[980:limit]
    ]
    assert queue.lease(batch.request) == set(ids[:limit])
    assert queue.waiting() + queue.waiting(LOW) == ids[limit:]
    assert queue.counters()["leased"] == limit


def test_first_job_comes_whatever_its_size(queue: BareQueue) -> None:
    """A record larger than the room is not stuck: it comes, alone."""
    queue.register()
    queue.enqueue("a", size=5000)
    queue.enqueue("b")
    assert ids_of(queue.dequeue(room=1000)) == ["a"]
    assert ids_of(queue.dequeue(room=1000)) == ["b"]


def test_room_ends_the_batch_exactly(queue: BareQueue) -> None:
    """Records that fill the room to its last byte come; one byte less leaves the last behind."""
    queue.register()
    queue.enqueue("a", "b", "c", size=400)
    queue.enqueue("d", size=300)
    assert ids_of(queue.dequeue(room=1199)) == ["a", "b"]
    assert ids_of(queue.dequeue(room=700)) == ["c", "d"]


@pytest.mark.parametrize("small", [0, 1, 15, 200])
def test_large_records_beyond_the_room_are_hardly_read(queue: BareQueue, small: int) -> None:
    """However many small ones came before: reading what is left behind would hold up everybody."""
    queue.broker.scripts = plain_scripts()  # the guard looks keys up too
    queue.register()
    if small:
        queue.enqueue(*(f"s{n:03}" for n in range(small)), size=200)
    queue.enqueue(*(f"x{n:03}" for n in range(200)), size=2000)

    def looked_up() -> int:
        return int(queue.client.info("stats")["keyspace_hits"])  # type: ignore[index]

    queue.dequeue(HIGH)  # the script is known by now
    before = looked_up()
    taken = len(ids_of(queue.dequeue(limit=1000, room=200 * small + 1)))
    assert taken == max(1, small)
    assert looked_up() - before <= taken + 15 + 30  # lists and the like are looked up, too


def test_room_is_shared_by_places_and_nothing_is_overtaken(queue: BareQueue) -> None:
    """When the next job does not fit, later and smaller ones wait behind it, in every place."""
    queue.register()
    queue.enqueue("h", place=HIGH, size=400)
    queue.enqueue("n1", size=700)
    queue.enqueue("n2", size=100)
    queue.enqueue("l", place=LOW, size=100)
    assert ids_of(queue.dequeue(HIGH, NORMAL, LOW, room=1000)) == ["h"]
    assert queue.waiting() == ["n1", "n2"]
    assert queue.waiting(LOW) == ["l"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(100, 400), min_size=1, max_size=80),
    split=st.integers(0, 80),
    limit=st.integers(1, 90),
    room=st.integers(1, 20_000),
)
def test_cut_is_what_a_walk_over_the_sizes_gives(
    queue: BareQueue, sizes: list[int], split: int, limit: int, room: int
) -> None:
    """For any sizes over two lists, the batch is the longest start that limit and room allow."""
    queue.clear()
    ids = [f"j{number:04}" for number in range(len(sizes))]
    for number, (job_id, size) in enumerate(zip(ids, sizes, strict=True)):
        where = NORMAL if number < split else LOW
        queue.client.set(queue.keys.job(job_id), record(job_id, where, size=size))
        queue.client.lpush(queue.keys.waiting(where), job_id)
    queue.register()
    expected, left = 0, room
    while expected < min(limit, len(ids)) and (expected == 0 or sizes[expected] <= left):
        left -= sizes[expected]
        expected += 1
    batch = queue.dequeue(NORMAL, LOW, limit=limit, room=room)
    assert ids_of(batch) == ids[:expected]
    assert queue.waiting() + queue.waiting(LOW) == ids[expected:]


def test_missing_record_is_told_as_such(queue: BareQueue) -> None:
    """An id whose record is gone is leased like any other, so that the worker can settle it."""
    queue.register()
    queue.enqueue("a", "b")
    queue.client.delete(queue.keys.job("a"))
    batch = queue.dequeue()
    assert [(job.job_id, job.record) for job in batch.jobs] == [(b"a", None), (b"b", record("b"))]
    assert queue.lease(batch.request) == {"a", "b"}


def test_crashes_come_with_the_jobs(queue: BareQueue) -> None:
    """Each job carries how many processes it has killed."""
    queue.register()
    queue.enqueue("a", "b", "c")
    queue.client.hset(queue.keys.crashes, "b", 2)
    assert [job.crashes for job in queue.dequeue().jobs] == [0, 2, 0]


def test_repeated_request_gives_the_same_batch_and_no_effect(queue: BareQueue) -> None:
    """A lost answer is asked for again: the same jobs in the same order."""
    queue.register()
    ids = [f"j{number:03}" for number in range(40)]
    queue.enqueue(*ids)
    queue.client.hset(queue.keys.crashes, "j001", 1)
    first = queue.dequeue(request="r")
    queue.enqueue("x")
    before = queue.snapshot()
    again = queue.dequeue(request="r", limit=1, room=1)
    assert queue.snapshot() == before
    assert ids_of(again) == ids_of(first) == ids
    assert [job[1::2] for job in again.jobs] == [job[1::2] for job in first.jobs]
    assert {job.place for job in again.jobs} == {None}


def test_repeated_request_gives_what_is_still_leased(queue: BareQueue) -> None:
    """Settled jobs do not come back in a delayed copy; when all are settled nothing does."""
    queue.register()
    queue.enqueue("a", "b")
    queue.dequeue(request="r")
    queue.settle("r", dropped=[b"a"])
    assert ids_of(queue.dequeue(request="r")) == ["b"]
    queue.settle("r", dropped=[b"b"])
    queue.enqueue("c")
    assert ids_of(queue.dequeue(request="r")) == []
    assert queue.waiting() == ["c"]


def test_batch_is_remembered_for_a_minute(queue: BareQueue) -> None:
    """The memory of a request outlives every repeat of it, and ends."""
    queue.leased("a")
    left_ms = queue.client.pttl(queue.keys.request("r00002"))
    assert MEMORY_MS - 5000 < left_ms <= MEMORY_MS


@pytest.mark.parametrize("deadline", [None, 0])
def test_fenced_or_unknown_epoch_gets_nothing(queue: BareQueue, deadline: int | None) -> None:
    """Without a live registration nothing is leased, and a batch leased before is not shown."""
    token = queue.leased("a")
    queue.enqueue("b")
    queue.client.zrem(queue.keys.epochs, "e1")
    if deadline is not None:
        queue.client.zadd(queue.keys.epochs, {"e1": deadline})
    before = queue.snapshot()
    assert queue.dequeue() == Fenced("e1")
    assert queue.dequeue(request=token) == Fenced("e1")
    assert queue.snapshot() == before


def test_lapsed_epoch_that_nobody_reclaimed_is_whole(queue: BareQueue) -> None:
    """A late beat is no loss: until someone reclaims it, the epoch may lease."""
    queue.register(ttl_s=1)
    queue.enqueue("a")
    queue.now_ms += 60_000
    assert ids_of(queue.dequeue()) == ["a"]


def test_changed_specials_lease_nothing(queue: BareQueue) -> None:
    """A worker with an old view of the specials is told the new one, and may repeat the request."""
    queue.register()
    queue.enqueue("a")
    other = queue.new_broker()
    queue.run(other.specialise(60, ["resize"]))
    before = queue.snapshot()
    assert queue.dequeue(request="r") is None
    assert queue.snapshot() == before
    assert queue.broker.specials == other.specials
    assert ids_of(queue.dequeue(request="r")) == ["a"]


def test_marker_is_left_when_more_is_waiting(queue: BareQueue) -> None:
    """Each place that still has jobs gets exactly one marker, also with jobs in both lists."""
    queue.register()
    queue.enqueue("h1", "h2", place=HIGH)
    queue.enqueue("n1", "n2")
    queue.client.lpush(queue.keys.sorted(NORMAL), "s1", "s2")
    for where in (HIGH, NORMAL):
        queue.client.delete(queue.keys.wake(where))
    queue.dequeue(HIGH, NORMAL, LOW, limit=1)
    assert [queue.markers(where) for where in (HIGH, NORMAL, LOW)] == [1, 1, 0]
    queue.dequeue(HIGH, NORMAL, LOW, limit=1)
    assert [queue.markers(where) for where in (HIGH, NORMAL, LOW)] == [1, 1, 0]


def test_no_marker_is_left_when_all_was_taken(queue: BareQueue) -> None:
    """Nobody is woken for a place that was emptied."""
    queue.register()
    queue.enqueue("a", "b")
    queue.client.delete(queue.keys.wake(NORMAL))
    queue.dequeue()
    assert queue.markers() == 0


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    queue.register()
    queue.enqueue("a", "b")
    queue.enqueue("l", place=LOW)
    for where in (NORMAL, LOW):
        queue.client.delete(queue.keys.wake(where))
    queue.client.lpush(queue.keys.sorted(NORMAL), "s")
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: queue.dequeue(NORMAL, LOW, limit=1, request="r"),
        keys.lease("r"),
        keys.epoch_leases("e1"),
        keys.epochs,
        keys.counters,
        keys.specials_version,
        keys.crashes,
        *keys.served(NORMAL),
        *keys.served(LOW),
    )


def test_at_maxmemory_jobs_are_still_leased(own_queue: BareQueue) -> None:
    """A full server drains: leases and markers can be made, also by a script unknown to it."""
    queue = own_queue
    queue.register()
    queue.enqueue("a", "b", "c")
    queue.client.delete(queue.keys.wake(NORMAL))
    queue.client.script_flush()
    with queue.full():
        batch = queue.dequeue(limit=2, request="r")
        assert ids_of(batch) == ids_of(queue.dequeue(request="r")) == ["a", "b"]
        assert queue.lease("r") == {"a", "b"}
        assert queue.markers() == 1
        assert ids_of(queue.dequeue()) == ["c"]
        assert ids_of(queue.dequeue()) == []
    assert queue.drift() == 0
