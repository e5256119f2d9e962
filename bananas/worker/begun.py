"""What this process is working on, written to shared memory for whoever survives it.

One entry a job begun. The supervisor reads the hard deadlines, the warden the ids: a
process may end at any instruction and still be accounted for.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from bananas.failpoints import around_begin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.table import Slot
    from bananas.worker.attempt import Attempt


class BegunBoard:
    """The entries of one slot: the first ones belong to runners, the rest to items of bunches.

    A runner's entry is written by that runner alone; the rest are lent under a lock.
    """

    def __init__(self, slot: Slot, entries: int, runners: int) -> None:
        """Share `entries` between `runners` fixed ones and a free list."""
        self.slot: Final = slot
        self.begin = around_begin(slot.begin)
        self.end = slot.end
        self._entries = entries
        self._free = list(range(runners, entries))
        self._lock = threading.Lock()

    def begin_all(self, attempts: Sequence[Attempt], hard_deadline_ns: int) -> list[int]:
        """Enter the items of a bunch; those beyond the room stay unwritten (and uncharged)."""
        with self._lock:
            left = max(0, len(self._free) - len(attempts))
            taken = self._free[left:]
            del self._free[left:]
        try:
            for index, attempt in zip(taken, attempts, strict=False):
                self.begin(index, attempt.job_id, hard_deadline_ns)
        except Exception:
            self.end_all(taken)
            raise
        return taken

    def end_everything(self) -> None:
        """Take all out: the process ends as it should, whatever still runs is not to blame."""
        for index in range(self._entries):
            self.end(index)

    def end_all(self, taken: list[int]) -> None:
        """Take them out again."""
        for index in taken:
            self.end(index)
        with self._lock:
            self._free += taken
