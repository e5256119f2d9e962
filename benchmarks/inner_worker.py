"""A worker inside the measuring process, for the cases; the harness has supervised ones."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bananas.broker import Broker
from bananas.table import Table
from bananas.transport import Transport
from bananas.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bananas.app import Bananas
    from bananas.table import Slot


@asynccontextmanager
async def working(app: Bananas) -> AsyncIterator[Slot]:
    """Run a worker for the application; gives the slot that it counts in."""
    url = str(app.settings.redis_url)
    transport, wake = Transport(url), Transport(url)
    slot = Table.create(1, app.settings.begun_entries).slots[0]
    worker = Worker(Broker(transport), wake, app.registry, app.settings, slot)
    await worker.start()
    try:
        yield slot
    finally:
        await worker.stop(5.0)
        await transport.close()
        await wake.close()


async def completed(slot: Slot, count: int) -> None:
    """Wait until so many jobs have been completed, as the worker itself counts."""
    while slot.completed < count:  # noqa: ASYNC110 - shared memory wakes nobody
        await asyncio.sleep(0.005)
