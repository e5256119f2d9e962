"""locate: a record together with where its id is, in one instant."""

from __future__ import annotations

from bare_queue import BareQueue, record


def test_each_state_is_told(queue: BareQueue) -> None:
    """Scheduled, dead and leased are named; waiting, ended and unknown ids are nowhere."""
    queue.leased("l")
    queue.register("e2")
    queue.die("d")
    queue.enqueue("w")
    queue.enqueue("s", due="+1000")
    before = queue.snapshot()
    found = queue.run(queue.broker.locate(["never", "w", "s", "d", "l"]))
    assert found == [
        (None, ""),
        (record("w"), ""),
        (record("s"), "scheduled"),
        (record("d", status="failed"), "dead"),
        (record("l"), "leased"),
    ]
    assert queue.snapshot() == before


def test_lease_of_any_epoch_counts(queue: BareQueue) -> None:
    """Whoever holds the job, fenced or lapsed, it is leased."""
    queue.leased("a", epoch="e1")
    queue.leased("b", epoch="e2")
    queue.now_ms += 60_000
    assert [where for _, where in queue.run(queue.broker.locate(["a", "b"]))] == ["leased"] * 2


def test_a_hundred_at_once(queue: BareQueue) -> None:
    """The largest call comes back whole and in order."""
    ids = [f"j{number:03}" for number in range(100)]
    queue.enqueue(*ids)
    assert queue.run(queue.broker.locate(ids)) == [(record(job_id), "") for job_id in ids]
