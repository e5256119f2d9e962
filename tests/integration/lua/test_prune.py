"""prune: failed jobs past their retention go, oldest first, in chunks."""

from __future__ import annotations

from bare_queue import BareQueue, record


def prune(queue: BareQueue, retention_s: float = 100, **options: int) -> int:
    """Run one step."""
    return int(queue.run(queue.broker.prune(retention_s, **options)))


def test_only_what_outlived_its_retention_goes(queue: BareQueue) -> None:
    """At exactly the retention a job stays; a millisecond later it and its record are gone."""
    queue.die("a")
    queue.now_ms += 50_000
    queue.die("b")
    queue.now_ms += 50_000
    before = queue.snapshot()
    assert prune(queue) == 0
    assert queue.snapshot() == before
    queue.now_ms += 1
    assert prune(queue) == 1
    assert set(queue.dead()) == {"b"}
    assert (queue.record("a"), queue.record("b")) == (None, record("b", status="failed"))
    assert queue.counters()["purged"] == 1
    assert queue.drift() == 0
    before = queue.snapshot()
    assert prune(queue) == 0
    assert queue.snapshot() == before


def test_chunks_take_the_oldest_first(queue: BareQueue) -> None:
    """The limit bounds a call; the caller goes on while it is reached."""
    for job_id in "abc":
        queue.die(job_id)
        queue.now_ms += 1000
    queue.now_ms += 200_000
    assert prune(queue, limit=2) == 2
    assert set(queue.dead()) == {"c"}
    assert prune(queue, limit=2) == 1
    assert queue.drift() == 0


def test_largest_chunk_is_one_step(queue: BareQueue) -> None:
    """500 jobs go in one call."""
    ids = [f"j{number:03}" for number in range(90)]
    queue.die(*ids)
    queue.client.zadd(queue.keys.dead, {f"x{number:03}": 1 for number in range(410)})
    queue.now_ms += 200_000
    assert prune(queue) == 500
    assert queue.dead() == {}


def test_record_that_expired_before_is_no_matter(queue: BareQueue) -> None:
    """The entry goes and is counted, with or without its record."""
    queue.die("a")
    queue.client.delete(queue.keys.job("a"))
    queue.now_ms += 200_000
    assert prune(queue) == 1
    assert queue.drift() == 0


def test_id_accepted_anew_keeps_its_record(queue: BareQueue) -> None:
    """When a failed record expired and its id was used again, the new job is not harmed."""
    queue.die("a")
    queue.client.delete(queue.keys.job("a"))  # as its TTL does
    assert queue.enqueue("a") == [True]
    queue.now_ms += 200_000
    assert prune(queue) == 1
    assert queue.record("a") == record("a")
    assert queue.dead() == {}
    assert queue.drift() == 0


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Both keys are looked at before the first write."""
    queue.die("a")
    queue.now_ms += 200_000
    queue.refuses_wrong_types(lambda: prune(queue), queue.keys.dead, queue.keys.counters)


def test_at_maxmemory_it_makes_room(own_queue: BareQueue) -> None:
    """Pruning is what a full server needs."""
    own_queue.die("a")
    own_queue.now_ms += 200_000
    with own_queue.full():
        assert prune(own_queue) == 1
    assert own_queue.drift() == 0
