"""Extends the leases of the host's living processes, whatever their loops are busy with.

The beat proves that the process lives, not that it makes progress: a worker that blocks
its loop keeps its lease and is reported by its tick. What a beat could not extend in time
the worker sees in shared memory, and begins nothing more.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from bananas.table import SlotState

if TYPE_CHECKING:
    from bananas.broker import Broker
    from bananas.clock import Clock
    from bananas.table import Slot, Table

log = logging.getLogger("bananas.warden")

FENCED_NS: Final = 1
"""A lease end in the past: nothing more begins; that it is fenced the worker hears from Redis."""


class Beat:
    """One beat for all epochs of a table."""

    def __init__(self, broker: Broker, table: Table, clock: Clock, *, ttl_s: float) -> None:
        """Beat for `table`, each time for `ttl_s`."""
        self._broker = broker
        self._table = table
        self._clock = clock
        self._ttl_s = ttl_s
        self.fenced = 0

    async def beat(self) -> int:
        """Beat once; returns how many epochs were extended.

        Raises:
            BrokerError: Redis did not answer; nothing was extended.
        """
        held = [(slot, slot.epoch) for slot in self._table.slots if _holds_lease(slot)]
        if not held:
            return 0
        asked_ns = self._clock.boot_ns()
        alive = await self._broker.beat(self._ttl_s, [epoch for _, epoch in held])
        until_ns = asked_ns + int(self._ttl_s * 1e9)
        for (slot, epoch), extended in zip(held, alive, strict=True):
            if slot.epoch != epoch:
                continue  # it took a new one meanwhile
            if not extended and slot.lease_until_ns != FENCED_NS:
                self.fenced += 1
                log.warning("epoch %s of process %d was fenced", epoch, slot.pid)
            slot.lease_until_ns = until_ns if extended else FENCED_NS
        return sum(alive)


def _holds_lease(slot: Slot) -> bool:
    """Whether a slot's child lives and its epoch was registered."""
    return (
        SlotState.FREE < slot.state < SlotState.EXITED
        and slot.lease_until_ns != 0
        and slot.epoch != ""
    )
