"""What both lanes share: units that wait, a gate before them, and a note of each begin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from bananas.codec import decode_payload
from bananas.errors import DecodeError
from bananas.worker.buffer import Buffer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bananas.worker.attempt import Attempt, Unit
    from bananas.worker.begun import BegunBoard
    from bananas.worker.gate import Gate
    from bananas.worker.outcomes import Outcomes

SAMPLE_MASK: Final = 15
"""A run is timed when its number has none of these bits: one of 16, as timing costs time."""


def unheard(*_said: object) -> None:
    """Do nothing: nobody has asked to be told."""


class Lane(ABC):
    """Runners, and the units that wait for them."""

    def __init__(
        self, outcomes: Outcomes, board: BegunBoard, gate: Gate, *, hard_grace_s: float
    ) -> None:
        """Hold nothing yet."""
        self.waiting: Final = Buffer()
        """What has not begun; call `nudge` after the last unit of a batch is put there."""
        self.busy = 0
        """Runners that have not come to rest."""
        self.started = 0
        """Jobs begun so far."""
        self.bunched = 0
        """Those of them that were items of bunches."""
        self.lease_until_s = float("inf")
        """Monotonic time after which nothing may be begun (I5); the worker moves it."""
        self.on_rest: Callable[[], None] = unheard
        """Told when runners have come to rest: there is room again."""
        self._outcomes = outcomes
        self._board = board
        self._run_time = board.slot.run_time
        self._gate = gate
        self._hard_grace_s = hard_grace_s
        self._held = False

    @property
    @abstractmethod
    def runners(self) -> int:
        """How many units run at a time."""

    @abstractmethod
    def nudge(self) -> None:
        """Let runners at what waits."""

    @abstractmethod
    def run_alone(self, unit: Unit) -> None:
        """Run this unit although held."""

    def hold(self) -> None:
        """Start nothing more."""
        self._held = True

    def unhold(self) -> None:
        """Go on with what waits."""
        self._held = False
        self.nudge()

    def _begin(self, entry: int, attempt: Attempt, now_s: float) -> dict[str, Any] | Exception:
        """Note that a job begins and return its payload, or why that cannot be its handler's."""
        try:
            payload: dict[str, Any] = decode_payload(attempt.job.payload_json)
        except DecodeError as error:
            return error
        if type(payload) is not dict:
            return TypeError(f"the payload must be an object, not {type(payload).__name__}")
        hard_ns = int((now_s + attempt.soft_limit_s + self._hard_grace_s) * 1e9)
        self._board.begin(entry, attempt.job_id, hard_ns)
        self.started += 1
        return payload

    def _begin_all(self, attempts: Sequence[Attempt], limit_s: float, now_s: float) -> list[int]:
        """Note that the items of a bunch begin and return their entries."""
        count = len(attempts)  # apart: within the sum another thread could have its turn
        self.started += count
        self.bunched += count
        return self._board.begin_all(attempts, int((now_s + limit_s + self._hard_grace_s) * 1e9))
