"""Drops what has outlived its retention, and gives up lists that nobody serves any more."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from bananas.broker import MAX_JOBS

if TYPE_CHECKING:
    from bananas.broker import Broker

log = logging.getLogger("bananas.warden")

_match_special = re.compile(
    r"(?P<route>route:[^:]+:)?task:(?P<task>.+):(?P<rest>queue:\w+)"
).fullmatch


class Pruner:
    """Prunes."""

    def __init__(self, broker: Broker, *, retention_failed_s: float) -> None:
        """Keep failed jobs for `retention_failed_s`."""
        self._broker = broker
        self._retention_s = retention_failed_s
        self.pruned = 0

    async def prune(self) -> int:
        """Drop failed jobs past their retention; returns how many.

        Raises:
            BrokerError: Redis did not answer; the rest goes next time.
        """
        dropped = 0
        while True:
            count = await self._broker.prune(self._retention_s)
            dropped += count
            if count < MAX_JOBS:
                break
        self.pruned += dropped
        if dropped:
            log.info("dropped %d failed jobs past their retention", dropped)
        return dropped

    async def give_up_lists(self) -> int:
        """Bring jobs back to the common lists from tasks that no worker serves alone any more.

        Raises:
            BrokerError: Redis did not answer.
        """
        broker, keys = self._broker, self._broker.keys
        specials = await broker.specialise(1)
        places = await broker.transport.command("SMEMBERS", keys.places(), repeat=True)
        moved = 0
        for name in map(bytes.decode, places):
            match = _match_special(name)
            if match is None or match["task"] in specials.tasks:
                continue
            common = f"{match['route'] or ''}{match['rest']}"
            for key in (keys.waiting(name), keys.sorted(name)):
                while await broker.transport.command("LLEN", key, repeat=True):
                    moved += await broker.merge(key, common)
        if moved:
            log.info("brought %d jobs back from lists that nobody serves", moved)
        return moved
