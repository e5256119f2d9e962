"""The API as it is deployed: its own sockets, a real uvicorn, a real server behind it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from bananas.broker import Batch, Retention, Settlement
from bananas.client import Client
from bananas.http.api import Api as Application
from bananas.http.server import serve
from bananas.job import Job
from bananas.keys import place
from bananas.settings import Settings

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from servers import Server


@dataclass
class Api:
    """One API under test."""

    http: httpx.AsyncClient
    client: Client
    settings: Settings
    port: int
    stop: asyncio.Event
    done: asyncio.Task[None]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a plain connection, for what a well-behaved client cannot send."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, data: bytes) -> bytes:
        """Send bytes and return all that comes until the server closes."""
        reader, writer = await self.connect()
        writer.write(data)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def finish(
        self, job_id: str, *, error: str | None = None, result: bytes | None = None
    ) -> None:
        """Do a worker's part: lease the oldest normal job, which is this one, and settle it."""
        broker = (await self.client.session()).broker
        await broker.register("e" * 32, 60, {"host": "test"})
        request = f"request-{job_id}"
        batch = await broker.dequeue(
            request, "e" * 32, [place("normal")], limit=1, room_bytes=1_000_000
        )
        assert isinstance(batch, Batch)
        (leased,) = batch.jobs
        assert leased.job_id == job_id.encode()
        assert leased.record is not None
        job = Job.decode(leased.record)
        settlement = Settlement(request)
        key = job_id.encode()
        fields: list[bytes | str | int]
        if error is not None:
            record = job.with_(status="failed", attempts=3, error=error).encode(job.place)
            settlement.failed.append((key, record))
            fields = ["status", "failed", "error", error]
        else:
            settlement.kept[60] = [(key, job.finish("completed", job.updated_at, 1))]
            fields = ["status", "completed", "result", result or b"null", "duration_ms", "1.5"]
        if job.result:
            settlement.results.append((key, 60, b"done", fields))
        assert await broker.settle("e" * 32, settlement, Retention()) == []

    async def bury(self, count: int, *, name: str = "t", error: str = "boom") -> list[str]:
        """Make failed jobs; returns their ids, oldest first."""
        ids: list[str] = []
        for _ in range(count):
            handle = await self.client.submit(name)
            await self.finish(handle.id, error=error)
            ids.append(handle.id)
        return ids


class Documented:
    """Looks at every answer that a test gets: its status and its media type are documented."""

    def __init__(self, settings: Settings) -> None:
        """Know the document of these settings."""
        document = Application(Client(settings=settings), settings).document
        self._operations = [
            (re.compile(re.sub(r"{\w+}", "[^/]+", path)), method.upper(), operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]

    async def __call__(self, response: httpx.Response) -> None:
        """Look at an answer; what is no route's, or not by its method, is only a problem."""
        request = response.request
        media_type = response.headers.get("content-type", "").partition(";")[0]
        method = "GET" if request.method == "HEAD" else request.method
        for path, of, operation in self._operations:
            if of == method and path.fullmatch(request.url.path):
                documented = operation["responses"]
                assert str(response.status_code) in documented, (request, response)
                assert media_type in documented[str(response.status_code)]["content"]
                return
        assert response.status_code in (401, 403, 404, 405, 415)
        assert media_type == "application/problem+json"


MakeApi = Callable[..., contextlib.AbstractAsyncContextManager[Api]]


@contextlib.asynccontextmanager
async def running(
    server: Server,
    prefix: str,
    *,
    token: str | None = None,
    **options: Any,  # noqa: ANN401 - settings
) -> AsyncIterator[Api]:
    """Serve an API on a free port until the block ends."""
    settings = Settings(
        redis_url=server.url, key_prefix=prefix, api_port=0, api_token=token, **options
    )
    stop = asyncio.Event()
    ready: asyncio.Future[list[socket.socket]] = asyncio.get_running_loop().create_future()
    done = asyncio.create_task(serve(settings, on_ready=ready.set_result, stop=stop))
    await asyncio.wait({ready, done}, return_when=asyncio.FIRST_COMPLETED)
    if done.done():
        done.result()
    port = ready.result()[0].getsockname()[1]
    headers = {"authorization": f"Bearer {token}"} if token else {}
    check = Documented(settings)
    try:
        async with (
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers=headers,
                timeout=20,
                trust_env=False,
                event_hooks={"response": [check]},
            ) as http,
            Client(settings=settings) as client,
        ):
            yield Api(http, client, settings, port, stop, done)
    finally:
        stop.set()
        await done


@pytest.fixture
async def api(server: Server, prefix: str) -> AsyncIterator[Api]:
    """Return a running API with the default settings, on loopback, without a token."""
    async with running(server, prefix) as api:
        yield api


@pytest.fixture
def make_api(server: Server, prefix: str) -> MakeApi:
    """Return a maker of running APIs; its arguments are settings."""

    def make(
        **options: Any,  # noqa: ANN401 - settings
    ) -> contextlib.AbstractAsyncContextManager[Api]:
        return running(server, prefix, **options)

    return make


@pytest.fixture
def run_api(prefix: str) -> MakeApi:
    """Return a maker of running APIs on a server of the test's own, its first argument."""

    def make(
        server: Server,
        **options: Any,  # noqa: ANN401 - settings
    ) -> contextlib.AbstractAsyncContextManager[Api]:
        return running(server, prefix, **options)

    return make
