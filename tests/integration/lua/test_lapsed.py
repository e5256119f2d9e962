"""lapsed: who is past the deadline, the longest first."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from bare_queue import START_MS, BareQueue


def test_only_epochs_past_their_deadline_are_named(queue: BareQueue) -> None:
    """Fenced ones come first, then those lapsed for longest; the living are not named."""
    queue.client.zadd(
        queue.keys.epochs,
        {"alive": START_MS + 1, "just": START_MS, "long": START_MS - 5000, "fenced": 0},
    )
    before = queue.snapshot()
    assert queue.run(queue.broker.lapsed()).epochs == ["fenced", "long", "just"]
    assert queue.again()[0] == START_MS
    assert queue.snapshot() == before


def test_limit_bounds_the_answer(queue: BareQueue) -> None:
    """However many have lapsed, no more than asked for come."""
    queue.client.zadd(queue.keys.epochs, {f"e{number:04}": number for number in range(1500)})
    assert queue.run(queue.broker.lapsed(2)).epochs == ["e0000", "e0001"]
    assert len(queue.run(queue.broker.lapsed(1000)).epochs) == 1000


def test_nobody_registered_is_nobody_lapsed(queue: BareQueue) -> None:
    """An empty queue has no lapsed epochs."""
    assert queue.run(queue.broker.lapsed()).epochs == []


def test_wrong_type_is_an_error(queue: BareQueue) -> None:
    """It is told, not taken for an empty answer."""
    queue.client.set(queue.keys.epochs, "wrong")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        queue.run(queue.broker.lapsed())
