"""What a job costs the server in instructions: a private one under valgrind, driven by the broker.

A case is one transition, 100 jobs a call, the transitions before it being the same in both
runs that are compared; `single` is a whole life with each call for one job. Sockets and
replies are included, as the server pays for them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bananas.broker import Batch, Broker, Entry, Retention, Settlement
from bananas.ids import request_id
from bananas.transport import Transport
from benchmarks.instructions.valgrind import COMMAND
from benchmarks.records import PLACE, entries
from servers import Server, version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

FEW: Final = 200
MANY: Final = 2_200
"""Jobs of the two runs; what a start and a stop take is the same in both."""

_VERSION: Final = (7, 0)
"""Of Redis; another has other counts, and a budget for each would tell no more."""
_BATCH: Final = 100
_EPOCH: Final = "e" * 32
_DUE_AT: Final = "1.0"
_HELD: Final = ("--hz", "1", "--activerehashing", "no", "--save", "")


class Counted(Server):
    """A server under valgrind, which writes what it counted when the server has stopped."""

    def __init__(self, log: Path) -> None:
        """Have its timers as quiet as they may be."""
        super().__init__("redis", arguments=_HELD)
        self._log = log

    def _argv(self) -> list[str]:
        return [*COMMAND, f"--log-file={self._log}", *super()._argv()]


async def _enqueue(broker: Broker, jobs: Sequence[Entry], size: int = _BATCH) -> None:
    for at in range(0, len(jobs), size):
        await broker.enqueue(request_id(), jobs[at : at + size])


async def _dequeue(broker: Broker, count: int, size: int = _BATCH) -> list[Batch]:
    leased: list[Batch] = []
    for _ in range(count // size):
        batch = await broker.dequeue(request_id(), _EPOCH, [PLACE], limit=size, room_bytes=1 << 20)
        assert isinstance(batch, Batch)
        assert len(batch.jobs) == size
        leased.append(batch)
    return leased


async def _settle(broker: Broker, leased: Sequence[Batch], *, kept: bool = False) -> None:
    for batch in leased:
        done = Settlement(batch.request)
        if kept:
            done.kept[3600] = [(job.job_id, job.record or b"") for job in batch.jobs]
        else:
            done.dropped = [job.job_id for job in batch.jobs]
        assert await broker.settle(_EPOCH, done, Retention()) == []


async def _enqueued(broker: Broker, count: int) -> None:
    """Jobs are enqueued."""
    await _enqueue(broker, entries(count))


async def _dequeued(broker: Broker, count: int) -> None:
    """Jobs are leased, of those that wait."""
    await _enqueue(broker, entries(MANY))
    await _dequeue(broker, count)


async def _dropped(broker: Broker, count: int) -> None:
    """Completed jobs are deleted, of those that are leased."""
    await _enqueue(broker, entries(MANY))
    await _settle(broker, (await _dequeue(broker, MANY))[: count // _BATCH])


async def _kept(broker: Broker, count: int) -> None:
    """Completed jobs are written back, of those that are leased."""
    await _enqueue(broker, entries(MANY))
    await _settle(broker, (await _dequeue(broker, MANY))[: count // _BATCH], kept=True)


async def _put_off(broker: Broker, count: int) -> None:
    """Failed jobs are scheduled for their next run, of those that are leased."""
    await _enqueue(broker, entries(MANY))
    for batch in (await _dequeue(broker, MANY))[: count // _BATCH]:
        later = [(job.job_id, job.record or b"", 60_000, "retried") for job in batch.jobs]
        settlement = Settlement(batch.request, later=later)
        assert await broker.settle(_EPOCH, settlement, Retention()) == []


async def _scheduled(broker: Broker, count: int) -> None:
    """Jobs are enqueued for a time."""
    await _enqueue(broker, [entry._replace(due=_DUE_AT) for entry in entries(count)])


async def _promoted(broker: Broker, count: int) -> None:
    """Jobs that are due come to their queue, of those scheduled."""
    await _scheduled(broker, MANY)
    for _ in range(count // _BATCH):
        assert (await broker.promote([PLACE], limit=_BATCH)).moved == _BATCH


async def _reclaimed(broker: Broker, count: int) -> None:
    """Leased jobs are given back."""
    await _enqueue(broker, entries(MANY))
    await _dequeue(broker, MANY)
    for _ in range(count // _BATCH):
        assert (await broker.reclaim(_EPOCH, proven=True, limit=_BATCH)).moved == _BATCH


async def _single(broker: Broker, count: int) -> None:
    """One after the other: enqueued, leased, settled."""
    for _ in range(count):
        await _enqueue(broker, entries(1))
        await _settle(broker, await _dequeue(broker, 1, 1))


CASES: Final[dict[str, Callable[[Broker, int], Awaitable[None]]]] = {
    "single": _single,
    "enqueue": _enqueued,
    "dequeue": _dequeued,
    "settle": _dropped,
    "kept": _kept,
    "later": _put_off,
    "schedule": _scheduled,
    "promote": _promoted,
    "reclaim": _reclaimed,
}


async def _drive(url: str, name: str, jobs: int) -> None:
    broker = Broker(Transport(url))
    await broker.register(_EPOCH, 3600.0, {})
    await CASES[name](broker, jobs)
    await broker.transport.close()


def drive(name: str, jobs: int, log: Path) -> None:
    """Do a case for so many jobs; the log holds the count afterwards."""
    server = Counted(log).start()
    try:
        asyncio.run(_drive(server.url, name, jobs))
        server.stop()
    finally:
        server.discard()


def here() -> bool:
    """Tell whether this machine has the server that the budget is of."""
    return version("redis")[:2] == _VERSION
