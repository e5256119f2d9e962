"""What we rely on that no server documents, on each server of the run (docs/guarantees.md, 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from append_only import commands, increments
from bananas.replies import Verdict, classify
from servers import version

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from servers import Kind, Server

SET = "return redis.call('SET', KEYS[1], 'x')"


def test_a_removal_of_nothing_lifts_the_refusal_at_maxmemory(
    server_kind: Kind, make_server: Callable[..., Server]
) -> None:
    """A script that removes first may write; one that writes first is refused, whole."""
    with make_server(server_kind).client() as client:
        client.config_set("maxmemory", 1)
        for refused in (SET, "redis.call('INCR', 'n') " + SET):
            with pytest.raises(OutOfMemoryError):
                client.eval(refused, 1, "a")
        assert client.eval("redis.call('ZREM', 'nosuch', '') " + SET, 1, "a") == b"OK"
        assert client.get("n") is None


def test_what_a_script_did_is_one_unit_of_the_file(
    server_kind: Kind, make_server: Callable[..., Server]
) -> None:
    """Several writes stand between MULTI and EXEC, a single one alone, none of nothing."""
    server = make_server(server_kind, aof=True)
    with server.client() as client:
        client.eval("redis.call('ZREM', 'nosuch', '') " + SET, 1, "a")
        client.eval("redis.call('SET', 'b', '1') redis.call('INCR', 'b') return 1", 0)
    server.stop()
    names = [command.name for command in commands(increments(server.folder).read_bytes())]
    assert names == [b"SELECT", b"SET", b"MULTI", b"SET", b"INCR", b"EXEC"]


def test_errors_of_scripts_begin_with_their_code(server: Server, redis: Redis, prefix: str) -> None:
    """Each is told from the others by its first word, inside a script as outside."""
    assert server.pid
    redis.set(f"{prefix}:text", "x")
    with pytest.raises(ResponseError) as wrong:
        redis.eval("return redis.call('LPUSH', KEYS[1], 'x')", 1, f"{prefix}:text")
    assert str(wrong.value).startswith("WRONGTYPE ")
    assert classify(str(wrong.value)) is Verdict.FATAL
    with pytest.raises(NoScriptError):
        redis.evalsha("0" * 40, 0)


def test_waiting_for_the_disk_is_there_from_7_2_on(server: Server, redis: Redis) -> None:
    """WAITAOF: Redis from 7.2, every Valkey."""
    known = b"waitaof" in cast("Any", redis.command_list())
    newer = "valkey" in server.kind or version(server.kind) >= (7, 2)
    assert known == newer
