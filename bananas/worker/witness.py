"""Tells who has the loop, when the supervisor asks because some job is past its hard limit.

The question is a signal, which Python heeds between two instructions of the main thread,
also within a handler that blocks the loop. Code in C that never looks up does not answer;
then nobody is named, and all that had begun are suspected.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bananas.context import running_job
from bananas.worker.attempt import Attempt, Bunch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from bananas.table import Slot
    from bananas.worker.loop_lane import LoopLane


class Witness:
    """Writes the culprits into the slot of a process."""

    def __init__(self, slot: Slot, lane: LoopLane) -> None:
        """Look at the runners of a lane."""
        self._slot: Final = slot
        self._lane: Final = lane

    def asked(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's
        """Name the jobs that run at this very moment on the loop; as a signal handler."""
        attempts = self._at_work()
        if attempts:
            self._slot.culprits = [attempt.job_id for attempt in attempts]
            self._slot.named = True

    def _at_work(self) -> Sequence[Attempt]:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # between two steps of the loop
            return ()
        unit = self._lane.unit_of(task)
        if unit is None:
            # a task that a handler has started has the handler's context
            job = running_job.get(None)
            return (job,) if isinstance(job, Attempt) else ()
        return unit.attempts if isinstance(unit, Bunch) else (unit,)
