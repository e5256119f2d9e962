"""What is done with records and ids: functions of the core and its twin, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bananas.ids import IdMaker
from bananas.job import Job
from benchmarks.instructions.size import BATCH
from benchmarks.records import record

if TYPE_CHECKING:
    from benchmarks.instructions.size import Piece

_RECORD = record("0192a3b4-c5d6-7e8f-9a0b-1c2d3e4f5061")


def decode() -> Piece:
    """A record is read in full."""

    async def run(count: int) -> None:
        for _ in range(count * BATCH):
            Job.decode(_RECORD)

    return run


def finish() -> Piece:
    """A record is written as completed."""
    job = Job.decode(_RECORD)

    async def run(count: int) -> None:
        for _ in range(count * BATCH):
            job.finish("completed", "2026-01-01T00:00:00.000000Z", 1)

    return run


def ids() -> Piece:
    """Ids are made, a batch at a time."""
    maker = IdMaker()

    async def run(count: int) -> None:
        for _ in range(count):
            maker.new_ids(BATCH)

    return run
