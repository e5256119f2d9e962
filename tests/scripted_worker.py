"""A worker of a few lines: leases jobs by the real broker and ends each as a test says."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

from bananas.broker import Batch, Retention, Settlement
from bananas.ids import request_id
from bananas.job import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.broker import Broker

PLACES = ("queue:high", "queue:normal", "queue:low")


class ScriptedWorker:
    """One process epoch; each method is one step of a job's life."""

    def __init__(self, broker: Broker, places: Sequence[str] = PLACES) -> None:
        """Serve `places` through `broker`."""
        self.broker = broker
        self.places = places
        self.epoch = uuid.uuid4().hex
        self._request = ""

    async def take(self, limit: int = 100) -> list[Job]:
        """Lease waiting jobs."""
        assert await self.broker.register(self.epoch, 60.0, {"host": "test", "pid": 1}, self.places)
        while True:
            self._request = request_id()
            batch = await self.broker.dequeue(
                self._request, self.epoch, self.places, limit=limit, room_bytes=1 << 24
            )
            if batch is not None:
                break
        assert isinstance(batch, Batch)
        return [Job.decode(leased.record) for leased in batch.jobs if leased.record is not None]

    async def complete(
        self, job: Job, value: object = None, *, kept: bool = True, retention_s: int = 3600
    ) -> None:
        """End a job well, keeping its result or not, and its record for a while or not at all."""
        settlement = Settlement(self._request)
        if retention_s:
            record = job.finish("completed", job.updated_at, job.attempts + 1)
            settlement.kept[retention_s] = [(job.id.encode(), record)]
        else:
            settlement.dropped.append(job.id.encode())
        if kept:
            fields = ("status", "completed", "result", json.dumps(value), "duration_ms", "1.5")
            settlement.results.append((job.id.encode(), 3600, b"completed", fields))
        await self._settle(settlement)

    async def fail(self, job: Job, error: str, *, kept: bool = True) -> None:
        """End a job badly, for good."""
        failed = job.with_(status="failed", error=error, attempts=job.max_retries)
        settlement = Settlement(self._request)
        settlement.failed.append((job.id.encode(), failed.encode(job.place)))
        if kept:
            fields = ("status", "failed", "error", error)
            settlement.results.append((job.id.encode(), 3600, b"failed", fields))
        await self._settle(settlement)

    async def postpone(self, job: Job, delay_ms: int) -> None:
        """Schedule a job's retry."""
        later = job.with_(status="scheduled", error="not yet", attempts=job.attempts + 1)
        settlement = Settlement(self._request)
        settlement.later.append((job.id.encode(), later.encode(job.place), delay_ms, "retried"))
        await self._settle(settlement)

    async def _settle(self, settlement: Settlement) -> None:
        stale = await self.broker.settle(self.epoch, settlement, Retention())
        assert stale == []
