"""Moves jobs that have become due to their queues, and wakes workers for foreign pushes.

Any number of promoters may run; each step is one script. It sleeps until the next job is
due; whoever schedules an earlier one rings (`bell`). Foreign producers do not, so it also
looks when a pause is over: it is as long as nothing was found, between an interval and `REST_S`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bananas.broker import name_of
from bananas.clock import SYSTEM_CLOCK
from bananas.placement import find_places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.broker import Broker
    from bananas.clock import Clock

_AT_ONCE: Final = 250
"""Most jobs in one step: 6 us each on a loaded core, and nothing else runs meanwhile."""

REST_S: Final = 0.5
"""Longest pause: five commands a second are what an idle process may ask, all rhythms together."""

_MAX_PLACES: Final = 500
"""Most places looked at in one step, each two LLEN."""


class Promoter:
    """Promotes."""

    def __init__(
        self,
        broker: Broker,
        served: Sequence[str],
        *,
        interval_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Look at least after `interval_s` or `REST_S`; mark `served` places that wait unmarked."""
        self._broker = broker
        self._own = tuple(served)
        self._served = self._own
        self._interval_s = interval_s
        self._clock = clock
        self._found_at_s = clock.mono_s()
        self.promoted = 0
        self.bell = broker.keys.scheduled
        """The channel that has a message when the next job is due earlier than was said."""

    async def promote(self) -> float:
        """Move everything that is due; returns how long to wait, seconds.

        Raises:
            BrokerError: Redis did not answer.
        """
        placed: dict[bytes, str] = {}
        found = False
        while True:
            step = await self._broker.promote(self._served, placed, limit=_AT_ONCE)
            self.promoted += step.moved
            found = found or step.moved + step.woken > 0
            placed = await find_places(self._broker, step.unplaced)
            if step.moved + len(step.unplaced) < _AT_ONCE and not placed:
                break
        # what comes next waits no longer than it was quiet before, however often we looked
        now_s = self._clock.mono_s()
        if found:
            self._found_at_s = now_s
        pause_s = max(self._interval_s, min(now_s - self._found_at_s, REST_S))
        return pause_s if step.wait_ms is None else min(pause_s, step.wait_ms / 1000)

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
