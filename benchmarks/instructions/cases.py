"""Fixed pieces of the hot path, each done for a given number of batches.

No sockets and no clocks: a stand-in answers as Redis does, at once and with full batches,
so that a run takes the same instructions each time. The counter runs them one by one:

    python -m benchmarks.instructions.cases CASE BATCHES
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from uvicorn import Config
from uvicorn.server import ServerState

from bananas.app import Bananas
from bananas.broker import Broker
from bananas.client import Client
from bananas.http.api import Api
from bananas.http.protocol import GuardedProtocol
from bananas.job import Job
from bananas.link import Counters, pack
from bananas.settings import Settings
from bananas.table import SlotState, Table
from bananas.worker.worker import Worker
from benchmarks.records import entries, record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from bananas.scripts import Script

BATCH: Final = 250
MOST: Final = 24
"""Batches prepared for, whatever number is done: what is prepared must not differ."""


class Answering:
    """A transport that packs what it is given and answers at once."""

    def __init__(self, batches: Sequence[Any] = ()) -> None:
        """Give these batches to whoever dequeues, then nothing for ever."""
        self.counters = Counters()
        self._batches = list(batches)

    async def call(self, script: Script, keys: Sequence[Any] = (), args: Sequence[Any] = ()) -> Any:  # noqa: ANN401 - as many shapes as there are scripts
        """Return what the script would, had all gone well."""
        pack((b"EVALSHA", script.sha, len(keys), *keys, *args))
        match script.name:
            case "dequeue" if not self._batches:
                return await self.command()
            case "dequeue":
                return [b"ok", 0, self._batches.pop()]
            case "enqueue":
                return [0, b""]
            case "settle":
                return []
            case _:
                return 1

    async def close(self) -> None:
        """Have nothing to close."""

    async def command(self, *_words: object, **_options: object) -> Any:  # noqa: ANN401 - never
        """Wait for ever."""
        return await asyncio.get_running_loop().create_future()


def _work() -> Callable[[int], Awaitable[None]]:
    """A worker takes batches in, runs an async no-op for each job, and settles them."""
    app = Bananas(settings=Settings(redis_url="redis://none", retention_completed_s=0))
    begun = 0

    @app.task(name="noop")
    async def noop(x: str) -> None:  # noqa: ARG001 - its payload
        nonlocal begun
        begun += 1

    jobs = [entries(BATCH) for _ in range(MOST)]
    batches = [
        [2, [job.job_id.encode() for job in each], [job.record for job in each], []]
        for each in jobs
    ]

    async def run(count: int) -> None:
        answering: Any = Answering(batches[:count])
        slot = Table.create(1, app.settings.begun_entries).slots[0]
        worker = Worker(Broker(answering), answering, app.registry, app.settings, slot)
        # its pace is a matter of time, and so is what it gives back for being slow
        worker._fetcher._appetite = lambda: BATCH  # noqa: SLF001
        worker._room.take_stuck = lambda _: []  # type: ignore[method-assign] # noqa: SLF001
        slot.state = SlotState.READY
        await worker.start()
        while begun < count * BATCH or worker._settler.requests:  # noqa: ASYNC110, SLF001 - no event
            await asyncio.sleep(0)

    return run


def _submit() -> Callable[[int], Awaitable[None]]:
    """A client checks, drafts and packs rows."""
    app = Bananas(settings=Settings(redis_url="redis://none"))

    @app.task(name="noop")
    async def noop(x: str) -> None:
        """Be submitted."""

    rows = [{"x": "x" * 191} for _ in range(MOST * BATCH)]

    async def run(count: int) -> None:
        session = await app.client.session()
        session.broker.transport = Answering()  # type: ignore[assignment]  # has what a broker calls
        report = await noop.enqueue_many(rows[: count * BATCH])
        assert report.accepted == count * BATCH

    return run


class Reader(asyncio.Transport):
    """The other end of a connection: it counts the answers that are written to it."""

    def __init__(self) -> None:
        """Have read nothing."""
        super().__init__()
        self.answers = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take an answer."""
        assert bytes(data[:12]) == b"HTTP/1.1 201", data
        self.answers += 1

    def is_closing(self) -> bool:
        """Never."""
        return False

    def resume_reading(self) -> None:
        """Go on, as before."""


def _post() -> Callable[[int], Awaitable[None]]:
    """An API process takes `POST /jobs` from 50 connections, a request from each at a time."""
    settings = Settings(redis_url="redis://none")
    body = b'{"name":"noop","payload":{"x":"%b"}}' % (b"x" * 191)
    request = (
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )

    async def run(count: int) -> None:
        client = Client(settings=settings)
        session = await client.session()
        session.broker.transport = Answering()  # type: ignore[assignment]  # has what a broker calls
        config = Config(Api(client, settings), ws="none", lifespan="off", log_config=None)
        config.load()
        readers = [Reader() for _ in range(50)]
        connections = [GuardedProtocol(config, ServerState(), {}) for _ in readers]
        for connection, reader in zip(connections, readers, strict=True):
            connection.connection_made(reader)
        for sent in range(1, count * BATCH // len(readers) + 1):
            for connection in connections:
                connection.data_received(request)
            while any(reader.answers < sent for reader in readers):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0)

    return run


def _decode() -> Callable[[int], Awaitable[None]]:
    """A record is read, and written as completed."""
    records = [record("0192a3b4-c5d6-7e8f-9a0b-1c2d3e4f5061")] * (MOST * BATCH)

    async def run(count: int) -> None:
        for each in records[: count * BATCH]:
            Job.decode(each).finish("completed", "2026-01-01T00:00:00.000000Z", 1)

    return run


CASES: Final = {"decode": _decode, "post": _post, "submit": _submit, "work": _work}


def main() -> None:
    """Do one case for a number of batches, and leave without ado."""
    name, count = sys.argv[1:]
    case = CASES[name]()
    gc.collect()
    gc.freeze()
    asyncio.run(case(int(count)))
    os._exit(0)


if __name__ == "__main__":
    main()
