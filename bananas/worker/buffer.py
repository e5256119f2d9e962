"""Units that were fetched and not begun, in strict order of priority, first in first out."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bananas.worker.attempt import Bunch

if TYPE_CHECKING:
    from bananas.worker.attempt import Attempt, Unit


class Buffer:
    """Three queues, one a priority; `pop` may be called from any thread."""

    __slots__ = ("_high", "_low", "_normal")

    def __init__(self) -> None:
        """Start empty."""
        self._high: deque[Unit] = deque()
        self._normal: deque[Unit] = deque()
        self._low: deque[Unit] = deque()

    def __len__(self) -> int:
        """Return how many units wait."""
        return len(self._high) + len(self._normal) + len(self._low)

    def put(self, unit: Unit) -> None:
        """Add a unit behind those of its priority."""
        job = (unit.attempts[0] if isinstance(unit, Bunch) else unit).job
        priority = job.priority
        if priority == "normal":
            self._normal.append(unit)
        elif priority == "high":
            self._high.append(unit)
        else:
            self._low.append(unit)

    def put_first(self, unit: Unit) -> None:
        """Put a unit back that was taken and not begun."""
        job = (unit.attempts[0] if isinstance(unit, Bunch) else unit).job
        {"high": self._high, "low": self._low}.get(job.priority, self._normal).appendleft(unit)

    def pop(self) -> Unit | None:
        """Return the next unit, or None."""
        # A look first: to catch an error costs 0.2 us, and the first queue is mostly empty.
        # No loop over the queues: it took 2 % of a no-op job.
        try:
            if self._high:
                return self._high.popleft()
            if self._normal:
                return self._normal.popleft()
            return self._low.popleft() if self._low else None
        except IndexError:  # another thread was faster
            return self.pop()

    def pop_last(self) -> Unit | None:
        """Return the unit that would come last, or None."""
        for queue in (self._low, self._normal, self._high):
            try:
                return queue.pop()
            except IndexError:
                continue
        return None

    def take_all(self) -> list[Attempt]:
        """Take everything out, the last ones first."""
        taken: list[Attempt] = []
        while (unit := self.pop_last()) is not None:
            taken += unit.attempts
        return taken

    def take_hoard(self, keep: int) -> list[Attempt]:
        """Take single jobs out, the last ones first, until `keep` units or bunches are left."""
        taken: list[Attempt] = []
        passed: list[Unit] = []
        while len(self) > keep and (unit := self.pop_last()) is not None:
            if isinstance(unit, Bunch):
                passed.append(unit)
            else:
                taken.append(unit)
        for unit in reversed(passed):
            self.put(unit)
        return taken

    def take_bunches(self, keep_items: int) -> list[Attempt]:
        """Take bunches out, the last ones first, until they hold at most `keep_items`."""
        left = self.items()
        taken: list[Attempt] = []
        passed: list[Unit] = []
        while left > keep_items and (unit := self.pop_last()) is not None:
            if isinstance(unit, Bunch):
                left -= len(unit.attempts)
                taken += unit.attempts
            else:
                passed.append(unit)
        for unit in reversed(passed):
            self.put(unit)
        return taken

    def items(self) -> int:
        """Return how many items wait in bunches."""
        queues = (self._high, self._normal, self._low)
        # a copy is made at once; the queue itself may change under a loop
        units = [unit for queue in queues for unit in queue.copy()]
        return sum(len(unit.attempts) for unit in units if isinstance(unit, Bunch))

    def take_out(self, attempt: Attempt) -> bool:
        """Take a job out that waits alone or in a bunch; False when somebody was faster."""
        for queue in (self._high, self._normal, self._low):
            for unit in queue.copy():
                inside = isinstance(unit, Bunch) and attempt in unit.attempts
                if not inside and unit is not attempt:
                    continue
                try:
                    queue.remove(unit)
                except (ValueError, IndexError):  # a thread has taken it, or another meanwhile
                    return False
                if isinstance(unit, Bunch):
                    others = [run for run in unit.attempts if run is not attempt]
                    if others:
                        queue.appendleft(Bunch(unit.definition, others))
                return True
        return False
