"""A producer's part: it checks jobs, drafts, packs and sends them, and reads the answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bananas.app import Bananas
from bananas.scripts import load
from bananas.settings import Settings
from bananas.transport import Transport
from benchmarks.instructions.size import BATCH, MANY
from benchmarks.instructions.stand_ins import answering, wired

if TYPE_CHECKING:
    from bananas.app import AsyncTask
    from benchmarks.instructions.size import Piece

CALLERS: Final = 50
"""Tasks that submit at the same time."""


def _task() -> tuple[Bananas, AsyncTask[..., None]]:
    app = Bananas(settings=Settings(redis_url="redis://none"))

    @app.task(name="noop")
    async def noop(x: str) -> None:
        """Be submitted."""

    return app, noop


def submit() -> Piece:
    """`enqueue_many`: rows are checked, drafted and packed."""
    app, noop = _task()
    rows = [{"x": "x" * 191} for _ in range(MANY * BATCH)]

    async def run(count: int) -> None:
        session = await app.client.session()
        session.broker.transport = answering()
        report = await noop.enqueue_many(rows[: count * BATCH])
        assert report.accepted == count * BATCH

    return run


def enqueue() -> Piece:
    """`enqueue` from 50 tasks at once: one call of the script for all, over a transport of ours."""
    app, noop = _task()

    async def run(count: int) -> None:
        with wired():
            for _ in range(count * BATCH // CALLERS):
                await asyncio.gather(*(noop.enqueue(x="x" * 191) for _ in range(CALLERS)))
            await app.client.aclose()

    return run


def lone() -> Piece:
    """`enqueue` from one task, one after the other: a call of the script for each."""
    app, noop = _task()

    async def run(count: int) -> None:
        with wired():
            for _ in range(count * BATCH):
                await noop.enqueue(x="x" * 191)
            await app.client.aclose()

    return run


def calls() -> Piece:
    """Script calls, 50 in a tick: packed, written together, and each given its answer."""
    script, args = load("enqueue"), (b"x" * 200, b"0")

    async def run(count: int) -> None:
        with wired():
            transport = Transport("redis://none")
            for _ in range(count * BATCH // CALLERS):
                submitted = [transport.submit(script, ("k",), args) for _ in range(CALLERS)]
                await submitted[-1]
                assert all(answer.done() for answer in submitted)
            await transport.close()

    return run
