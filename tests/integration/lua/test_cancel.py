"""cancel: a job that waits or is scheduled ends at once; any other is left alone."""

from __future__ import annotations

import pytest

from bare_queue import BareQueue, ids_of, record

NORMAL = "queue:normal"


def gone(job_id: str) -> bytes:
    """Return the cancelled record."""
    return record(job_id, status="cancelled")


def cancel(
    queue: BareQueue,
    job_id: str,
    seen: bytes | None = None,
    *,
    ttl_s: int = 60,
    foreign: bool = False,
) -> str:
    """Run one call."""
    seen = record(job_id) if seen is None else seen
    answer: str = queue.run(
        queue.broker.cancel(job_id, seen, gone(job_id), ttl_s=ttl_s, foreign=foreign)
    )
    return answer


def test_waiting_job_becomes_a_tombstone(queue: BareQueue) -> None:
    """It ends now without a search of the list; the id stays until a dequeue comes to it."""
    queue.enqueue("a", "b")
    assert cancel(queue, "a") == "cancelled"
    assert queue.waiting() == ["a", "b"]
    assert queue.record("a") == gone("a")
    assert queue.ttl_s(queue.keys.job("a")) == -1
    assert queue.client.smembers(queue.keys.cancelled) == {b"a"}
    assert queue.counters()["cancelled"] == 1
    assert queue.drift() == 0
    audit = queue.run(queue.broker.audit())
    assert (audit.waiting, audit.cancelled_waiting) == (2, 1)


def test_tombstone_is_dropped_by_the_worker_that_meets_it(queue: BareQueue) -> None:
    """It is leased like a job, with its new record; forgotten, it is not counted again."""
    queue.register()
    queue.enqueue("a", "b")
    cancel(queue, "a")
    batch = queue.dequeue()
    assert [job.record for job in batch.jobs] == [gone("a"), record("b")]
    assert queue.drift() == 0
    assert queue.settle(batch.request, forgotten=[b"a"], dropped=[b"b"]) == []
    assert queue.client.exists(queue.keys.cancelled) == 0
    assert 0 < queue.ttl_s(queue.keys.job("a")) <= 86_400
    assert queue.drift() == 0


def test_scheduled_job_is_gone_at_once(queue: BareQueue) -> None:
    """No tombstone is needed: it leaves the schedule, and its record has a TTL."""
    queue.enqueue("a", due="+1000")
    assert cancel(queue, "a") == "cancelled"
    assert queue.scheduled() == {}
    assert queue.record("a") == gone("a")
    assert 55 < queue.ttl_s(queue.keys.job("a")) <= 60
    assert queue.client.exists(queue.keys.cancelled) == 0
    assert queue.drift() == 0


@pytest.mark.parametrize("due", [None, "+1000"])
def test_retention_of_nothing_is_no_error(queue: BareQueue, due: str | None) -> None:
    """A ttl of 0 deletes a scheduled job's record, and leaves a waiting one for the dequeue."""
    queue.enqueue("a", due=due)
    assert cancel(queue, "a", ttl_s=0) == "cancelled"
    assert queue.record("a") == (gone("a") if due is None else None)
    assert queue.drift() == 0


def test_second_copy_has_no_effect(queue: BareQueue) -> None:
    """It finds what the first one wrote, and says so: its caller did cancel the job."""
    queue.enqueue("a")
    queue.enqueue("s", due="+1000")
    for job_id in "as":
        cancel(queue, job_id)
        before = queue.snapshot()
        assert cancel(queue, job_id) == "cancelled"
        assert queue.snapshot() == before


def test_second_cancel_is_told_of_the_change(queue: BareQueue) -> None:
    """Another caller's record is not the one that is there."""
    queue.enqueue("a")
    cancel(queue, "a")
    before = queue.snapshot()
    other = record("a", status="cancelled", updated_at="later")
    answer = queue.run(queue.broker.cancel("a", record("a"), other, ttl_s=60, foreign=False))
    assert answer == "changed"
    assert queue.snapshot() == before


def test_changed_or_missing_record_is_left_alone(queue: BareQueue) -> None:
    """The decision was made by another record: read again."""
    queue.enqueue("a")
    before = queue.snapshot()
    assert cancel(queue, "a", b"older") == "changed"
    assert cancel(queue, "never") == "changed"
    assert queue.snapshot() == before


def test_running_job_is_left_alone(queue: BareQueue) -> None:
    """A leased job ends by its holder, whichever epoch that is and whatever state it is in."""
    queue.leased("a", epoch="e1")
    token = queue.leased("b", "c", epoch="e2")
    before = queue.snapshot()
    assert cancel(queue, "a") == "processing"
    assert cancel(queue, "b") == "processing"
    assert queue.snapshot() == before
    queue.run(queue.broker.reclaim("e2", proven=True, limit=1))  # fenced, not yet emptied
    left = queue.lease(token).pop()
    assert cancel(queue, left) == "processing"


def test_failed_job_is_left_alone(queue: BareQueue) -> None:
    """What has ended cannot be cancelled."""
    queue.die("a")
    before = queue.snapshot()
    assert cancel(queue, "a", record("a", status="failed")) == "failed"
    assert queue.snapshot() == before


def test_foreign_job_is_counted_as_accepted(queue: BareQueue) -> None:
    """A job that no enqueue counted is accepted and cancelled in one step."""
    queue.register()
    queue.push_foreign("f")
    assert queue.drift() == 1
    assert cancel(queue, "f", record("f", None), foreign=True) == "cancelled"
    assert queue.counters() == {"accepted": 1, "cancelled": 1}
    assert queue.drift() == 0


def test_crashes_of_the_job_are_forgotten(queue: BareQueue) -> None:
    """Its count is of no use any more, and would slow every dequeue."""
    queue.enqueue("a", due="+1000")
    queue.client.hset(queue.keys.crashes, mapping={"a": 1, "b": 1})
    cancel(queue, "a")
    assert queue.client.hkeys(queue.keys.crashes) == [b"b"]


def test_id_of_a_tombstone_stays_taken(queue: BareQueue) -> None:
    """It cannot be enqueued again while it waits to be dropped."""
    queue.register()
    queue.enqueue("a")
    cancel(queue, "a")
    assert queue.enqueue("a") == [False]
    assert ids_of(queue.dequeue()) == ["a"]


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    token = queue.leased("l")
    queue.enqueue("a")
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: cancel(queue, "a"),
        keys.job("a"),
        keys.scheduled,
        keys.dead,
        keys.epochs,
        keys.epoch_leases("e1"),
        keys.lease(token),
        keys.counters,
        keys.cancelled,
        keys.crashes,
    )


def test_at_maxmemory_jobs_can_be_cancelled(own_queue: BareQueue) -> None:
    """Waiting and scheduled ones alike."""
    queue = own_queue
    queue.enqueue("a")
    queue.enqueue("s", due="+1000")
    queue.client.script_flush()
    with queue.full():
        assert cancel(queue, "a") == "cancelled"
        assert cancel(queue, "s") == "cancelled"
    assert queue.drift() == 0
