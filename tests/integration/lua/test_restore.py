"""restore: what has a record and is nowhere is put back, unless anything has moved meanwhile."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from bare_queue import BareQueue, record

NORMAL = "queue:normal"


def restore(queue: BareQueue, *jobs: tuple[str, str], seen: dict[str, int] | None = None) -> int:
    """Run one call; returns how many were put back."""
    counters = queue.counters() if seen is None else seen
    done: int = queue.run(queue.broker.restore(NORMAL, jobs, counters))
    return done


def lose(queue: BareQueue, *ids: str) -> None:
    """Enqueue jobs whose ids then vanish from their list."""
    queue.enqueue(*ids)
    queue.client.delete(queue.keys.waiting(NORMAL), queue.keys.wake(NORMAL))


def test_jobs_go_where_their_records_say(queue: BareQueue) -> None:
    """To the front of their list, the schedule, the dead-letter queue; counted and woken for."""
    lose(queue, "w", "s", "d")
    queue.enqueue("new")
    queue.client.delete(queue.keys.places(), queue.keys.wake(NORMAL))
    assert restore(queue, ("w", "w"), ("s", "s1800000123.5"), ("d", "d1700000000")) == 3
    assert queue.waiting() == ["w", "new"]
    assert queue.scheduled() == {"s": 1_800_000_123.5}
    assert queue.dead() == {"d": 1_700_000_000.0}
    assert queue.markers() == 1
    assert queue.counters()["restored"] == 3
    assert queue.drift() == 0


def test_what_is_scheduled_again_rings_once(queue: BareQueue) -> None:
    """A promoter that sleeps until something else is due looks at once; for nothing else."""
    lose(queue, "w", "a", "b", "d")
    with queue.bell() as rang:
        assert restore(queue, ("w", "w"), ("d", "d1700000000")) == 2
        assert rang() == 0
        assert restore(queue, ("a", "s1800000001"), ("b", "s1800000002")) == 2
        assert rang() == 1
        assert queue.again() == -1
        assert rang() == 0


def test_who_may_not_publish_puts_back_all_the_same(own_queue: BareQueue) -> None:
    """Promoters look now and then besides."""
    own_queue.client.set(own_queue.keys.job("a"), record("a"))
    own_queue.client.execute_command("ACL", "SETUSER", "default", "-publish")
    assert restore(own_queue, ("a", "s1800000001")) == 1
    own_queue.client.execute_command("ACL", "SETUSER", "default", "+publish")
    assert set(own_queue.scheduled()) == {"a"}


def test_second_copy_has_no_effect(queue: BareQueue) -> None:
    """It finds a counter moved: by the first one."""
    lose(queue, "a")
    assert restore(queue, ("a", "w")) == 1
    before = queue.snapshot()
    assert queue.again() == -1
    assert queue.snapshot() == before


@pytest.mark.parametrize("change", ["one more", "another", "none left"])
def test_what_has_moved_is_looked_at_again(queue: BareQueue, change: str) -> None:
    """Whoever moved a job since may have put it somewhere: nothing is done."""
    lose(queue, "a")
    seen = queue.counters()
    if change == "one more":
        queue.enqueue("b")
    elif change == "another":
        queue.register()
        queue.enqueue("b")
        seen = queue.counters()
        queue.dequeue()
    else:
        queue.client.delete(queue.keys.counters)
    before = queue.snapshot()
    assert restore(queue, ("a", "w"), seen=seen) == -1
    assert queue.snapshot() == before


def test_what_is_there_is_left_alone(queue: BareQueue) -> None:
    """Neither a scheduled job nor a dead one nor one without a record is put anywhere."""
    queue.die("d")
    queue.enqueue("s", due="+60000")
    before = queue.snapshot()
    assert restore(queue, ("d", "w"), ("s", "w"), ("gone", "w")) == 0
    assert queue.snapshot() == before


def test_a_way_that_is_none_has_no_effect(queue: BareQueue) -> None:
    """A time that no command takes is refused before anything is written."""
    lose(queue, "a", "b")
    before = queue.snapshot()
    with pytest.raises(ResponseError, match="no such way"):
        restore(queue, ("a", "w"), ("b", "ssoon"))
    assert queue.snapshot() == before


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    lose(queue, "a")
    seen = queue.counters()
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: restore(queue, ("a", "w"), seen=seen),
        keys.counters,
        keys.scheduled,
        keys.dead,
        keys.places(),
        keys.waiting(NORMAL),
        keys.wake(NORMAL),
    )


def test_at_maxmemory_jobs_are_put_back(own_queue: BareQueue) -> None:
    """An operator is not shut out by a full server."""
    own_queue.client.set(own_queue.keys.job("a"), record("a"))
    with own_queue.full():
        assert restore(own_queue, ("a", "w")) == 1
    assert own_queue.waiting() == ["a"]
