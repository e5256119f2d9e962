"""Which workers of a host have stopped asking for jobs, by what they say in the table.

A worker may live and hold its lease and still do nothing for the queue: its loop is blocked,
its connection hangs, it cannot settle. The warden logs it, and readiness says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from bananas.table import SlotState

if TYPE_CHECKING:
    from bananas.settings import Settings
    from bananas.table import Slot, Table

MARGIN_S: Final = 10.0
"""How much longer than a wait for work a worker may go without an answer."""

_STOOD_STILL_NS: Final = 1_000_000_000
"""A loop's tick comes twenty times a second."""


class Stall(NamedTuple):
    """One worker that asks for no jobs."""

    pid: int
    since_s: float
    """How long ago it last had an answer, or had no need to ask."""
    why: str

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"worker process {self.pid} has not asked for jobs for {self.since_s:.0f} s: {self.why}"
        )


def patience_s(settings: Settings) -> float:
    """Return how long a worker may go without asking before it counts as stalled."""
    return settings.poll_interval_s + MARGIN_S


def find_stalls(table: Table, limit_s: float, now_ns: int) -> list[Stall]:
    """Return the workers that should take jobs and have not asked for `limit_s`.

    Args:
        table: The host's.
        limit_s: As `patience_s` says.
        now_ns: CLOCK_MONOTONIC.
    """
    stalls: list[Stall] = []
    for slot in table.slots:
        if slot.role != "worker" or slot.state is not SlotState.READY:
            continue
        since_s = (now_ns - max(slot.fetched_ns, slot.ready_ns)) / 1e9
        if since_s > limit_s:
            stalls.append(Stall(slot.pid, since_s, _reason(slot, now_ns)))
    return stalls


def _reason(slot: Slot, now_ns: int) -> str:
    still_ns = now_ns - slot.tick_ns
    if still_ns > _STOOD_STILL_NS:
        return f"its event loop has stood still for {still_ns / 1e9:.0f} s"
    if slot.cannot_settle:
        return "it cannot settle what it has done"
    return "Redis does not answer it, or its lease is over"
