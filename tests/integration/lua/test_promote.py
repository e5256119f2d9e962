"""promote: what is due moves to its queue in order; what waits unmarked is woken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bananas.keys import place
from bare_queue import START_MS, BareQueue, record

if TYPE_CHECKING:
    from bananas.broker import Promotion

HIGH, NORMAL = "queue:high", "queue:normal"
GPU = place("high", "gpu")


def promote(queue: BareQueue, *served: str, **options: object) -> Promotion:
    """Run one step."""
    step: Promotion = queue.run(queue.broker.promote(served, **options))
    return step


def test_due_jobs_move_in_the_order_of_their_time(queue: BareQueue) -> None:
    """Behind what waits already, earliest first, each to its place, with one marker there."""
    queue.enqueue("x")
    queue.enqueue("b", due="+2000")
    queue.enqueue("a", due="+1000")
    queue.enqueue("c", due="+2500", place=GPU)
    queue.enqueue("d", due="+9000")
    for where in (NORMAL, GPU):
        queue.client.delete(queue.keys.wake(where))
    queue.now_ms += 2500
    step = promote(queue)
    assert (step.now_ms, step.wait_ms, step.moved, step.unplaced) == (START_MS + 2500, 6500, 3, [])
    assert queue.waiting() == ["x", "a", "b"]
    assert queue.waiting(GPU) == ["c"]
    assert (queue.markers(), queue.markers(GPU)) == (1, 1)
    assert set(queue.scheduled()) == {"d"}
    assert queue.counters()["promoted"] == 3
    assert queue.drift() == 0


def test_not_a_millisecond_early(queue: BareQueue) -> None:
    """A job due in one millisecond stays, and the answer says to come back in one."""
    queue.enqueue("a", due="+1000")
    queue.now_ms += 999
    before = queue.snapshot()
    assert promote(queue).wait_ms == 1
    assert queue.snapshot() == before
    queue.now_ms += 1
    assert promote(queue).moved == 1


def test_fraction_of_a_millisecond_is_waited_for(queue: BareQueue) -> None:
    """The wait is rounded up: nobody polls in vain."""
    queue.enqueue("a", due=f"{START_MS / 1000 + 0.0015:.6f}")
    assert promote(queue).wait_ms == 2


def test_nothing_scheduled_has_no_next_time(queue: BareQueue) -> None:
    """The caller is told so, and nothing is written."""
    before = queue.snapshot()
    step = promote(queue, NORMAL)
    assert (step.wait_ms, step.moved) == (None, 0)
    assert queue.snapshot() == before


def test_second_copy_has_no_effect(queue: BareQueue) -> None:
    """Two schedulers at once move each job once."""
    queue.enqueue("a", due="+0")
    assert promote(queue).moved == 1
    before = queue.snapshot()
    assert promote(queue).moved == 0
    assert queue.snapshot() == before


def test_many_due_at_one_instant_move_in_chunks(queue: BareQueue) -> None:
    """A herd is moved by the limit a call, each job once; the wait is zero until it is through."""
    ids = [f"j{number:03}" for number in range(500)]
    queue.enqueue(*ids, due="+10")
    queue.now_ms += 10
    steps = [promote(queue, limit=200) for _ in range(4)]
    assert [step.moved for step in steps] == [200, 200, 100, 0]
    assert [step.wait_ms for step in steps] == [0, 0, None, None]
    assert queue.waiting() == ids
    assert queue.drift() == 0


def test_place_first_used_here_is_known(queue: BareQueue) -> None:
    """A list that only scheduled jobs have ever used is in the audit."""
    queue.enqueue("a", due="+0", place=GPU)
    promote(queue)
    audit = queue.run(queue.broker.audit())
    assert [(waiting.place, waiting.count) for waiting in audit.places] == [(GPU, 1)]


@pytest.mark.parametrize("data", [record("f", None), b'{"list":"mailing"}', b"not JSON", None])
def test_job_without_a_place_stays_until_its_place_is_named(
    queue: BareQueue, data: bytes | None
) -> None:
    """Foreign, broken and missing records are reported, block nobody, and go where it is said."""
    if data is not None:
        queue.client.set(queue.keys.job("f"), data)
    queue.client.zadd(queue.keys.scheduled, {"f": START_MS / 1000 - 5})
    queue.enqueue("a", due="+0")
    step = promote(queue)
    assert (step.moved, step.unplaced, step.wait_ms) == (1, [b"f"], 0)
    assert set(queue.scheduled()) == {"f"}
    step = promote(queue, placed={b"f": GPU})
    assert (step.moved, step.unplaced) == (1, [])
    assert queue.waiting(GPU) == ["f"]
    assert queue.drift() == 1  # the foreign one


def test_record_of_another_type_blocks_nobody(queue: BareQueue) -> None:
    """A key of another type under a record's name is an unplaced job, not an error."""
    queue.client.rpush(queue.keys.job("f"), "wrong")
    queue.client.zadd(queue.keys.scheduled, {"f": 1})
    queue.enqueue("a", due="+0")
    assert promote(queue).unplaced == [b"f"]
    assert queue.waiting() == ["a"]


def test_chunk_full_of_unplaced_jobs_goes_on_when_they_are_named(queue: BareQueue) -> None:
    """They hold up what is due after them only until the next call."""
    queue.client.zadd(queue.keys.scheduled, {f"f{number}": number for number in range(3)})
    queue.enqueue("a", due="+0")
    step = promote(queue, limit=2)
    assert (step.moved, step.unplaced) == (0, [b"f0", b"f1"])
    step = promote(queue, limit=2, placed=dict.fromkeys(step.unplaced, NORMAL))
    assert (step.moved, step.unplaced) == (2, [])


def test_foreign_pushes_are_woken_for(queue: BareQueue) -> None:
    """A served place that waits without a marker gets one; marked and empty ones get none."""
    queue.push_foreign("f", NORMAL)
    queue.enqueue("a", place=HIGH)
    assert promote(queue, HIGH, NORMAL, GPU).woken == 1
    assert [queue.markers(where) for where in (HIGH, NORMAL, GPU)] == [1, 1, 0]
    before = queue.snapshot()
    assert promote(queue, HIGH, NORMAL, GPU).woken == 0
    assert queue.snapshot() == before


def test_served_place_that_receives_gets_one_marker(queue: BareQueue) -> None:
    """A job moved to a place that also waits unmarked leaves one marker, not two."""
    queue.push_foreign("f")
    queue.enqueue("a", due="+0")
    promote(queue, NORMAL)
    assert queue.waiting() == ["f", "a"]
    assert queue.markers() == 1


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    queue.enqueue("a", due="+0")
    queue.push_foreign("f", HIGH)
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: promote(queue, HIGH),
        keys.scheduled,
        keys.counters,
        keys.places(),
        keys.waiting(NORMAL),
        keys.wake(NORMAL),
        keys.waiting(HIGH),
        keys.wake(HIGH),
    )


def test_at_maxmemory_due_jobs_move(own_queue: BareQueue) -> None:
    """A full server works its schedule off, and wakes for foreign pushes."""
    queue = own_queue
    queue.register(places=(HIGH,))
    queue.enqueue("a", due="+0")
    queue.push_foreign("f", HIGH)
    queue.client.script_flush()
    with queue.full():
        assert promote(queue).moved == 1
        assert queue.waiting() == ["a"]
        assert queue.markers() == 1
        assert promote(queue, HIGH).moved == 0
        assert queue.markers(HIGH) == 1
    assert queue.drift() == 1  # the foreign one
