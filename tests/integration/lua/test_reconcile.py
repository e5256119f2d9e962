"""reconcile: what the server holds for a process that knows nothing of it goes back."""

from __future__ import annotations

from bananas.broker import GiveBack
from bare_queue import BareQueue, ids_of

NORMAL = "queue:normal"


def reconcile(queue: BareQueue, *known: str, epoch: str = "e1", **options: object) -> GiveBack:
    """Run one step for a process that knows of these requests."""
    unknown = sorted(queue.tokens(epoch) - {*known})
    step: GiveBack = queue.run(queue.broker.reconcile(epoch, unknown, **options))
    return step


def test_lost_batch_goes_back_to_the_front(queue: BareQueue) -> None:
    """A lease whose answer was lost is given up; known ones are untouched; then it is done."""
    queue.register()
    queue.enqueue("a", "b", "c", "d")
    lost = queue.dequeue(limit=2).request
    known = queue.dequeue(limit=1).request
    queue.client.delete(queue.keys.wake(NORMAL))
    assert reconcile(queue, known) == GiveBack("more", 2, [])
    assert queue.waiting() == ["a", "b", "d"]
    assert queue.markers() == 1
    assert queue.lease(known) == {"c"}
    assert queue.tokens() == {known}
    assert queue.counters()["reconciled"] == 2
    before = queue.snapshot()
    assert reconcile(queue, known) == GiveBack("done", 0, [])
    assert queue.snapshot() == before
    assert queue.settle(lost, dropped=[b"a"]) == ["a"]
    assert queue.drift() == 0


def test_request_still_awaited_is_known(queue: BareQueue) -> None:
    """A dequeue in flight is named as known: its batch is not taken away before it comes."""
    queue.register()
    queue.enqueue("a")
    request = queue.request()
    assert reconcile(queue, request) == GiveBack("done", 0, [])
    queue.dequeue(request=request)
    assert reconcile(queue, request) == GiveBack("done", 0, [])
    assert queue.lease(request) == {"a"}


def test_late_call_takes_nothing_leased_meanwhile(queue: BareQueue) -> None:
    """A call that the server gets to see behind a newer dequeue gives up only what it names."""
    queue.register()
    queue.enqueue("a", "b")
    lost = queue.dequeue(limit=1).request
    newer = queue.dequeue(limit=1).request
    step = queue.run(queue.broker.reconcile("e1", [lost]))
    assert step == GiveBack("more", 1, [])
    assert queue.lease(newer) == {"b"}
    assert queue.run(queue.broker.reconcile("e1", [lost, "never"])) == GiveBack("done", 0, [])


def test_delayed_copy_of_the_lost_dequeue_gives_nothing(queue: BareQueue) -> None:
    """Once its jobs went back, the request is remembered and leases no others."""
    queue.register()
    queue.enqueue("a")
    queue.dequeue(request="lost")
    reconcile(queue)
    assert ids_of(queue.dequeue(request="lost")) == []
    assert queue.waiting() == ["a"]


def test_other_epochs_are_untouched(queue: BareQueue) -> None:
    """Only the asking epoch's leases are compared."""
    token = queue.leased("a", epoch="e2")
    queue.register("e1")
    assert reconcile(queue) == GiveBack("done", 0, [])
    assert queue.lease(token) == {"a"}


def test_fenced_or_unknown_epoch_is_told(queue: BareQueue) -> None:
    """Its jobs are the reclaimer's; nothing is moved here."""
    queue.leased("a", "b")
    queue.run(queue.broker.reclaim("e1", proven=True, limit=1))
    before = queue.snapshot()
    assert reconcile(queue) == GiveBack("fenced", 0, [])
    assert reconcile(queue, epoch="never") == GiveBack("fenced", 0, [])
    assert queue.snapshot() == before


def test_chunks_are_bounded(queue: BareQueue) -> None:
    """Each step moves its limit, until nothing unknown is left."""
    queue.leased("a", "b", "c", "d", "e")
    moved = [reconcile(queue, limit=2).moved for _ in range(4)]
    assert moved == [2, 2, 1, 0]
    assert sorted(queue.waiting()) == ["a", "b", "c", "d", "e"]


def test_job_without_a_place_stays_until_its_place_is_named(queue: BareQueue) -> None:
    """A foreign job is reported, stays leased, and goes where the caller says."""
    queue.register()
    queue.push_foreign("f")
    queue.enqueue("a")
    token = queue.dequeue().request
    assert reconcile(queue) == GiveBack("more", 1, [b"f"])
    assert queue.lease(token) == {"f"}
    assert reconcile(queue, placed={b"f": NORMAL}) == GiveBack("more", 1, [])
    assert reconcile(queue) == GiveBack("done", 0, [])
    assert queue.waiting() == ["f", "a"]


def test_wrong_type_has_no_effect(queue: BareQueue) -> None:
    """Every key is looked at before the first write."""
    token = queue.leased("a")
    keys = queue.keys
    queue.refuses_wrong_types(
        lambda: reconcile(queue),
        keys.epochs,
        keys.epoch_leases("e1"),
        keys.lease(token),
        keys.counters,
        keys.places(),
        keys.waiting(NORMAL),
        keys.wake(NORMAL),
    )


def test_at_maxmemory_lost_jobs_come_back(own_queue: BareQueue) -> None:
    """A full server gives up what nobody knows of."""
    queue = own_queue
    queue.leased("a", "b")
    queue.client.delete(queue.keys.wake(NORMAL))
    queue.client.script_flush()
    with queue.full():
        assert reconcile(queue) == GiveBack("more", 2, [])
        assert queue.waiting() == ["a", "b"]
        assert queue.markers() == 1
    assert queue.drift() == 0
