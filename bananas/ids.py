"""Job ids and request ids.

Job ids are UUIDs of version 7: they rise within a process, also when its clock steps
back, and roughly over the fleet, so the id at a queue's tail tells the queue's age.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Final

from bananas.clock import SYSTEM_CLOCK
from bananas.speedups import uuid7_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.clock import Clock

_TAIL_BITS: Final = 74
_TAIL_MASK: Final = (1 << _TAIL_BITS) - 1
_SEED_BYTES: Final = 10
# A fresh tail starts in the lower half: there is always room to count up within a millisecond.
_FRESH_MASK: Final = _TAIL_MASK >> 1

_makers: weakref.WeakSet[IdMaker] = weakref.WeakSet()


class IdMaker:
    """Makes ids that rise strictly, from any thread; a fork starts afresh."""

    def __init__(
        self, clock: Clock = SYSTEM_CLOCK, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Take the clock and the source of random bytes."""
        self._clock = clock
        self._entropy = entropy
        self._lock = threading.Lock()
        self._last = -1  # time and tail of the last id made, as one number
        _makers.add(self)

    def new_id(self) -> str:
        """Return one new id."""
        return self.new_ids(1)[0]

    def new_ids(self, count: int) -> list[str]:
        """Return `count` new ids, rising.

        Args:
            count: How many, >= 0.

        Raises:
            ValueError: count < 0.
        """
        if count < 0:
            raise ValueError("count must be >= 0")
        with self._lock:
            unix_ms = self._clock.real_us() // 1000
            if unix_ms > self._last >> _TAIL_BITS:
                fresh = int.from_bytes(self._entropy(_SEED_BYTES), "big") & _FRESH_MASK
                first = (unix_ms << _TAIL_BITS) | fresh
            else:
                # The same millisecond, or a clock that went back: count on from the last id.
                first = self._last + 1
            self._last = first + count - 1
        tail = (first & _TAIL_MASK).to_bytes(_SEED_BYTES, "big")
        return uuid7_batch(first >> _TAIL_BITS, count, tail)

    def _forget(self) -> None:
        """Draw anew: a forked child must not count on from its parent's last id."""
        self._lock = threading.Lock()  # the parent's may have been held at the fork
        self._last = -1


def request_id() -> str:
    """Return a new request id: 32 hex digits of pure chance."""
    return os.urandom(16).hex()


def _after_fork() -> None:
    for maker in _makers:
        maker._forget()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_after_fork)
