"""audit: where every job is and what the counters say, of one instant."""

from __future__ import annotations

import pytest

from bananas.broker import Audit, Waiting
from bare_queue import BareQueue, record

HIGH, NORMAL = "queue:high", "queue:normal"


def test_every_job_is_counted_where_it_is(queue: BareQueue) -> None:
    """Waiting in both lists, scheduled, leased under two epochs, dead, cancelled: no drift."""
    queue.leased("l1", "l2", epoch="e1")
    queue.leased("m", epoch="e2")
    queue.die("d")
    queue.enqueue("w1", "w2", "w3")
    queue.enqueue("h", place=HIGH)
    queue.enqueue("s", due="+1000")
    queue.run(queue.broker.sort(NORMAL, [(b"w1", None)], sorted_place=NORMAL))
    queue.run(queue.broker.cancel("w2", record("w2"), b"gone", ttl_s=9, foreign=False))
    before = queue.snapshot()
    audit = queue.run(queue.broker.audit())
    assert queue.snapshot() == before
    audit.places.sort(key=lambda waiting: waiting.place)
    assert audit == Audit(
        scheduled=1,
        dead=1,
        leased=3,
        cancelled_waiting=1,
        waiting=4,
        places=[Waiting(HIGH, 1), Waiting(NORMAL, 3)],
        counters={"accepted": 9, "cancelled": 1, "failed": 1, "leased": 4},
    )
    assert audit.drift == 0


def test_empty_queue_is_even(queue: BareQueue) -> None:
    """Nothing is nothing."""
    assert queue.run(queue.broker.audit()) == Audit(0, 0, 0, 0, 0, [], {})
    assert queue.drift() == 0


@pytest.mark.parametrize("lost", ["waiting", "scheduled", "leased", "dead"])
def test_lost_job_is_found(queue: BareQueue, lost: str) -> None:
    """A job that vanishes from any place by other hands is a drift of one."""
    token = queue.leased("l")
    queue.die("d")
    queue.enqueue("w")
    queue.enqueue("s", due="+1000")
    assert queue.drift() == 0
    keys = queue.keys
    gone = {
        "waiting": keys.waiting(NORMAL),
        "scheduled": keys.scheduled,
        "leased": keys.lease(token),
        "dead": keys.dead,
    }
    queue.client.delete(gone[lost])
    assert queue.drift() == -1


def test_job_in_two_places_is_found(queue: BareQueue) -> None:
    """A second copy of an id is a drift of one."""
    queue.enqueue("w")
    queue.client.lpush(queue.keys.waiting(NORMAL), "w")
    assert queue.drift() == 1
