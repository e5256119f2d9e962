"""Series that must stay flat: memory, descriptors and threads of what nothing harms."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.monitor import Seen

LEAST: Final = 12
"""Fewer points say nothing: of a short run only the ends are shown."""

WARM_UP_S: Final = 120.0
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Series:
    """One series and how much its last third may lie above its first."""

    name: str
    values: Sequence[float] = field(default_factory=list)
    slack: float = 1.0 * MIB
    share: float = 0.05

    def ends(self) -> list[float]:
        """Return the medians of the first third and of the last."""
        third = max(1, len(self.values) // 3)
        if not self.values:
            return []
        return [median(self.values[:third]), median(self.values[-third:])]

    def grows(self) -> str:
        """Return how much it has grown, "" when no more than it may."""
        if len(self.values) < LEAST:
            return ""
        first, last = self.ends()
        if last - first <= self.slack + self.share * first:
            return ""
        return f"from {first:,.0f} to {last:,.0f} in {len(self.values)} looks"


def series_of(pids: Sequence[int], seen: Seen) -> list[Series]:
    """Return the series of these processes, without the time in which they warm up."""
    found: list[Series] = []
    for pid in pids:
        samples = seen.samples.get(pid, [])
        warm = [s for s in samples if s.at_s - samples[0].at_s >= WARM_UP_S]
        if not warm:
            continue
        role = warm[-1].role.removeprefix("bananas: ").split()[0]
        found += [
            Series(f"rss of the steady {role}", [s.rss for s in warm], 4.0 * MIB),
            Series(f"descriptors of the steady {role}", [s.fds for s in warm], 2.0, 0.0),
            Series(f"threads of the steady {role}", [s.threads for s in warm], 1.0, 0.0),
        ]
    return found
