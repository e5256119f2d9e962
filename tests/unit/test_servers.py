"""The servers the tests run on are real, private and leave nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from servers import Server, ServerStartError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis


def test_server_is_private_and_real(server: Server, redis: Redis) -> None:
    """It runs Lua, listens on no port, and is the process that was started."""
    assert redis.eval("return redis.call('INCR', KEYS[1])", 1, "{private}:n") >= 1
    assert redis.config_get("port") == {"port": "0"}
    assert redis.info()["process_id"] == server.pid


def test_prefix_is_new_each_time(server: Server, prefix: str, redis: Redis) -> None:
    """Nothing lies under it, and what is put there is of no other test."""
    assert not list(redis.scan_iter(f"{prefix}:*"))
    redis.set(f"{prefix}:x", 1)
    assert server.pid


def test_killed_server_with_aof_keeps_what_it_acknowledged(
    make_server: Callable[..., Server],
) -> None:
    """A kill is a power cut: data comes back from the append-only file, on the same address."""
    server = make_server(aof=True)
    server.client().set("a", "1")
    pid = server.pid
    server.restart()
    assert server.pid != pid
    assert server.client().get("a") == b"1"


def test_killed_server_is_not_hidden_by_retries(make_server: Callable[..., Server]) -> None:
    """The plain client says at once that the server is gone."""
    server = make_server()
    client = server.client()
    client.ping()
    server.kill()
    with pytest.raises(RedisConnectionError):
        client.ping()


def test_frozen_server_answers_late_only(make_server: Callable[..., Server]) -> None:
    """A frozen server keeps its connections and says nothing until it thaws."""
    server = make_server(tcp=True)
    client = server.client(timeout_s=0.2)
    client.ping()
    with server.frozen(), pytest.raises(RedisTimeoutError):
        client.ping()
    assert server.client().ping()
    assert server.tcp_url.startswith("redis://127.0.0.1:")


def test_server_that_cannot_start_says_why(make_server: Callable[..., Server]) -> None:
    """The server's own words are in the error."""
    with pytest.raises(ServerStartError, match="no-such-directive"):
        make_server(arguments=["--no-such-directive", "1"])


async def test_async_tests_run_on_uvloop() -> None:
    """An async test needs no mark and runs on the loop of production."""
    import asyncio  # noqa: PLC0415

    assert type(asyncio.get_running_loop()).__module__ == "uvloop"
