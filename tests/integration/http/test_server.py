"""One process's server: its sockets, its readiness, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from bananas.client import Client
from bananas.errors import SettingsError
from bananas.http import protocol
from bananas.http import server as http_server
from bananas.http.server import open_socket, serve
from bananas.settings import Settings

if TYPE_CHECKING:
    from conftest import Api, MakeApi
    from servers import Server


async def test_requests_under_way_are_finished(api: Api) -> None:
    """At the stop long polls answer with what there is, and new connections are refused."""
    job = await api.client.submit("t", result=True)
    polls = [
        asyncio.create_task(api.http.get(f"/jobs/{job.id}/result?wait_s=30")) for _ in range(5)
    ]
    polls.append(asyncio.create_task(api.http.post("/jobs?wait_s=30", json={"name": "t"})))
    while (await api.client.stats())["accepted"] < 2:  # noqa: ASYNC110 - a store
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    api.stop.set()
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*polls)
        await api.done
    assert [a.status_code for a in answers] == [202] * 5 + [201]
    assert answers[-1].json()["outcome"] is None
    with pytest.raises(httpx.ConnectError):
        await api.http.get("/livez")


async def test_readiness_ends_first(api: Api) -> None:
    """From the stop on the probe says not ready, so that a balancer sends nobody here."""
    reader, writer = await api.connect()
    job = await api.client.submit("t", result=True)
    writer.write(
        f"GET /jobs/{job.id}/result?wait_s=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        + b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    await asyncio.sleep(0.05)
    api.stop.set()
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 202")
    assert b"503" not in answer or b"urn:bananas:problem:stopping" in answer
    writer.close()


async def test_two_servers_share_a_port(server: Server, prefix: str) -> None:
    """Two processes' sockets on one port both get connections, and one may leave."""
    settings = Settings(redis_url=server.url, key_prefix=prefix, api_port=0)
    first = open_socket(settings)
    port = first.getsockname()[1]
    second = open_socket(Settings(redis_url=server.url, key_prefix=prefix, api_port=port))
    async with Client(settings=settings) as client:
        stops = [asyncio.Event(), asyncio.Event()]
        ready = [asyncio.Event(), asyncio.Event()]
        tasks = [
            asyncio.create_task(
                serve(
                    settings,
                    sockets=[opened],
                    on_ready=lambda _, event=event: event.set(),
                    stop=stop,
                    client=client,
                )
            )
            for opened, stop, event in zip((first, second), stops, ready, strict=True)
        ]
        for event in ready:
            await event.wait()
        stops[0].set()
        await tasks[0]
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.get("/readyz")).status_code == 200
        stops[1].set()
        await tasks[1]
        await client.ping()  # a client that was given is left open


async def test_a_stop_before_the_start_ends_at_once(server: Server, prefix: str) -> None:
    """A server that is stopped before it began serves nothing and ends."""
    settings = Settings(redis_url=server.url, key_prefix=prefix, api_port=0)
    stop = asyncio.Event()
    stop.set()
    await asyncio.wait_for(serve(settings, stop=stop), 10)


async def test_a_server_that_is_cancelled_lets_go(server: Server, prefix: str) -> None:
    """A cancelled server closes its socket and its connections."""
    settings = Settings(redis_url=server.url, key_prefix=prefix, api_port=0)
    ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(settings, on_ready=ready.set_result, stop=asyncio.Event()))
    (opened,) = await ready
    port = opened.getsockname()[1]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


def test_a_port_that_is_taken_is_an_error() -> None:
    """A port that someone else has, without sharing it, is not silently another one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(redis_url="redis://x.invalid", api_port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            open_socket(settings)


def test_a_host_without_an_address_is_an_error() -> None:
    """A name that does not resolve is told by its variable."""
    settings = Settings(
        redis_url="redis://x.invalid", api_host="nowhere.invalid", api_token="x" * 16
    )
    with pytest.raises(SettingsError, match="BANANAS_API_HOST"):
        open_socket(settings)


def test_ipv6_loopback_is_loopback() -> None:
    """`::1` needs no token."""
    opened = open_socket(Settings(redis_url="redis://x.invalid", api_host="::1", api_port=0))
    assert opened.family == socket.AF_INET6
    opened.close()


async def test_no_access_log_and_no_server_header(
    api: Api, capfd: pytest.CaptureFixture[str]
) -> None:
    """Requests leave no line behind, and answers do not say what serves them."""
    answer = await api.http.get("/livez")
    assert "server" not in answer.headers
    await api.http.get("/nosuch")
    assert capfd.readouterr() == ("", "")


async def test_the_servers_own_warnings_are_ours(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """What uvicorn complains about comes out under our logger's name tree."""
    await api.raw(b"nonsense\r\n\r\n")
    assert "Invalid HTTP request" in caplog.text


async def test_a_connection_without_requests_is_closed(
    server: Server, run_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its answer a connection has the keep-alive time for its next request, and no more."""
    monkeypatch.setattr(http_server, "KEEP_ALIVE_S", 0.2)
    monkeypatch.setattr(protocol, "LOOK_S", 0.02)
    async with run_api(server) as api:
        reader, writer = await api.connect()
        for _ in range(2):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
        answered = asyncio.get_running_loop().time()
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - answered > 0.15
        writer.close()


async def test_an_answered_request_is_no_garbage(api: Api) -> None:
    """What a request was made of goes with its answer: the collector has nothing to look for."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            assert (await api.http.post("/jobs", json={"name": "t"})).status_code == 201
        # by type(): other tests leave objects behind that refuse to be asked for their class
        kept = [each for each in gc.get_objects() if type(each) is RequestResponseCycle]
    finally:
        gc.enable()
    assert len(kept) <= 1
