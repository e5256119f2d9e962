"""purge: the failed jobs that an operator names go for good, and no others."""

from __future__ import annotations

from bananas.broker import MEMORY_MS
from bare_queue import BareQueue, record


def purge(queue: BareQueue, *ids: str) -> int:
    """Run one call."""
    return int(queue.run(queue.broker.purge(ids)))


def test_named_jobs_go_with_their_records(queue: BareQueue) -> None:
    """Others stay, and the books are even."""
    queue.die("a", "b", "c")
    assert purge(queue, "a", "c") == 2
    assert set(queue.dead()) == {"b"}
    assert [queue.record(job_id) for job_id in "ac"] == [None, None]
    assert queue.record("b") is not None
    assert queue.counters()["purged"] == 2
    assert queue.drift() == 0


def test_result_goes_with_the_job(queue: BareQueue) -> None:
    """A later job of the same id must not be told this one's end; others' results stay."""
    queue.die("a", "b")
    for job_id in "ab":
        queue.client.hset(queue.keys.result(job_id), "status", "failed")
    purge(queue, "a")
    assert queue.client.exists(queue.keys.result("a")) == 0
    assert queue.client.exists(queue.keys.result("b")) == 1


def test_second_copy_has_no_effect(queue: BareQueue) -> None:
    """It gets the first one's answer, also when the id was used again and has failed since."""
    queue.die("a")
    purge(queue, "a")
    copy = queue.last
    before = queue.snapshot()
    assert queue.again(copy) == 1
    assert purge(queue, "a") == 0
    assert queue.snapshot() == before
    queue.die("a")
    before = queue.snapshot()
    assert queue.again(copy) == 1
    assert queue.snapshot() == before


def test_answer_is_remembered_for_a_minute(queue: BareQueue) -> None:
    """The memory is longer than any client's retry window, and ends."""
    queue.die("a")
    purge(queue, "a")
    left_ms = queue.client.pttl(queue.last.keys[2])
    assert MEMORY_MS - 5000 < left_ms <= MEMORY_MS


def test_jobs_that_did_not_fail_are_left_alone(queue: BareQueue) -> None:
    """Waiting, scheduled, leased and unknown ids are not in the dead-letter queue."""
    token = queue.leased("l")
    queue.enqueue("w")
    queue.enqueue("s", due="+1000")
    before = queue.snapshot()
    assert purge(queue, "l", "w", "s", "never") == 0
    assert queue.snapshot() == before
    assert queue.lease(token) == {"l"}


def test_id_named_twice_counts_once(queue: BareQueue) -> None:
    """A careless list leaves the books even."""
    queue.die("a")
    assert purge(queue, "a", "a") == 1
    assert queue.drift() == 0


def test_id_accepted_anew_keeps_its_record(queue: BareQueue) -> None:
    """When a failed record expired and its id was used again, the new job is not harmed."""
    queue.die("a")
    queue.client.delete(queue.keys.job("a"))  # as its TTL does
    queue.enqueue("a")
    assert purge(queue, "a") == 1
    assert queue.record("a") == record("a")
    assert queue.drift() == 0


def test_largest_call_is_one_step(queue: BareQueue) -> None:
    """500 ids go in one call."""
    ids = [f"j{number:03}" for number in range(500)]
    queue.client.zadd(queue.keys.dead, dict.fromkeys(ids, 1))
    assert purge(queue, *ids) == 500


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Both keys are looked at before the first write."""
    queue.die("a")
    queue.refuses_wrong_types(lambda: purge(queue, "a"), queue.keys.dead, queue.keys.counters)


def test_at_maxmemory_it_makes_room(own_queue: BareQueue) -> None:
    """Purging is what a full server needs."""
    own_queue.die("a")
    with own_queue.full():
        assert purge(own_queue, "a") == 1
    assert own_queue.drift() == 0
