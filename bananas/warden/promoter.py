"""Moves jobs that have become due to their queues, and wakes workers for foreign pushes.

Any number of promoters may run; each step is one script. It sleeps until the next job is
due, at most one interval, which is also how long a foreign push may wait to be noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bananas.broker import name_of
from bananas.placement import find_places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.broker import Broker

_AT_ONCE: Final = 250
"""Most jobs in one step: 6 us each on a loaded core, and nothing else runs meanwhile."""

_MAX_PLACES: Final = 500
"""Most places looked at in one step, each two LLEN."""


class Promoter:
    """Promotes."""

    def __init__(self, broker: Broker, served: Sequence[str], *, interval_s: float) -> None:
        """Promote every `interval_s`; keep the wake markers of `served` places right."""
        self._broker = broker
        self._own = tuple(served)
        self._served = self._own
        self._interval_s = interval_s
        self.promoted = 0

    async def promote(self) -> float:
        """Move everything that is due; returns how long to wait, seconds.

        Raises:
            BrokerError: Redis did not answer.
        """
        placed: dict[bytes, str] = {}
        while True:
            step = await self._broker.promote(self._served, placed, limit=_AT_ONCE)
            self.promoted += step.moved
            placed = await find_places(self._broker, step.unplaced)
            if step.moved + len(step.unplaced) < _AT_ONCE and not placed:
                break
        if step.wait_ms is None:
            return self._interval_s
        return min(self._interval_s, step.wait_ms / 1000)

    async def learn_places(self) -> None:
        """Keep the markers of every place right that was ever used, beside our own.

        Raises:
            BrokerError: Redis did not answer; the places stay as they were.
        """
        keys = self._broker.keys
        found = await self._broker.transport.command(
            "SRANDMEMBER", keys.places(), _MAX_PLACES, repeat=True
        )
        self._served = tuple(dict.fromkeys((*self._own, *map(name_of, found))))
