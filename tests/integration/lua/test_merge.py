"""merge: a list that nobody serves any more goes to the front of another, its order kept."""

from __future__ import annotations

import pytest

from bananas.keys import place
from bare_queue import BareQueue, ids_of

NORMAL = "queue:normal"
RESIZE = place("normal", task="resize")


def merge(queue: BareQueue, **options: int) -> int:
    """Merge the list of `resize` into the common one, one step."""
    return int(queue.run(queue.broker.merge(queue.keys.waiting(RESIZE), NORMAL, **options)))


def test_jobs_come_before_those_that_wait(queue: BareQueue) -> None:
    """The list is gone, its jobs are next, woken for."""
    queue.enqueue("x", "y")
    queue.enqueue("a", "b", "c", place=RESIZE)
    queue.client.delete(queue.keys.wake(NORMAL))
    assert merge(queue) == 3
    assert queue.waiting() == ["a", "b", "c", "x", "y"]
    assert queue.waiting(RESIZE) == []
    assert queue.markers() == 1
    assert queue.drift() == 0


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 1000])
def test_chunks_keep_the_order(queue: BareQueue, limit: int) -> None:
    """However many calls it takes, the oldest is first in the end."""
    queue.register()
    queue.enqueue("x")
    queue.enqueue("a", "b", "c", "d", "e", place=RESIZE)
    moved = []
    while (step := merge(queue, limit=limit)) == limit:
        moved.append(step)
    assert (len(moved), step) == divmod(5, limit)
    assert ids_of(queue.dequeue()) == ["a", "b", "c", "d", "e", "x"]


def test_nothing_to_move_writes_nothing(queue: BareQueue) -> None:
    """A second copy of the last call has no effect."""
    queue.enqueue("a", place=RESIZE)
    merge(queue)
    before = queue.snapshot()
    assert merge(queue) == 0
    assert queue.snapshot() == before


def test_place_first_used_here_is_known(queue: BareQueue) -> None:
    """The list that takes over is in the audit, even if nothing was ever put there before."""
    queue.enqueue("a", place=RESIZE)
    merge(queue)
    assert queue.drift() == 0


def test_largest_chunk_is_one_step(queue: BareQueue) -> None:
    """A thousand ids in one call."""
    ids = [f"j{number:04}" for number in range(1000)]
    queue.client.lpush(queue.keys.waiting(RESIZE), *ids)
    assert merge(queue, limit=1000) == 1000
    assert queue.waiting() == ids


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    queue.enqueue("a", place=RESIZE)
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: merge(queue),
        keys.waiting(RESIZE),
        keys.waiting(NORMAL),
        keys.wake(NORMAL),
        keys.places(),
    )


def test_at_maxmemory_lists_are_merged(own_queue: BareQueue) -> None:
    """On a full server nothing is stuck behind a worker that left."""
    own_queue.enqueue("a", place=RESIZE)
    with own_queue.full():
        assert merge(own_queue) == 1
        assert own_queue.markers() == 1
    assert own_queue.drift() == 0
