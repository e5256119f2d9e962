"""enqueue: accepted once, in order, and not at all when it cannot be whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from bananas.broker import MEMORY_MS, Entry
from bare_queue import START_MS, BareQueue, record

if TYPE_CHECKING:
    from collections.abc import Sequence

HIGH, NORMAL = "queue:high", "queue:normal"


def entries(*ids: str, place: str = NORMAL, due: str | None = None) -> list[Entry]:
    """Return one entry an id."""
    return [Entry(job_id, place, record(job_id, place), due) for job_id in ids]


def enqueue(queue: BareQueue, request: str, jobs: Sequence[Entry]) -> list[bool] | None:
    """Enqueue under a given request."""
    verdicts: list[bool] | None = queue.run(queue.broker.enqueue(request, jobs))
    return verdicts


def test_jobs_are_stored_listed_counted_and_woken_for(queue: BareQueue) -> None:
    """One call leaves records, one list in order, one marker, the place, the count, the answer."""
    assert enqueue(queue, "r", entries("a", "b", "c")) == [True] * 3
    found = queue.snapshot()
    ends_ms = found.pop("request:r")[2]
    assert ends_ms > 0
    assert found == {
        "job:a": ("string", record("a"), -1),
        "job:b": ("string", record("b"), -1),
        "job:c": ("string", record("c"), -1),
        "queue:normal": ("list", ["c", "b", "a"], -1),
        "queue:normal:wake": ("list", ["1"], -1),
        "places": ("set", {NORMAL}, -1),
        "counters": ("hash", {"accepted": b"3"}, -1),
    }
    assert queue.drift() == 0


def test_places_of_one_call_keep_their_own_order(queue: BareQueue) -> None:
    """Jobs mixed over places lie in each in the order of the call, one marker a place."""
    mixed = [*entries("a"), *entries("b", place=HIGH), *entries("c"), *entries("d", place=HIGH)]
    assert enqueue(queue, "r", mixed) == [True] * 4
    assert (queue.waiting(NORMAL), queue.waiting(HIGH)) == (["a", "c"], ["b", "d"])
    assert (queue.markers(NORMAL), queue.markers(HIGH)) == (1, 1)


def test_a_second_call_leaves_no_second_marker(queue: BareQueue) -> None:
    """There is one marker however many calls came, and a new one after it was taken."""
    queue.enqueue("a")
    queue.enqueue("b")
    assert queue.markers() == 1
    queue.client.rpop(queue.keys.wake(NORMAL))
    queue.enqueue("c")
    assert queue.markers() == 1


def test_scheduled_jobs_wait_for_their_time(queue: BareQueue) -> None:
    """`+ms` counts from the server's now, a plain number is unix seconds; no list, no marker."""
    later = [*entries("a", due="+1500"), *entries("b", due="1900000000.25")]
    assert enqueue(queue, "r", later) == [True, True]
    assert queue.scheduled() == {"a": START_MS / 1000 + 1.5, "b": 1900000000.25}
    assert queue.waiting() == []
    assert queue.markers() == 0
    assert queue.counters() == {"accepted": 2}
    assert queue.drift() == 0


def test_an_earlier_first_job_rings_once(queue: BareQueue) -> None:
    """Whoever sleeps until the first is due hears of an earlier one, and of nothing else."""
    with queue.bell() as rang:
        queue.enqueue("a", "b", due="+1000")
        assert rang() == 1
        queue.again()
        queue.enqueue("c", due="+1000")
        queue.enqueue("d", due="+2000")
        queue.enqueue("a", due="+1")
        queue.enqueue("e")
        assert rang() == 0
        enqueue(queue, "r", [*entries("f", due="+3000"), *entries("g", due="+999")])
        assert rang() == 1


def test_who_may_not_publish_schedules_all_the_same(own_queue: BareQueue) -> None:
    """Promoters look now and then besides, so that nothing is refused for it."""
    client = own_queue.client
    client.execute_command("ACL", "SETUSER", "default", "-publish")
    own_queue.enqueue("a", due="+1000")
    client.execute_command("ACL", "SETUSER", "default", "+publish")
    assert set(own_queue.scheduled()) == {"a"}
    assert own_queue.counters() == {"accepted": 1}


def test_waiting_and_scheduled_jobs_share_a_call(queue: BareQueue) -> None:
    """Verdicts come in the order of the call, wherever the jobs go."""
    queue.enqueue("b")
    queue.enqueue("d", due="+1")
    mixed = [
        *entries("a", due="+1"),
        *entries("b"),
        *entries("c"),
        *entries("d", due="+1"),
        *entries("e", place=HIGH),
    ]
    assert enqueue(queue, "r", mixed) == [True, False, True, False, True]
    assert queue.waiting() == ["b", "c"]
    assert queue.waiting(HIGH) == ["e"]
    assert set(queue.scheduled()) == {"a", "d"}
    assert queue.counters() == {"accepted": 5}


def test_a_known_id_is_left_alone(queue: BareQueue) -> None:
    """A duplicate changes neither the record nor the list nor the counters, and wakes nobody."""
    queue.enqueue("a")
    queue.client.delete(queue.keys.wake(NORMAL))
    before = queue.snapshot()
    assert enqueue(queue, "again", [Entry("a", NORMAL, b"other")]) == [False]
    after = queue.snapshot()
    assert after.pop("request:again")[1] == b"d"
    assert after == before


def test_new_job_beside_a_duplicate_is_woken_for(queue: BareQueue) -> None:
    """Only what was accepted wakes somebody, at each place of the call."""
    queue.enqueue("a")
    queue.client.delete(queue.keys.wake(NORMAL))
    mixed = [*entries("a"), *entries("b"), *entries("c", place=HIGH)]
    assert enqueue(queue, "r", mixed) == [False, True, True]
    assert (queue.markers(NORMAL), queue.markers(HIGH)) == (1, 1)
    queue.client.delete(queue.keys.wake(NORMAL))
    assert enqueue(queue, "again", entries("a", "b")) == [False, False]
    assert queue.markers(NORMAL) == 0


@pytest.mark.parametrize("write", ["set", "rpush", "sadd"])
def test_any_key_under_a_record_name_is_a_duplicate(queue: BareQueue, write: str) -> None:
    """Foreign records, and keys of other types, are never overwritten."""
    getattr(queue.client, write)(queue.keys.job("a"), "foreign")
    assert queue.enqueue("a", "b") == [False, True]
    assert queue.record("b") == record("b")
    assert queue.client.type(queue.keys.job("a")) != b"none"
    assert queue.waiting() == ["b"]


def test_repeated_request_gives_the_same_answer_and_no_effect(queue: BareQueue) -> None:
    """A second copy, even one with other jobs in it, is answered from memory."""
    queue.enqueue("b")
    assert enqueue(queue, "r", entries("a", "b")) == [True, False]
    before = queue.snapshot()
    assert enqueue(queue, "r", entries("a", "b")) == [True, False]
    assert queue.snapshot() == before


def test_delayed_copy_after_the_job_ended_brings_nothing_back(queue: BareQueue) -> None:
    """A copy that arrives when the job is done and deleted runs nothing twice."""
    queue.register()
    queue.enqueue("a")
    copy = queue.last
    assert queue.settle(queue.dequeue().request, dropped=[b"a"]) == []
    before = queue.snapshot()
    assert queue.again(copy) == [0, b""]
    assert queue.snapshot() == before
    assert queue.record("a") is None


def test_answer_is_remembered_for_a_minute(queue: BareQueue) -> None:
    """The memory is longer than any client's retry window, and ends."""
    enqueue(queue, "r", entries("a"))
    left_ms = queue.client.pttl(queue.keys.request("r"))
    assert MEMORY_MS - 5000 < left_ms <= MEMORY_MS


def test_changed_specials_place_nothing(queue: BareQueue) -> None:
    """A caller with an old view of the specials is told the new one, and may repeat the request."""
    other = queue.new_broker()
    queue.run(other.specialise(60, ["resize"]))
    before = queue.snapshot()
    assert enqueue(queue, "r", entries("a")) is None
    assert queue.snapshot() == before
    assert queue.broker.specials == other.specials
    assert enqueue(queue, "r", entries("a")) == [True]


@pytest.mark.parametrize("due", ["", "soon", "nan", "+", "+soon", "12 o'clock"])
def test_due_that_is_no_number_has_no_effect(queue: BareQueue, due: str) -> None:
    """What the sorted set would refuse is refused before the first write."""
    before = queue.snapshot()
    with pytest.raises(ResponseError, match="due is not a number"):
        enqueue(queue, "r", [*entries("a"), *entries("b", due=due)])
    assert queue.snapshot() == before


def test_largest_call_is_one_step(queue: BareQueue) -> None:
    """500 jobs are taken whole and in order, half of them known already or not."""
    ids = [f"j{number:03}" for number in range(500)]
    queue.enqueue(*ids[::2])
    assert queue.enqueue(*ids) == [False, True] * 250
    assert queue.waiting() == ids[::2] + ids[1::2]
    assert queue.counters() == {"accepted": 500}
    assert queue.drift() == 0


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    keys = queue.keys
    jobs = [*entries("a"), *entries("b", place=HIGH), *entries("c", due="+1")]
    fixed = [keys.counters, keys.scheduled, keys.specials_version, keys.places()]
    lists = [keys.waiting(NORMAL), keys.wake(NORMAL), keys.waiting(HIGH), keys.wake(HIGH)]
    queue.refuses_wrong_types(lambda: enqueue(queue, "r", jobs), *fixed, *lists)
    queue.client.rpush(keys.request("r"), "wrong")
    before = queue.snapshot()
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        enqueue(queue, "r", jobs)
    assert queue.snapshot() == before


def test_at_maxmemory_it_is_refused_whole(own_queue: BareQueue) -> None:
    """Nothing is accepted in part; the same request succeeds when there is room again."""
    queue = own_queue
    queue.enqueue("old")
    done = queue.last
    before = queue.snapshot()
    jobs = [*entries("a", "old"), *entries("b", place=HIGH), *entries("c", due="+1")]
    with queue.full():
        for batch in (jobs, entries("d", due="+1")):
            with pytest.raises(OutOfMemoryError):
                enqueue(queue, "r", batch)
        assert queue.again(done) == [0, b""]  # an answer given before is still given
        assert queue.snapshot() == before
    assert enqueue(queue, "r", jobs) == [True, False, True, True]
    assert queue.drift() == 0
