"""Time as an argument: whoever needs a clock is given one, so tests can move it.

Three readings, because they answer three questions: what is the date, how long did
it take, and how long has this host been up (sleep included, which leases need).
"""

from __future__ import annotations

import time
from typing import Final, Protocol

# Linux has it; elsewhere the monotonic clock stands in, which may stop while the host sleeps.
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What the package asks of a clock."""

    def real_us(self) -> int:
        """Wall time, Unix microseconds; may step in either direction."""
        ...

    def mono_s(self) -> float:
        """Monotonic seconds from an unknown start; only differences mean anything."""
        ...

    def boot_ns(self) -> int:
        """Nanoseconds since boot, suspended time included; the same in every process of a host."""
        ...


class SystemClock:
    """The host's clocks."""

    __slots__ = ()

    def real_us(self) -> int:
        """Wall time, Unix microseconds."""
        return time.time_ns() // 1000

    def mono_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def boot_ns(self) -> int:
        """Nanoseconds since boot, suspended time included where the host can tell."""
        return time.clock_gettime_ns(_BOOT_CLOCK)


SYSTEM_CLOCK: Final = SystemClock()
