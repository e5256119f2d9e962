"""The gate before every run: closed while a suspect runs alone or the lease has run out.

A job one death short of being called poison is a suspect. It runs with nothing beside it,
so that the next death is its own and no neighbour is condemned for it. What ended before it is
settled first: its outcome must not die with the process. Long neighbours, and a server that does
not answer, are waited for only so long: then it runs beside them, still the only suspect.
"""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.worker.attempt import Attempt, Unit
    from bananas.worker.lane import Lane

log = logging.getLogger("bananas.worker")

PATIENCE_S: Final = 5.0
"""How long a suspect waits for its neighbours to end and to be settled."""


class Gate:
    """Holds the lanes back and lets suspects through one by one."""

    def __init__(self) -> None:
        """Start open, without lanes."""
        self._lanes: list[Lane] = []
        self._suspects: deque[tuple[Lane, Unit]] = deque()
        self._barred = False
        self._closed = False
        self.held = False
        """Whether nothing may begin but a suspect, for whatever reason."""
        self.is_settled: Callable[[], bool] = _yes
        """Tells whether every outcome so far has reached Redis."""
        self.on_hold: Callable[[], None] = _ignore
        """Told when the lanes are held: what waits in them waits for nobody knows how long."""
        self._alone: Unit | None = None
        self._waits_since_s = 0.0

    def guard(self, *lanes: Lane) -> None:
        """Put lanes behind the gate."""
        self._lanes += lanes

    def suspect(self, lane: Lane, unit: Unit) -> None:
        """Let this unit run in its lane when nothing else does."""
        if not self._suspects:
            self._waits_since_s = monotonic()
        self._suspects.append((lane, unit))
        self.settle()

    def take_suspects(self) -> list[Unit]:
        """Return and forget the suspects that wait."""
        taken = [unit for _, unit in self._suspects]
        self._suspects.clear()
        self.settle()
        return taken

    def take_out(self, attempt: Attempt) -> bool:
        """Take out a suspect that has not begun; False when it is not here."""
        for lane, unit in self._suspects:
            if attempt in unit.attempts:
                self._suspects.remove((lane, unit))
                return True
        return False

    def close(self) -> None:
        """Close for good: the worker leaves."""
        self._closed = True
        self.settle()

    def bar(self, *, barred: bool) -> None:
        """Close for a reason of the worker's: the lease has run out."""
        if barred != self._barred:
            self._barred = barred
            if barred:
                log.warning("the lease has ended by our own clock: nothing begins until it holds")
            else:
                log.info("the lease holds again: jobs begin")
            self.settle()

    def settle(self) -> None:
        """Look again: when a runner rests, when outcomes are settled, and a few times a second."""
        barred = self._barred or self._closed
        wanted = barred or bool(self._suspects)
        idle = not any(lane.busy for lane in self._lanes)
        if wanted and not self.held:
            self.held = True
            for lane in self._lanes:
                lane.hold()
            self.on_hold()
        if self._alone is not None and (idle or _is_over(self._alone)):
            self._alone = None  # a long neighbour may still run: it has waited enough
        patient = monotonic() - self._waits_since_s < PATIENCE_S
        ready = not patient or (idle and self.is_settled())
        if self._suspects and not barred and not self._alone and ready:
            lane, unit = self._suspects.popleft()
            self._alone = unit
            self._waits_since_s = monotonic()
            lane.run_alone(unit)
        elif self.held and not wanted and not self._alone:
            self.held = False
            for lane in self._lanes:
                lane.unhold()


def _ignore() -> None:
    """Do nothing."""


def _yes() -> bool:
    return True


def _is_over(unit: Unit) -> bool:
    return all(attempt.finished for attempt in unit.attempts)
