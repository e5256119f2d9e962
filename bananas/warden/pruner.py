"""Drops what has outlived its retention, and gives up lists that nobody serves any more."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from bananas.broker import MAX_JOBS, name_of
from bananas.keys import DEFAULT_ROUTING_KEY

if TYPE_CHECKING:
    from bananas.broker import Broker

log = logging.getLogger("bananas.warden")

_LOOKED_AT: Final = 2_000
"""About so many places a round: each is two LLEN."""
_AT_ONCE: Final = 200

_route_of = re.compile(r"route:([^:]+):").match
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
        self._cursor: str | bytes = "0"

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
        for name in map(name_of, places):
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

    async def forget_places(self) -> int:
        """Forget some of the places where nothing waits and that no worker serves.

        A routing key a customer, and the places would be more than an audit can walk through.

        Raises:
            BrokerError: Redis did not answer; the rest goes next time.
        """
        broker, keys = self._broker, self._broker.keys
        workers = await broker.transport.command("HGETALL", keys.workers, repeat=True)
        epochs, infos = workers[::2], workers[1::2]
        served = _routing_keys(infos)
        if served is None:
            return 0
        self._cursor, found = await broker.transport.command(
            "SSCAN", keys.places(), self._cursor, "COUNT", _LOOKED_AT, repeat=True
        )
        names = [name for name in map(name_of, found) if _routing_key(name) not in served]
        forgotten = 0
        for begin in range(0, len(names), _AT_ONCE):
            count = await broker.vacate(names[begin : begin + _AT_ONCE], epochs)
            if count < 0:
                break  # a worker has just come: what it serves is looked at next time
            forgotten += count
        return forgotten


def _routing_key(place: str) -> str:
    match = _route_of(place)
    return match[1] if match else DEFAULT_ROUTING_KEY


def _routing_keys(infos: list[bytes]) -> set[str] | None:
    """Return the routing keys that workers serve; None when one does not tell."""
    served = {DEFAULT_ROUTING_KEY}  # where foreign producers push, and everybody looks
    for info in infos:
        try:
            said: Any = json.loads(info)
            served.update(map(str, said["routing_keys"]))
        except (ValueError, TypeError, LookupError):
            return None
    return served
