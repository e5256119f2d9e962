"""Watches the server's eviction policy: it may be changed while everybody works."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bananas.eviction import danger, read_policy

if TYPE_CHECKING:
    from bananas.broker import Broker

log = logging.getLogger("bananas.warden")


class Policy:
    """Says so, at every look, while the server may throw keys away."""

    def __init__(self, broker: Broker) -> None:
        """Watch the broker's server."""
        self._broker = broker
        self.danger: str | None = None

    async def look(self) -> None:
        """Look once.

        Raises:
            BrokerUnavailableError: Redis did not answer.
        """
        before, self.danger = self.danger, danger(await read_policy(self._broker))
        if self.danger is not None:
            log.error("%s; it must be noeviction", self.danger)
        elif before is not None:
            log.info("the server evicts no more")
