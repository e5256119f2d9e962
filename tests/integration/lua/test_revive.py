"""revive: failed jobs run again at an operator's word, each once."""

from __future__ import annotations

from bananas.broker import MEMORY_MS
from bananas.keys import place
from bare_queue import BareQueue, ids_of, record

NORMAL = "queue:normal"
GPU = place("high", "gpu")


def revive(queue: BareQueue, *ids: str, where: str = NORMAL) -> list[str]:
    """Run one call; returns the ids that were not dead."""
    jobs = [(job_id, record(job_id, where, again=True)) for job_id in ids]
    missing: list[str] = queue.run(queue.broker.revive(where, jobs))
    return missing


def test_jobs_wait_again_with_new_records(queue: BareQueue) -> None:
    """In the order named, behind what waits, woken for, without a TTL, and counted."""
    queue.die("a", "b", "c")
    queue.enqueue("x")
    queue.client.delete(queue.keys.wake(NORMAL))
    assert revive(queue, "b", "a") == []
    assert queue.waiting() == ["x", "b", "a"]
    assert queue.markers() == 1
    assert set(queue.dead()) == {"c"}
    assert queue.record("a") == record("a", again=True)
    assert queue.ttl_s(queue.keys.job("a")) == -1
    assert queue.counters()["revived"] == 2
    assert queue.drift() == 0


def test_answer_is_remembered_for_a_minute(queue: BareQueue) -> None:
    """The memory is longer than any client's retry window, and ends."""
    queue.die("a")
    revive(queue, "a")
    left_ms = queue.client.pttl(queue.last.keys[5])
    assert MEMORY_MS - 5000 < left_ms <= MEMORY_MS


def test_second_copy_has_no_effect(queue: BareQueue) -> None:
    """It gets the first one's answer, also when the job was leased meanwhile, or failed again."""
    queue.die("a")
    revive(queue, "never", "a")
    copy = queue.last
    before = queue.snapshot()
    assert queue.again(copy) == [1]
    assert queue.snapshot() == before
    queue.register()
    batch = queue.dequeue()
    assert ids_of(batch) == ["a"]
    before = queue.snapshot()
    assert queue.again(copy) == [1]
    assert queue.snapshot() == before
    assert queue.settle(batch.request, failed=[(b"a", record("a", status="failed"))]) == []
    before = queue.snapshot()
    assert queue.again(copy) == [1]
    assert queue.snapshot() == before


def test_copy_of_a_call_that_did_nothing_does_nothing(queue: BareQueue) -> None:
    """Its caller was told that the job had not failed: a late copy must not make it untrue."""
    assert revive(queue, "a") == ["a"]
    copy = queue.last
    queue.die("a")
    before = queue.snapshot()
    assert queue.again(copy) == [1]
    assert queue.snapshot() == before


def test_second_call_finds_nothing_to_do(queue: BareQueue) -> None:
    """A job that waits again is not revived twice."""
    queue.die("a")
    revive(queue, "a")
    before = queue.snapshot()
    assert revive(queue, "a") == ["a"]
    assert queue.snapshot() == before


def test_jobs_that_did_not_fail_are_named_and_left_alone(queue: BareQueue) -> None:
    """Of a mixed call the dead ones run again, the others are told."""
    queue.die("a")
    queue.enqueue("w")
    assert revive(queue, "w", "a", "never") == ["w", "never"]
    assert queue.waiting() == ["w", "a"]
    assert queue.record("w") == record("w")
    assert queue.record("never") is None
    assert queue.drift() == 0


def test_id_named_twice_runs_once(queue: BareQueue) -> None:
    """A careless list makes no second job."""
    queue.die("a")
    assert revive(queue, "a", "a") == ["a"]
    assert queue.waiting() == ["a"]
    assert queue.drift() == 0


def test_id_accepted_anew_is_left_alone(queue: BareQueue) -> None:
    """When a failed record expired and its id was used again, the new job is not run twice."""
    queue.die("a")
    queue.client.delete(queue.keys.job("a"))  # as its TTL does
    queue.enqueue("a")
    before = queue.snapshot()
    assert revive(queue, "a") == ["a"]
    assert queue.snapshot() == before


def test_expired_record_is_made_anew(queue: BareQueue) -> None:
    """A dead job whose record expired can be revived by a caller that still has it."""
    queue.die("a")
    queue.client.delete(queue.keys.job("a"))
    assert revive(queue, "a") == []
    assert queue.record("a") == record("a", again=True)


def test_place_first_used_here_is_known(queue: BareQueue) -> None:
    """A job sent to another place than before is in the audit."""
    queue.die("a")
    revive(queue, "a", where=GPU)
    assert queue.waiting(GPU) == ["a"]
    assert queue.drift() == 0


def test_largest_call_is_one_step(queue: BareQueue) -> None:
    """500 jobs in one call, in order."""
    ids = [f"j{number:03}" for number in range(500)]
    queue.client.zadd(queue.keys.dead, dict.fromkeys(ids, 1))
    assert revive(queue, *ids) == []
    assert queue.waiting() == ids


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    queue.die("a")
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: revive(queue, "a"),
        keys.dead,
        keys.counters,
        keys.places(),
        keys.waiting(NORMAL),
        keys.wake(NORMAL),
    )


def test_at_maxmemory_jobs_are_revived(own_queue: BareQueue) -> None:
    """An operator is not shut out by a full server."""
    own_queue.die("a")
    own_queue.client.delete(own_queue.keys.wake(NORMAL))
    with own_queue.full():
        assert revive(own_queue, "a") == []
        assert own_queue.waiting() == ["a"]
        assert own_queue.markers() == 1
    assert own_queue.drift() == 0
