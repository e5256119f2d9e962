"""What a client has open in one event loop, and its end together with that loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bananas.deadletters import DeadLetters
from bananas.inspector import Inspector
from bananas.producer import Producer
from bananas.results import Results

if TYPE_CHECKING:
    from bananas.broker import Broker
    from bananas.ids import IdMaker
    from bananas.settings import Settings
    from bananas.watch import Watch


class Session:
    """What a client has open in one loop."""

    def __init__(
        self, broker: Broker, ids: IdMaker, watch: Watch | None, settings: Settings
    ) -> None:
        """Build everything on one broker; nothing is opened yet."""
        self.loop: Final = asyncio.get_running_loop()
        self.broker: Final = broker
        self.watch: Final = watch
        self.producer: Final = Producer(
            broker,
            ids,
            confirm_timeout_s=settings.durability_timeout_s,
            replicas=settings.durability_replicas,
        )
        self.results: Final = Results(broker, watch)
        self.dead: Final = DeadLetters(broker, self.results)
        self.inspector: Final = Inspector(broker)
        self.keeper: asyncio.Task[None] | None = None

    async def keep(self) -> None:
        """Close everything when cancelled: by us, or by `asyncio.run` as it ends."""
        try:
            await self.loop.create_future()
        finally:
            if self.watch is not None:
                await self.watch.close()
            await self.producer.abandon()
            await self.broker.transport.close()
