"""A worker's part: it takes jobs in, runs their handlers and settles them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from bananas.app import Bananas
from bananas.broker import Batch, Broker, Group, Specials
from bananas.settings import Settings
from bananas.table import SlotState, Table
from bananas.worker.worker import Worker
from benchmarks.instructions.size import BATCH, MANY
from benchmarks.instructions.stand_ins import answering
from benchmarks.records import PLACE, entries

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.instructions.size import Piece


def _app() -> Bananas:
    # One thread: which of several takes what is a matter of time.
    return Bananas(
        settings=Settings(redis_url="redis://none", retention_completed_s=0, sync_threads=1)
    )


def _worker(app: Bananas, batches: list[Any]) -> Worker:
    transport = answering(batches)
    slot = Table.create(1, app.settings.begun_entries).slots[0]
    slot.state = SlotState.READY
    return Worker(Broker(transport), transport, app.registry, app.settings, slot)


def _working(app: Bananas, begun: Callable[[], int]) -> Piece:
    """A worker takes batches in, runs a handler for each job, and settles them."""
    jobs = [entries(BATCH) for _ in range(MANY)]
    batches = [
        [2, [job.job_id.encode() for job in each], [job.record for job in each], []]
        for each in jobs
    ]

    async def run(count: int) -> None:
        worker = _worker(app, batches[:count])
        # its pace is a matter of time, and so is what it gives back for being slow
        worker._fetcher._appetite = lambda: BATCH  # noqa: SLF001 - it has no knob
        worker._room.take_stuck = lambda _: []  # type: ignore[method-assign, assignment]  # noqa: SLF001 - nor has it
        await worker.start()
        while begun() < count * BATCH or worker._settler.requests:  # noqa: ASYNC110, SLF001 - no event
            await asyncio.sleep(0)

    return run


def work() -> Piece:
    """An async no-op for each job."""
    app, begun = _app(), 0

    @app.task(name="noop")
    async def noop(x: str) -> None:  # noqa: ARG001 - its payload; on the loop
        nonlocal begun
        begun += 1

    return _working(app, lambda: begun)


def retry() -> Piece:
    """An async handler that raises, for each job: it is told, and scheduled anew."""
    logging.getLogger("bananas").setLevel(logging.CRITICAL)
    app, begun = _app(), 0

    @app.task(name="noop")
    async def noop(x: str) -> None:  # noqa: ARG001 - its payload; on the loop
        nonlocal begun
        begun += 1
        raise ValueError("no")

    return _working(app, lambda: begun)


def threads() -> Piece:
    """A `def` no-op for each job, in a thread."""
    app, begun = _app(), 0

    @app.task(name="noop")
    def noop(x: str) -> None:  # noqa: ARG001 - its payload
        nonlocal begun
        begun += 1

    return _working(app, lambda: begun)


def intake() -> Piece:
    """What was dequeued becomes attempts."""
    app = _app()

    @app.task(name="noop")
    async def noop(x: str) -> None:
        """Be known."""

    jobs = [entries(BATCH) for _ in range(MANY)]
    groups = [
        Group(PLACE, [job.job_id.encode() for job in each], [job.record for job in each], [])
        for each in jobs
    ]
    batches = [Batch("r", 0, [group]) for group in groups]

    async def run(count: int) -> None:
        admit = _worker(app, [])._intake.admit  # noqa: SLF001 - the piece itself
        for batch in batches[:count]:
            _, attempts = admit(batch, "e" * 32, Specials())
            assert len(attempts) == BATCH

    return run
