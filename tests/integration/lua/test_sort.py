"""sort: the oldest of a common list move to where they belong, in order, if still the oldest."""

from __future__ import annotations

from bananas.keys import place
from bare_queue import BareQueue, ids_of

NORMAL = "queue:normal"
RESIZE = place("normal", task="resize")
GPU = place("normal", "gpu")


def sort(queue: BareQueue, *jobs: tuple[str, str | None]) -> int:
    """Sort the common list by the decisions given, oldest first."""
    pairs = [(job_id.encode(), where) for job_id, where in jobs]
    return int(queue.run(queue.broker.sort(NORMAL, pairs, sorted_place=NORMAL)))


def test_jobs_move_where_they_belong(queue: BareQueue) -> None:
    """Each destination keeps the order, gets one marker, and is known; the rest stays."""
    queue.enqueue("a", "b", "c", "d", "e")
    queue.client.delete(queue.keys.wake(NORMAL))
    assert sort(queue, ("a", None), ("b", RESIZE), ("c", None), ("d", RESIZE)) == 4
    assert queue.waiting() == ["e"]
    assert queue.looked_through() == ["a", "c"]
    assert queue.waiting(RESIZE) == ["b", "d"]
    assert (queue.markers(NORMAL), queue.markers(RESIZE)) == (1, 1)
    assert queue.client.smembers(queue.keys.places()) == {NORMAL.encode(), RESIZE.encode()}
    assert queue.drift() == 0


def test_sorted_jobs_come_before_newer_ones(queue: BareQueue) -> None:
    """What was looked through is still older than what was not, over several sorts."""
    queue.register()
    queue.enqueue("a", "b", "c", "d")
    sort(queue, ("a", None), ("b", RESIZE))
    sort(queue, ("c", None))
    assert ids_of(queue.dequeue()) == ["a", "c", "d"]


def test_second_copy_has_no_effect(queue: BareQueue) -> None:
    """The ids are no longer there."""
    queue.enqueue("a", "b", "c")
    sort(queue, ("a", None), ("b", RESIZE))
    before = queue.snapshot()
    assert sort(queue, ("a", None), ("b", RESIZE)) == 0
    assert queue.snapshot() == before


def test_ids_taken_meanwhile_are_passed_over(queue: BareQueue) -> None:
    """A worker that took the oldest leaves the decisions about the others good."""
    queue.register()
    queue.enqueue("a", "b", "c", "d")
    queue.dequeue(limit=2)
    assert sort(queue, ("a", RESIZE), ("b", None), ("c", RESIZE)) == 1
    assert queue.waiting() == ["d"]
    assert queue.waiting(RESIZE) == ["c"]
    assert queue.looked_through() == []


def test_ids_given_back_meanwhile_stop_it(queue: BareQueue) -> None:
    """An unknown id in front, or between, is overtaken by none."""
    queue.register()
    queue.enqueue("a", "b")
    token = queue.dequeue(limit=1).request
    decisions = [("b", RESIZE)]
    queue.settle(token, released=[(b"a", NORMAL)])
    before = queue.snapshot()
    assert sort(queue, *decisions) == 0
    assert queue.snapshot() == before
    assert sort(queue, ("a", RESIZE), ("x", RESIZE), ("b", RESIZE)) == 1
    assert queue.waiting() == ["b"]


def test_empty_list_is_no_matter(queue: BareQueue) -> None:
    """Everything was taken: nothing is written."""
    assert sort(queue, ("a", None)) == 0
    assert queue.snapshot() == {}


def test_largest_call_is_one_step(queue: BareQueue) -> None:
    """500 ids over many destinations."""
    ids = [f"j{number:03}" for number in range(500)]
    queue.enqueue(*ids)
    places = [place("normal", task=f"t{number}") for number in range(20)]
    decisions = [(job_id, places[number % 20]) for number, job_id in enumerate(ids)]
    assert sort(queue, *decisions) == 500
    assert queue.waiting(places[3]) == ids[3::20]
    assert queue.drift() == 0


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    queue.enqueue("a", "b")
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: sort(queue, ("a", None), ("b", RESIZE)),
        keys.waiting(NORMAL),
        keys.places(),
        keys.sorted(NORMAL),
        keys.wake(NORMAL),
        keys.waiting(RESIZE),
        keys.wake(RESIZE),
    )


def test_at_maxmemory_lists_are_sorted(own_queue: BareQueue) -> None:
    """A full server's common list does not hold up the workers of one task."""
    queue = own_queue
    queue.enqueue("a", "b")
    with queue.full():
        assert sort(queue, ("a", None), ("b", RESIZE)) == 2
        assert (queue.markers(NORMAL), queue.markers(RESIZE)) == (1, 1)
    assert queue.drift() == 0
