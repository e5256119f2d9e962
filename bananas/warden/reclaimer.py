"""Gives back the jobs of processes that are gone.

At once when the supervisor has proof of their death, after the lease when nobody can tell.
After a gap of its own (a stopped host, an outage of Redis) the reclaimer waits one lease
before it judges others: they had no way to beat either.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from bananas.errors import BrokerDeniedError, BrokerFullError, BrokerUnavailableError
from bananas.placement import find_places
from bananas.table import SlotState
from bananas.warden.culprits import BLOCKED, REASON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.broker import Broker
    from bananas.clock import Clock
    from bananas.table import Slot, Table
    from bananas.warden.culprits import Culprits

log = logging.getLogger("bananas.warden")

_STOOD_STILL_NS: Final = 1_000_000_000
"""A worker's tick comes twenty times a second."""


class Reclaimer:
    """Reclaims epochs."""

    def __init__(
        self, broker: Broker, table: Table, clock: Clock, culprits: Culprits, *, ttl_s: float
    ) -> None:
        """Watch `table` for proven deaths and Redis for lapsed leases of `ttl_s`."""
        self._broker = broker
        self._culprits = culprits
        self._table = table
        self._clock = clock
        self._ttl_s = ttl_s
        self._last_run_ns: int | None = None
        self._wait_until_ns = 0
        self._offset_ns = 0
        """Redis's clock minus our own; a step of it is no time that others slept through."""
        self.reclaimed = 0
        """Jobs given back."""
        self.epochs = 0
        """Epochs whose jobs were given back."""

    async def reclaim_dead(self) -> int:
        """Give back the jobs of children that ended here; returns how many were given back.

        Raises:
            BrokerError: Redis did not answer; the slots stay as they are, call again.
        """
        moved = 0
        for slot in self._table.slots:
            if slot.state is SlotState.EXITED:
                try:
                    moved += await self._reclaim_slot(slot)
                except Exception as error:
                    if _is_outage(error):
                        raise
                    # the other dead children's jobs must not wait for it
                    log.exception("cannot reclaim what process %d held", slot.pid)
        return moved

    async def _reclaim_slot(self, slot: Slot) -> int:
        generation, epoch = slot.generation, slot.epoch
        moved = 0
        if epoch:
            charged = await self._judge(slot, epoch)
            moved = await self.reclaim(epoch, proven=True, charged=charged)
            log.info("process %d is gone: %d jobs given back", slot.pid, moved)
        if slot.generation == generation and slot.state is SlotState.EXITED:
            slot.epoch = ""
            slot.state = SlotState.FREE
        return moved

    async def _judge(self, slot: Slot, epoch: str) -> list[bytes]:
        """Settle whoever is known to be to blame; return who else may be.

        In a loop that stood still, whoever blocked it made the others late: with several begun,
        which one it was shows when they run again, unless the process could still tell.
        """
        begun = [entry.job_id for entry in slot.begun()]
        if slot.killed and not slot.culprits:
            return []  # for reasons of ours: a drain that took too long
        stood_still = slot.tick_ns > 0 and slot.exited_ns - slot.tick_ns > _STOOD_STILL_NS
        if not slot.culprits or (stood_still and len(begun) > 1 and not slot.named):
            return begun
        try:
            reason = BLOCKED if slot.named else REASON
            await self._culprits.settle(epoch, slot.culprits, reason)
        except Exception as error:
            if _is_outage(error):
                raise
            # what it held must come back all the same; nobody is charged for a defect of ours
            log.exception("cannot settle the culprits of process %d", slot.pid)
        return []

    async def reclaim_lapsed(self) -> int:
        """Give back the jobs of epochs whose lease has run out; returns how many.

        Raises:
            BrokerError: Redis did not answer.
        """
        found = await self._broker.lapsed()
        # looked at after the answer: the outage may lie between the question and that
        before_ns, now_ns = self._last_run_ns, self._clock.boot_ns()
        lease_ns = int(self._ttl_s * 1e9)
        self._last_run_ns = now_ns
        offset_ns = found.now_ms * 1_000_000 - now_ns
        stepped = abs(offset_ns - self._offset_ns) > lease_ns // 3
        self._offset_ns = offset_ns
        # the first run counts as a gap: a fleet that starts after an outage is not judged
        if before_ns is None or now_ns - before_ns > lease_ns // 3 or stepped:
            self._wait_until_ns = now_ns + lease_ns
            if before_ns is not None:
                why = "Redis's clock was set" if stepped else "no sweep for a while"
                log.warning("%s: waiting one lease before judging others", why)
        if now_ns < self._wait_until_ns:
            return 0
        moved = 0
        for epoch in found.epochs:
            try:
                count = await self.reclaim(epoch, proven=False)
            except Exception as error:
                if _is_outage(error):
                    raise
                # the other epochs must not wait for it
                log.exception("cannot reclaim the lapsed epoch %s", epoch)
                continue
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
                self.epochs += step.state == "done"
                return moved
            placed = await find_places(self._broker, step.unplaced)


def _is_outage(error: Exception) -> bool:
    """Whether this is about the server, and not about what was asked of it."""
    return isinstance(error, BrokerUnavailableError | BrokerFullError | BrokerDeniedError)
