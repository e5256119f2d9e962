"""Counters that were overwritten by hand: every transition is made whole all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bare_queue import START_MS, BareQueue, ids_of, record

if TYPE_CHECKING:
    from collections.abc import Callable

LEASE = "lease"
NAMES = (
    *("accepted", "leased", "completed", "failed", "retried", "snoozed", "released", "cancelled"),
    *("promoted", "reclaimed", "reconciled", "restored", "revived", "purged", "expired"),
)


def enqueue(queue: BareQueue) -> Any:  # noqa: ANN401 - what a script answers
    """Accept jobs, and answer the repeat of the call alike."""
    return queue.enqueue("a", "b"), queue.again()


def dequeue(queue: BareQueue) -> Any:  # noqa: ANN401
    """Lease, with a rest to wake somebody for."""
    batch = queue.dequeue(limit=1, request="next")
    return ids_of(batch)


def settle(queue: BareQueue) -> Any:  # noqa: ANN401
    """End one job, and let one fail."""
    failed = [(b"l2", record("l2", status="failed"))]
    return queue.settle(LEASE, dropped=[b"l1"], failed=failed)


def promote(queue: BareQueue) -> Any:  # noqa: ANN401
    """Move what is due."""
    queue.now_ms += 10_000
    return queue.run(queue.broker.promote())


def reclaim(queue: BareQueue) -> Any:  # noqa: ANN401
    """Give back what a dead process held, and charge it."""
    return queue.run(queue.broker.reclaim("e1", proven=True, charged=[b"l1", b"l2"]))


def cancel(queue: BareQueue) -> Any:  # noqa: ANN401
    """Cancel what waits."""
    return queue.run(queue.broker.cancel("w1", record("w1"), b"gone", ttl_s=9, foreign=True))


STEPS: list[Callable[[BareQueue], Any]] = [enqueue, dequeue, settle, promote, reclaim, cancel]


def built(queue: BareQueue) -> None:
    """Put jobs in every state."""
    queue.clear()
    queue.now_ms = START_MS
    queue.register()
    queue.enqueue("l1", "l2")
    queue.dequeue(request=LEASE)
    queue.enqueue("w1", "w2")
    queue.enqueue("s", due="+1000")


def left(queue: BareQueue) -> dict[str, Any]:
    """Return all that is there but the numbers; requests are named anew each time."""
    return {
        name: content
        for name, (_, content, _) in queue.snapshot().items()
        if not name.startswith("request:") and name not in ("counters", "crashes")
    }


@pytest.mark.parametrize("odd", ["x", "1.5", "", str(2**63 - 1)])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_no_counter_ends_a_script_half_way(
    queue: BareQueue, step: Callable[[BareQueue], Any], odd: str
) -> None:
    """The answer, and all that is left, is what it is with counters as they should be."""
    built(queue)
    answer = step(queue)
    expected = left(queue)
    built(queue)
    queue.client.hset(queue.keys.counters, mapping=dict.fromkeys(NAMES, odd))
    queue.client.hset(queue.keys.crashes, mapping={"l1": odd, "l2": odd})
    assert step(queue) == answer
    assert left(queue) == expected
    assert queue.run(queue.broker.audit()).counters.keys() >= set(NAMES)
