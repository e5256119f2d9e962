"""The API's part: requests come in over HTTP, and the answers go out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from uvicorn import Config
from uvicorn.server import ServerState

from bananas.client import Client
from bananas.http.api import Api
from bananas.http.protocol import GuardedProtocol
from bananas.settings import Settings
from benchmarks.instructions.size import BATCH
from benchmarks.instructions.stand_ins import Reader, answering
from benchmarks.records import entries

if TYPE_CHECKING:
    from benchmarks.instructions.size import Piece

_SETTINGS: Final = Settings(redis_url="redis://none")
_CONNECTIONS: Final = 50
_BODY: Final = b'{"name":"noop","payload":{"x":"%b"}}' % (b"x" * 191)
_HEAD: Final = (
    b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
)
_POST: Final = _HEAD % (b"/jobs", b"application/json", len(_BODY)) + _BODY
_READ_BYTES: Final = 1 << 16
"""What a loop reads at most at once."""


async def _client() -> Client:
    client = Client(settings=_SETTINGS)
    session = await client.session()
    session.broker.transport = answering()
    return client


def _connected(client: Client, readers: list[Reader]) -> list[GuardedProtocol]:
    config = Config(Api(client, _SETTINGS), ws="none", lifespan="off", log_config=None)
    config.load()
    connections = [GuardedProtocol(config, ServerState(), {}) for _ in readers]
    for connection, reader in zip(connections, readers, strict=True):
        connection.connection_made(reader)
    return connections


async def _ask(client: Client, count: int) -> None:
    """Send a request over each of 50 connections at a time, until there were enough."""
    readers = [Reader(b"201") for _ in range(_CONNECTIONS)]
    connections = _connected(client, readers)
    for sent in range(1, count * BATCH // _CONNECTIONS + 1):
        for connection in connections:
            connection.data_received(_POST)
        while any(reader.answers < sent for reader in readers):  # noqa: ASYNC110 - a tick is the unit here, nothing sets an event
            await asyncio.sleep(0)


def post() -> Piece:
    """`POST /jobs`, from the bytes of the request to those of the answer."""

    async def run(count: int) -> None:
        await _ask(await _client(), count)

    return run


def request() -> Piece:
    """The same without the way to Redis: the request is read, checked and answered."""
    (entry,) = entries(1)

    async def enter(*_: object) -> object:
        return entry

    async def run(count: int) -> None:
        client = await _client()
        with patch.object(client, "enter", enter):
            await _ask(client, count)

    return run


def ndjson() -> Piece:
    """`POST /jobs/batch` with a line for each job, as the loop would read it from a socket."""

    async def run(count: int) -> None:
        body = b"%b\n" % _BODY * (count * BATCH)
        sent = _HEAD % (b"/jobs/batch", b"application/x-ndjson", len(body)) + body
        reader = Reader(b"200")
        (connection,) = _connected(await _client(), [reader])
        for begin in range(0, len(sent), _READ_BYTES):
            while connection.flow.read_paused:  # noqa: ASYNC110 - a tick is the unit here, nothing sets an event
                await asyncio.sleep(0)
            connection.data_received(sent[begin : begin + _READ_BYTES])
        while reader.verdicts < count * BATCH:  # noqa: ASYNC110 - a tick is the unit here, nothing sets an event
            await asyncio.sleep(0)

    return run
