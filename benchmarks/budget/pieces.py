"""What taking and settling cost the process that does it.

The worker's own broker on the worker's own transport, without worker: what it takes beyond
this, in a drain, is running the jobs. Called with a URL and a number of jobs it prints one
JSON object, us of CPU a job.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Final

import uvloop

from bananas.broker import Batch, Broker, Retention, Settlement
from bananas.ids import request_id
from bananas.transport import Transport
from benchmarks.records import PLACE, entries

BATCH: Final = 250
"""What a busy worker asks for in one call (`dequeue_batch`)."""


async def pieces(url: str, jobs: int) -> dict[str, float]:
    """Lease all, settle all; the process's CPU of each."""
    broker, epoch = Broker(Transport(url)), request_id()
    await broker.register(epoch, 600.0, {})
    for _ in range(jobs // BATCH):
        await broker.enqueue(request_id(), entries(BATCH))
    leases: list[Batch] = []
    dequeue_s = time.process_time()
    for _ in range(jobs // BATCH):
        leased = await broker.dequeue(request_id(), epoch, [PLACE], limit=BATCH, room_bytes=1 << 20)
        assert isinstance(leased, Batch)
        leases.append(leased)
    dequeue_s = time.process_time() - dequeue_s
    done = [
        Settlement(leased.request, dropped=[job.job_id for job in leased.jobs]) for leased in leases
    ]
    settle_s = time.process_time()
    for settlement in done:
        assert await broker.settle(epoch, settlement, Retention()) == []
    settle_s = time.process_time() - settle_s
    await broker.transport.close()
    return {"dequeue_us": dequeue_s / jobs * 1e6, "settle_us": settle_s / jobs * 1e6}


def main() -> None:
    """Measure and print."""
    url, jobs = sys.argv[1], int(sys.argv[2])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(pieces(url, jobs))))


if __name__ == "__main__":
    main()
