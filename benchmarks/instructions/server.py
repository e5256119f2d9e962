"""What a job costs the server in instructions: a private one under valgrind, driven by the broker.

A case is the jobs of a call and what becomes of their records; it is the whole life of a
job: enqueued, leased, settled. Sockets and replies are included, as the server pays for them.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Final

from bananas.broker import Batch, Broker, Retention, Settlement
from bananas.ids import request_id
from bananas.transport import Transport
from benchmarks.records import PLACE, entries
from servers import Server, version

if TYPE_CHECKING:
    from pathlib import Path

CASES: Final = {"single": (1, False), "life": (100, False), "kept": (100, True)}
"""Jobs a call, and whether completed records are kept, by case."""
FEW: Final = 200
MANY: Final = 2_200
"""Jobs of the two runs; what a start and a stop take is the same in both."""

_VERSION: Final = (7, 0)
"""Of Redis; another has other counts, and a budget for each would tell no more."""
_EPOCH: Final = "e" * 32
_HELD: Final = ("--hz", "1", "--activerehashing", "no", "--save", "")


class Counted(Server):
    """A server under valgrind, which writes what it counted when the server has stopped."""

    def __init__(self, log: Path) -> None:
        """Have its timers as quiet as they may be."""
        super().__init__("redis", arguments=_HELD)
        self._log = log

    def _argv(self) -> list[str]:
        tool = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        return [shutil.which("valgrind") or "valgrind", *tool, f"--log-file={self._log}",
                *super()._argv()]  # fmt: skip


async def _lives(url: str, jobs: int, batch: int, *, kept: bool) -> None:
    broker = Broker(Transport(url))
    await broker.register(_EPOCH, 3600.0, {})
    for _ in range(jobs // batch):
        fresh = entries(batch)
        await broker.enqueue(request_id(), fresh)
        leased = await broker.dequeue(
            request_id(), _EPOCH, [PLACE], limit=batch, room_bytes=1 << 20
        )
        assert isinstance(leased, Batch)
        ids = [job.job_id for job in leased.jobs]
        done = Settlement(leased.request)
        if kept:
            done.kept[3600] = [
                (job_id, entry.record) for job_id, entry in zip(ids, fresh, strict=True)
            ]
        else:
            done.dropped = ids
        assert await broker.settle(_EPOCH, done, Retention()) == []
    await broker.transport.close()


def here() -> bool:
    """Tell whether this machine has the server that the budget is of."""
    return version("redis")[:2] == _VERSION


def drive(name: str, jobs: int, log: Path) -> None:
    """Run the lives of so many jobs; the log holds the count afterwards."""
    batch, kept = CASES[name]
    server = Counted(log).start()
    try:
        asyncio.run(_lives(server.url, jobs, batch, kept=kept))
        server.stop()
    finally:
        server.discard()
