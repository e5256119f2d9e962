"""vacate: places where nothing waits are forgotten, and come back with the next job."""

from __future__ import annotations

import pytest

from bananas.keys import place
from bare_queue import NORMAL, BareQueue, texts

ACME = place("normal", "acme")
BRAVO = place("low", "bravo", "resize")


def vacate(queue: BareQueue, *places: str, knows: tuple[str, ...] = ("e1",)) -> int:
    """Forget places, knowing of some workers."""
    epochs = [epoch.encode() for epoch in knows]
    return int(queue.run(queue.broker.vacate(places, epochs)))


def places(queue: BareQueue) -> set[str]:
    """Return the places that are known."""
    return set(texts(queue.client.smembers(queue.keys.places())))


@pytest.fixture
def used(queue: BareQueue) -> BareQueue:
    """Return a queue whose places of two customers were used up."""
    queue.register()
    for where, job_id in ((ACME, "a"), (BRAVO, "b")):
        queue.enqueue(job_id, place=where)
        queue.settle(queue.dequeue(where).request, dropped=[job_id.encode()])
    return queue


def test_empty_places_go_with_their_markers(used: BareQueue) -> None:
    """Nothing of them is left, and the other places stay."""
    used.client.lpush(used.keys.wake(ACME), "1")
    assert vacate(used, ACME, BRAVO) == 2
    assert places(used) == {NORMAL}
    assert used.markers(ACME) == 0
    assert used.drift() == 0


@pytest.mark.parametrize("sorted_through", [True, False])
def test_a_place_with_jobs_stays(used: BareQueue, sorted_through: bool) -> None:
    """Whichever of its two lists they are in, and the marker with it."""
    used.enqueue("c", place=ACME)
    if sorted_through:
        used.run(used.broker.sort(ACME, [(b"c", None)], sorted_place=ACME))
    assert vacate(used, ACME, BRAVO) == 1
    assert places(used) == {NORMAL, ACME}
    assert used.markers(ACME) == 1
    assert used.drift() == 0


def test_a_place_that_was_forgotten_comes_back_with_a_job(used: BareQueue) -> None:
    """An enqueue adds it; so does every other way in: the audit misses nothing."""
    vacate(used, ACME, BRAVO)
    used.enqueue("c", place=ACME)
    assert ACME in places(used)
    token = used.dequeue(ACME).request
    vacate(used, ACME)
    used.settle(token, released=[(b"c", ACME)])
    assert ACME in places(used)
    used.dequeue(ACME)
    vacate(used, ACME)
    used.run(used.broker.reclaim("e1", proven=True))
    assert ACME in places(used)
    assert used.drift() == 0


def test_a_worker_that_came_meanwhile_stops_it(used: BareQueue) -> None:
    """It may serve one of them, and foreign pushes there must be seen."""
    used.register("e2", places=[ACME])
    before = used.snapshot()
    assert vacate(used, ACME, BRAVO) == -1
    assert used.snapshot() == before
    assert vacate(used, BRAVO, knows=("e1", "e2", "gone")) == 1


def test_a_second_copy_has_no_effect(used: BareQueue) -> None:
    """Nor has a call for places that are not known."""
    vacate(used, ACME)
    before = used.snapshot()
    used.again()
    assert vacate(used, place("high", "never")) == 0
    assert used.snapshot() == before


def test_wrong_type_has_no_effect(used: BareQueue) -> None:
    """Every key is looked at before the first write."""
    keys = used.keys
    used.refuses_wrong_types(
        lambda: vacate(used, ACME), keys.places(), keys.workers, *keys.served(ACME)
    )


def test_at_maxmemory_places_are_forgotten(own_queue: BareQueue) -> None:
    """It only removes."""
    own_queue.register()
    own_queue.enqueue("a", place=ACME)
    own_queue.settle(own_queue.dequeue(ACME).request, dropped=[b"a"])
    with own_queue.full():
        assert vacate(own_queue, ACME) == 1
