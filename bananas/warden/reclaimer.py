"""Gives back the jobs of processes that are gone: at once when their death is proven by the
supervisor, after the lease when nobody can tell.

After a gap of its own (a stopped host, an outage of Redis) the reclaimer waits one lease
before it judges others: they had no way to beat either.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bananas.placement import find_places
from bananas.table import SlotState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.broker import Broker
    from bananas.clock import Clock
    from bananas.table import Slot, Table

log = logging.getLogger("bananas.warden")


class Reclaimer:
    """Reclaims epochs."""

    def __init__(self, broker: Broker, table: Table, clock: Clock, *, ttl_s: float) -> None:
        """Watch `table` for proven deaths and Redis for lapsed leases of `ttl_s`."""
        self._broker = broker
        self._table = table
        self._clock = clock
        self._ttl_s = ttl_s
        self._last_run_ns: int | None = None
        self._wait_until_ns = 0
        self.reclaimed = 0

    async def reclaim_dead(self) -> int:
        """Give back the jobs of children that ended here; returns how many.

        Raises:
            BrokerError: Redis did not answer; the slots stay as they are, call again.
        """
        moved = 0
        for slot in self._table.slots:
            if slot.state is SlotState.EXITED:
                moved += await self._reclaim_slot(slot)
        return moved

    async def _reclaim_slot(self, slot: Slot) -> int:
        generation, epoch = slot.generation, slot.epoch
        moved = 0
        if epoch:
            # a process that we ended names its culprits; one that died by itself leaves suspects
            charged = slot.culprits or [begun.job_id for begun in slot.begun()]
            moved = await self.reclaim(epoch, proven=True, charged=charged)
            log.info("process %d is gone: %d jobs given back", slot.pid, moved)
        if slot.generation == generation and slot.state is SlotState.EXITED:
            slot.epoch = ""
            slot.state = SlotState.FREE
        return moved

    async def reclaim_lapsed(self) -> int:
        """Give back the jobs of epochs whose lease has run out; returns how many.

        Raises:
            BrokerError: Redis did not answer.
        """
        now_ns = self._clock.boot_ns()
        lease_ns = int(self._ttl_s * 1e9)
        if self._last_run_ns is None or now_ns - self._last_run_ns > lease_ns // 3:
            # the first run counts as a gap: a fleet that starts after an outage is not judged
            self._wait_until_ns = now_ns + lease_ns
            if self._last_run_ns is not None:
                log.warning("no sweep for a while: waiting one lease before judging others")
        lapsed = await self._broker.lapsed()
        self._last_run_ns = self._clock.boot_ns()
        if self._last_run_ns < self._wait_until_ns:
            return 0
        moved = 0
        for epoch in lapsed:
            count = await self.reclaim(epoch, proven=False)
            log.warning("epoch %s lapsed: %d jobs given back", epoch, count)
            moved += count
        return moved

    async def reclaim(self, epoch: str, *, proven: bool, charged: Sequence[bytes] = ()) -> int:
        """Give back all jobs of an epoch, chunk by chunk; returns how many."""
        moved = 0
        placed: dict[bytes, str] = {}
        while True:
            step = await self._broker.reclaim(epoch, proven=proven, charged=charged, placed=placed)
            moved += step.moved
            self.reclaimed += step.moved
            if step.state != "more":
                return moved
            placed = await find_places(self._broker, step.unplaced)
