"""The transport against real servers, and against a line that fails on cue."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import ssl
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from bananas.address import Address
from bananas.errors import (
    BrokerDeniedError,
    BrokerError,
    BrokerFullError,
    BrokerUnavailableError,
    ScriptError,
)
from bananas.link import Link
from bananas.scripts import Script
from bananas.transport import Transport
from faults.proxy import Fault, FaultProxy, command_of
from sentinels import Sentinel
from servers import Server, available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    MakeServer = Callable[..., Server]


def lua(name: str, text: str) -> Script:
    """Return a script of a test's own."""
    source = text.encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


# Within the run's own time limit, whose signal does not reach a test that awaits in uvloop.
BOUND_S = 45
ECHO = lua("echo", "return ARGV[1]")
WRITE = lua("write", "return redis.call('SET', KEYS[1], ARGV[1])")
BROKEN = lua("broken", "return nil + 1")
# As ours are: carried out once per request id, answering the same for ever.
ONCE = lua(
    "once",
    """
    local answer = redis.call('GET', KEYS[1])
    if answer then return answer end
    answer = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[1]
    redis.call('SET', KEYS[1], answer)
    return answer
    """,
)


@contextlib.asynccontextmanager
async def opened(url: str | Address, **options: Any) -> AsyncIterator[Transport]:  # noqa: ANN401
    """Give a transport and close it; what is awaited for ever fails."""
    transport = Transport(url, **options)
    try:
        async with asyncio.timeout(BOUND_S):
            yield transport
    finally:
        await transport.close()


async def once(transport: Transport, prefix: str, number: int, size: int = 0) -> None:
    """Make one idempotent call and check that the answer is its own."""
    tag = f"{number}{'x' * size}"
    answer = await transport.call(ONCE, [f"{prefix}:r{number}", f"{prefix}:n"], [tag])
    assert answer.partition(b":")[2] == tag.encode()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event: the transport counts, and tells nobody."""
    while not condition():  # noqa: ASYNC110 - as said
        await asyncio.sleep(0.002)


def effects(server: Server, prefix: str) -> int:
    """Return how many calls of `once` took effect."""
    with server.client() as client:
        return int(client.get(f"{prefix}:n") or 0)


def clients_named(server: Server, name: str) -> list[dict[str, str]]:
    """Return the server's connections of one name."""
    with server.client() as client:
        return [one for one in client.client_list() if one["name"] == name]


# --- the good weather ----------------------------------------------------------------------


async def test_script_and_command_answer(server: Server, prefix: str) -> None:
    """A script gets keys and arguments of any simple type; a command answers as Redis does."""
    async with opened(server.url) as transport:
        script = lua("all", "return {KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], #KEYS}")
        answer = await transport.call(script, [f"{prefix}:ü"], [b"\x00\xff", "ü", 7, 1.5])
        assert answer == [f"{prefix}:ü".encode(), b"\x00\xff", "ü".encode(), b"7", b"1.5", 1]
        assert await transport.command("GET", f"{prefix}:none") is None


async def test_a_forked_copy_says_nothing_on_our_connection(server: Server, prefix: str) -> None:
    """Two processes that write on one connection would get each other's answers (row 28)."""
    async with opened(server.url) as transport:
        assert await transport.command("ECHO", "first") == b"first"
        link = transport._link
        assert link is not None
        pid = os.fork()
        if pid == 0:
            try:
                link._wire.write(
                    b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$1\r\nx\r\n" % (len(prefix), prefix.encode())
                )
            finally:
                os._exit(0)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it ends at once
        assert await transport.command("ECHO", "second") == b"second"
        assert await transport.command("EXISTS", prefix) == 0
        assert transport.counters.drops == 0


def test_it_runs_on_the_plain_loop_too(server: Server) -> None:
    """Nothing here needs uvloop."""

    async def main() -> bytes:
        async with opened(server.url) as transport:
            answers = await asyncio.gather(*(transport.call(ECHO, (), [n]) for n in range(300)))
            assert answers == [b"%d" % n for n in range(300)]
            return bytes(await transport.command("ECHO", "fine"))

    assert asyncio.run(main()) == b"fine"


async def test_calls_of_one_tick_leave_in_one_write(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred calls made together are one write on the wire."""
    writes: list[int] = []
    send = Link.send
    async with opened(server.url) as transport:
        await transport.call(ECHO, (), [0])
        monkeypatch.setattr(Link, "send", lambda self, c: (writes.append(len(c)), send(self, c)))
        answers = await asyncio.gather(*(transport.submit(ECHO, (), [n]) for n in range(100)))
    assert answers == [b"%d" % n for n in range(100)]
    assert writes == [100]


async def test_one_process_holds_one_connection(server: Server) -> None:
    """Fifty callers at once and in turn share one connection, under our name."""
    async with opened(server.url, client_name="test-one") as transport:
        for _ in range(5):
            await asyncio.gather(*(transport.call(ECHO, (), [n]) for n in range(50)))
        assert len(clients_named(server, "test-one")) == 1
        assert transport.counters.connects == 1


async def test_a_wrong_argument_fails_its_own_call_only(server: Server) -> None:
    """None is no argument; the error comes at once and nothing was sent."""
    async with opened(server.url) as transport:
        with pytest.raises(TypeError):
            transport.submit(ECHO, (), [None])  # type: ignore[list-item]
        assert transport.outstanding == 0
        assert await transport.call(ECHO, (), ["fine"]) == b"fine"


@pytest.mark.parametrize("form", ["tcp", "unix"])
async def test_password_and_database_of_the_url_count(make_server: MakeServer, form: str) -> None:
    """A URL with user, password and database logs in and writes there, over TCP and unix."""
    server = make_server(tcp=True, arguments=("--requirepass", "p@ss/word"))
    quoted = "p%40ss%2Fword"
    url = {
        "tcp": f"redis://default:{quoted}@127.0.0.1:{server.port}/3",
        "unix": f"unix://:{quoted}@{server.socket}?db=3",
    }[form]
    async with opened(url) as transport:
        assert await transport.call(WRITE, ["key"], ["v"]) == b"OK"
    with Redis(unix_socket_path=str(server.socket), password="p@ss/word", db=3) as client:  # noqa: S106
        assert client.get("key") == b"v"


# --- callers that leave ----------------------------------------------------------------------


async def test_cancelled_callers_leave_the_answers_in_order(server: Server) -> None:
    """Of a hundred calls in flight half are abandoned; the others get their own answers."""
    async with opened(server.url) as transport:
        await transport.command("PING")
        tasks = [asyncio.create_task(transport.call(ECHO, (), [n])) for n in range(100)]
        await asyncio.sleep(0)  # the tasks have made their calls …
        await asyncio.sleep(0)  # … and the tick's write is out
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks[1::2])
        assert answers == [b"%d" % n for n in range(1, 100, 2)]
        assert await transport.call(ECHO, (), ["last"]) == b"last"
        assert all(task.cancelled() for task in tasks[::2])
        assert transport.counters.stale_replies == 50
        assert transport.counters.connects == 1


async def test_a_timeout_of_the_caller_does_not_cross_answers(server: Server) -> None:
    """CVE-2023-28858 in small: after a caller's timeout the next gets its own answer."""
    async with FaultProxy(server.socket) as proxy, opened(proxy.url) as transport:
        await transport.call(ECHO, (), ["warm"])
        proxy.plan(Fault.DELAY, seconds=0.2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await transport.call(ECHO, (), ["abandoned"])
        assert await transport.call(ECHO, (), ["mine"]) == b"mine"
        assert transport.counters.stale_replies == 1


# --- scripts that are gone -------------------------------------------------------------------


async def test_an_unknown_script_is_sent_once(make_server: MakeServer) -> None:
    """NOSCRIPT is answered with EVAL of the same keys and arguments; then the SHA is known."""
    server = make_server()
    async with opened(server.url) as transport:
        assert await transport.call(WRITE, ["k"], ["é" * 300]) == b"OK"
        assert await transport.call(WRITE, ["k2"], ["w"]) == b"OK"
        assert await transport.command("GET", "k") == ("é" * 300).encode()
        assert transport.counters.script_loads == 1


async def test_no_caller_sees_a_script_flush(make_server: MakeServer) -> None:
    """With SCRIPT FLUSH every few milliseconds, two thousand calls take effect once each."""
    server = make_server()
    async with opened(server.url) as transport, opened(server.url) as other:

        async def flush() -> None:
            while True:
                await other.command("SCRIPT", "FLUSH")
                await asyncio.sleep(0.002)

        async def caller(which: int) -> None:
            for number in range(which, 2000, 20):
                await once(transport, "t", number)

        flusher = asyncio.create_task(flush())
        await asyncio.gather(*(caller(which) for which in range(20)))
        flusher.cancel()
        assert transport.counters.script_loads > 1
    assert effects(server, "t") == 2000


async def test_a_broken_script_is_called_so(server: Server) -> None:
    """A Lua error becomes a ScriptError that names the script; the connection goes on."""
    async with opened(server.url) as transport:
        with pytest.raises(ScriptError, match=r"^broken: .*nil"):
            await transport.call(BROKEN)
        with pytest.raises(BrokerError, match=r"^NONSENSE: ERR unknown command"):
            await transport.command("NONSENSE")
        assert transport.counters.connects == 1


# --- the line fails --------------------------------------------------------------------------


async def test_a_lost_answer_brings_the_same_bytes_again(server: Server, prefix: str) -> None:
    """The command took effect, its answer is lost: the same bytes follow, and no second effect."""
    async with (
        FaultProxy(server.socket) as proxy,
        opened(proxy.url, reply_timeout_s=0.2) as transport,
    ):
        await once(transport, prefix, 0)
        plan = proxy.plan(Fault.DROP_REPLY, command=b"EVALSHA")
        calls = asyncio.gather(*(once(transport, prefix, number) for number in (1, 2, 3)))
        await plan.fired.wait()
        await until(lambda: not transport.connected)
        await once(transport, prefix, 4)
        await calls
        sent = [frame for frame in proxy.seen if command_of(frame) == b"EVALSHA"]
        assert sent[-7:-4] == sent[-4:-1]  # in order, and before what came later
        assert transport.counters.resends == 3
    assert effects(server, prefix) == 5


async def test_an_abandoned_call_is_not_repeated(server: Server, prefix: str) -> None:
    """Nobody waits for it any more: after a lost connection only the others go out again."""
    async with FaultProxy(server.socket) as proxy, opened(proxy.url) as transport:
        await once(transport, prefix, 0)
        proxy.plan(Fault.DELAY, command=b"EVALSHA", seconds=10)
        calls = [asyncio.create_task(once(transport, prefix, number)) for number in (1, 2)]
        await until(lambda: proxy.fired == 1)
        calls[0].cancel()
        proxy.reset()
        await calls[1]
        assert transport.counters.resends == 1


async def test_a_window_ends_on_time_after_a_lost_connection(server: Server) -> None:
    """A call that was in flight fails when its window ends, not a reply timeout later."""
    async with (
        FaultProxy(server.socket) as proxy,
        opened(proxy.url, reply_timeout_s=5, retry_window_s=0.3) as transport,
    ):
        await transport.call(ECHO, (), ["warm"])
        plan = proxy.plan(Fault.DELAY, seconds=10)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        call = transport.submit(ECHO, (), ["x"])
        await plan.fired.wait()
        await asyncio.sleep(0.15)  # by now the watchdog of the first call looks at this one
        proxy.refuse()
        with pytest.raises(BrokerUnavailableError):
            await call
        assert 0.3 <= time.monotonic() - began < 0.6


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())
async def test_no_fault_at_any_step_is_seen_by_a_caller(
    server: Server, prefix: str, fault: Fault
) -> None:
    """Whichever request of a scenario is hit, the handshake's included, calls take effect once.

    The scenario: a call alone, three at once, a large one.
    """
    steps = 0
    async with FaultProxy(server.socket) as proxy:
        for hit in range(1, 9):
            mine = f"{prefix}:{hit}"
            plan = proxy.plan(fault, nth=hit, seconds=0.2 if fault is Fault.DELAY else 0.0)
            async with opened(proxy.url, reply_timeout_s=0.1) as transport:
                await once(transport, mine, 0)
                await asyncio.gather(*(once(transport, mine, number) for number in (1, 2, 3)))
                await once(transport, mine, 4, size=2000)
            assert effects(server, mine) == 5
            steps += plan.fired.is_set()
            proxy.calm()
    assert steps >= 6  # the handshake's and each of the five calls'


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_answers_never_cross_in_chaos(server: Server, prefix: str, seed: int) -> None:
    """With one request in twenty hit by some fault, 300 calls take effect once each."""
    async with (
        FaultProxy(server.socket, tcp=True, seed=seed) as proxy,
        opened(proxy.url, reply_timeout_s=0.1) as transport,
    ):
        proxy.chaos(0.05, tuple(Fault), seconds=0.001)

        async def caller(which: int) -> None:
            for number in range(which, 300, 15):
                await once(transport, prefix, number, size=number)

        await asyncio.gather(*(caller(which) for which in range(15)))
        assert proxy.fired > 5
    assert effects(server, prefix) == 300


async def test_a_half_open_connection_is_noticed_within_the_reply_timeout(server: Server) -> None:
    """No FIN, no RST, only silence: after the reply timeout the call is on a new connection."""
    async with (
        FaultProxy(server.socket, tcp=True) as proxy,
        opened(proxy.url, reply_timeout_s=0.3) as transport,
    ):
        await transport.call(ECHO, (), ["warm"])
        proxy.silence()
        began = time.monotonic()
        assert await transport.call(ECHO, (), ["heard"]) == b"heard"
        assert 0.3 <= time.monotonic() - began < 0.6
        assert transport.counters.timeouts == 1
        assert proxy.accepted == 2


async def test_a_slow_answer_is_no_dead_connection(server: Server) -> None:
    """Only silence counts: answers that keep coming may together take longer than the timeout."""
    async with (
        FaultProxy(server.socket) as proxy,
        opened(proxy.url, reply_timeout_s=0.3) as transport,
    ):
        await transport.call(ECHO, (), ["warm"])
        for nth in range(1, 6):
            proxy.plan(Fault.DELAY, nth=nth, seconds=0.1)
        answers = await asyncio.gather(*(transport.call(ECHO, (), [n]) for n in range(5)))
        assert answers == [b"%d" % n for n in range(5)]
        assert transport.counters.drops == 0


async def test_a_call_late_in_a_quiet_spell_has_the_whole_timeout(server: Server) -> None:
    """The time a connection was not asked anything does not count as its silence."""
    async with (
        FaultProxy(server.socket) as proxy,
        opened(proxy.url, reply_timeout_s=0.3) as transport,
    ):
        await transport.call(ECHO, (), ["warm"])
        await asyncio.sleep(0.25)  # the quiet spell
        proxy.plan(Fault.DELAY, seconds=0.2)
        assert await transport.call(ECHO, (), ["late"]) == b"late"
        assert transport.counters.drops == 0


async def test_an_answer_nobody_asked_for_ends_the_connection(server: Server) -> None:
    """A stray answer may belong to anyone: the connection is dropped, the next call is right."""
    async with FaultProxy(server.socket) as proxy, opened(proxy.url) as transport:
        await transport.call(ECHO, (), ["warm"])
        dropped = transport._link.lost  # type: ignore[union-attr]
        proxy.inject(b"+STRAY\r\n")
        await dropped
        assert await transport.call(ECHO, (), ["mine"]) == b"mine"
        assert transport.counters.connects == 2


async def test_what_is_not_redis_is_not_waited_for() -> None:
    """A server that speaks something else leads to an error that says so."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    imposter = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = imposter.sockets[0].getsockname()[1]
    async with imposter, opened(f"redis://127.0.0.1:{port}", retry_window_s=0.2) as transport:
        with pytest.raises(BrokerUnavailableError, match="not the protocol of Redis"):
            await transport.call(ECHO)


async def test_a_command_that_may_not_be_repeated_is_not(server: Server, prefix: str) -> None:
    """Its lost answer is an error at once, the outcome unknown; with `repeat` it is sent again."""
    async with FaultProxy(server.socket) as proxy, opened(proxy.url) as transport:
        await transport.command("PING")
        proxy.plan(Fault.CUT_AFTER, command=b"INCR")
        with pytest.raises(BrokerUnavailableError, match="answer was lost"):
            await transport.command("INCR", f"{prefix}:n")
        assert effects(server, prefix) == 1
        proxy.plan(Fault.CUT_AFTER, command=b"INCR")
        assert await transport.command("INCR", f"{prefix}:n", repeat=True) == 3


async def test_large_writes_wait_for_the_socket(make_server: MakeServer) -> None:
    """While the server doesn't read, calls gather on our side and leave later, all of them."""
    server = make_server()
    async with opened(server.url, reply_timeout_s=5) as transport:
        await transport.call(ECHO, (), ["warm"])
        link = transport._link
        assert link is not None
        with server.frozen():
            futures = [transport.submit(ECHO, (), [f"{n}" + "x" * 50_000]) for n in range(600)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert link.paused
            assert transport._queue
        answers = await asyncio.gather(*futures)
        assert [answer.rstrip(b"x") for answer in answers] == [b"%d" % n for n in range(600)]


# --- the server fails ------------------------------------------------------------------------


async def test_a_second_of_standstill_costs_nothing(make_server: MakeServer) -> None:
    """SIGSTOP for 1 s: the calls are late, no connection is dropped, nothing is sent twice."""
    server = make_server()
    async with opened(server.url) as transport:
        await once(transport, "t", 0)
        with server.frozen():
            calls = [asyncio.create_task(once(transport, "t", number)) for number in range(1, 21)]
            await asyncio.sleep(1.0)  # the standstill itself
            assert not any(call.done() for call in calls)
        await asyncio.gather(*calls)
        assert (transport.counters.drops, transport.counters.resends) == (0, 0)
    assert effects(server, "t") == 21


async def test_a_standstill_beyond_the_timeout_is_survived(make_server: MakeServer) -> None:
    """SIGSTOP for longer than the reply timeout: calls are repeated and take effect once."""
    server = make_server()
    async with opened(server.url, reply_timeout_s=0.15, client_name="still") as transport:
        await once(transport, "t", 0)
        with server.frozen():
            calls = [asyncio.create_task(once(transport, "t", number)) for number in range(1, 21)]
            await asyncio.sleep(0.6)  # the standstill itself
        await asyncio.gather(*calls)
        assert transport.counters.timeouts >= 1
        assert len(clients_named(server, "still")) == 1
    assert effects(server, "t") == 21


async def test_calls_outlive_a_killed_server(make_server: MakeServer) -> None:
    """A kill -9 and a restart under load: no caller sees it, every call takes effect once."""
    server = make_server(aof=True)
    async with opened(server.url) as transport:

        async def caller(which: int) -> None:
            for number in range(which, 400, 10):
                await once(transport, "t", number)

        callers = asyncio.gather(*(caller(which) for which in range(10)))
        for _ in range(2):
            await asyncio.sleep(0.03)  # into the load
            await asyncio.to_thread(server.restart)
        await callers
        assert transport.counters.drops >= 1
    assert effects(server, "t") == 400


async def test_without_a_server_a_call_fails_when_its_window_ends(tmp_path: Path) -> None:
    """No sooner and not much later, naming the call, the address and the last problem."""
    url = f"unix://:hunter2@{tmp_path / 'none'}"
    async with opened(url, retry_window_s=0.3) as transport:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match=r"^echo: no answer .*No such file") as no:
            await transport.call(ECHO, (), ["x"])
        assert 0.3 <= time.monotonic() - began < 0.5
        assert "hunter2" not in str(no.value)
        assert 3 <= transport.counters.failed_connects <= 6  # 50, 100, 200 … ms apart
        assert transport.outstanding == 0


async def test_a_silent_server_fails_calls_when_their_window_ends(server: Server) -> None:
    """A server that accepts and never answers is no reason to wait longer."""
    async with (
        FaultProxy(server.socket) as proxy,
        opened(proxy.url, reply_timeout_s=0.1, retry_window_s=0.4) as transport,
    ):
        proxy.silence(also_new=True)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            await transport.call(ECHO, (), ["x"])
        assert 0.4 <= time.monotonic() - began < 0.7
        proxy.speak()
        assert await transport.call(ECHO, (), ["again"]) == b"again"


async def test_a_full_server_says_so(make_server: MakeServer) -> None:
    """OOM is an error of its own class, at once; what needs no memory still works."""
    server = make_server(arguments=("--maxmemory", "1kb"))
    async with opened(server.url) as transport:
        with pytest.raises(BrokerFullError, match=r"^write: .*OOM"):
            await transport.call(WRITE, ["k"], ["v"])
        assert await transport.call(ECHO, (), ["reads"]) == b"reads"
        assert transport.counters.connects == 1


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the codes of all error replies to come."""
    codes: list[str] = []
    refused = Transport.on_refused

    def noted(self: Transport, link: Link, call: Any, text: str) -> None:  # noqa: ANN401
        codes.append(text.partition(" ")[0])
        refused(self, link, call, text)

    monkeypatch.setattr(Transport, "on_refused", noted)
    return codes


async def test_a_busy_server_is_waited_for(make_server: MakeServer, refusals: list[str]) -> None:
    """While someone's script blocks the server, our calls back off on the same connection."""
    server = make_server(arguments=("--lua-time-limit", "30"))
    loop = lua(
        "loop",
        """
        local t = redis.call('TIME')
        local till = t[1] * 1000000 + t[2] + 400000
        repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] >= till
        """,
    )
    async with opened(server.url) as transport, opened(server.url) as operator:
        await transport.call(ECHO, (), ["warm"])
        busy = operator.submit(loop)
        await asyncio.sleep(0.1)  # past the time limit, from where the server answers BUSY
        calls = [transport.submit(ECHO, (), [0])]
        await until(lambda: "BUSY" in refusals)
        while not busy.done():
            calls.append(transport.submit(ECHO, (), [len(calls)]))
            await asyncio.sleep(0.005)
        assert await asyncio.gather(*calls) == [b"%d" % n for n in range(len(calls))]
        # A pause holds back new calls too: each of the four or so pauses asks with one batch.
        assert len(calls) > 20
        assert refusals.count("BUSY") < 2 * len(calls)
        assert transport.counters.connects == 1


async def test_a_loading_server_is_waited_for(make_server: MakeServer, refusals: list[str]) -> None:
    """After a restart calls wait until the data is there, instead of working on half of it."""
    # It looks at its clients once every 1,024 commands loaded; one call makes four.
    server = make_server(aof=True, arguments=("--key-load-delay", "150"))
    async with opened(server.url) as transport:
        await asyncio.gather(*(once(transport, "t", number) for number in range(1500)))
        restart = asyncio.create_task(asyncio.to_thread(server.restart))
        await transport._link.lost  # type: ignore[union-attr]
        await once(transport, "t", 1500)
        await restart
        assert "LOADING" in refusals
    assert effects(server, "t") == 1501


async def test_a_demoted_server_is_left_with_growing_pauses(make_server: MakeServer) -> None:
    """READONLY means the wrong server: drop, ask again, slower each time, until it is promoted."""
    server = make_server()
    async with opened(server.url) as transport:
        await transport.call(WRITE, ["k"], ["1"])
        with server.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            call = asyncio.create_task(transport.call(WRITE, ["k"], ["2"]))
            await asyncio.sleep(0.5)  # time for a hot loop to show
            assert 3 <= transport.counters.connects <= 7
            assert not call.done()
            client.execute_command("REPLICAOF", "NO", "ONE")
        assert await call == b"OK"


async def test_a_server_without_room_for_us_is_asked_again(make_server: MakeServer) -> None:
    """At maxclients the handshake is refused; the call goes through once there is room."""
    server = make_server()
    with server.client() as holder:
        holder.config_set("maxclients", 1)
        async with opened(server.url) as transport:
            call = asyncio.create_task(transport.call(ECHO, (), ["in"]))
            await until(lambda: "max number of clients" in transport._problem)
            assert not call.done()
            holder.config_set("maxclients", 10)
            async with asyncio.timeout(2.5):  # the longest pause, and not a reply timeout
                assert await call == b"in"


# --- credentials -----------------------------------------------------------------------------


async def test_wrong_credentials_are_told_without_the_secret(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After a short window the call fails as denied; no error and no log line has the password."""
    server = make_server(arguments=("--requirepass", "right-secret"))
    with caplog.at_level(logging.DEBUG, "bananas"):
        async with opened(f"unix://:wrong-secret@{server.socket}", denied_window_s=0.2) as it:
            with pytest.raises(BrokerDeniedError, match="WRONGPASS") as denied:
                await it.call(ECHO, (), ["x"])
            said = f"{denied.value!r} {denied.value} {it!r} {caplog.text}"
    assert "cannot reach Redis" in caplog.text
    assert "secret" not in said


async def test_a_proxy_that_quotes_our_password_is_not_quoted() -> None:
    """Some answer AUTH with its own arguments; the password is taken out before anyone sees it."""

    async def quote(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n+OK\r\n")
        await reader.read()
        writer.close()

    proxy = await asyncio.start_server(quote, "127.0.0.1", 0)
    url = f"redis://:hunter2@127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    async with proxy, opened(url, retry_window_s=0.2) as transport:
        with pytest.raises(BrokerUnavailableError, match=r"beginning with: '\*\*\*'") as caught:
            await transport.call(ECHO)
        assert "hunter2" not in str(caught.value)


async def test_missing_credentials_are_told(make_server: MakeServer) -> None:
    """A server that wants a password the URL doesn't have is denied, not unavailable."""
    server = make_server(arguments=("--requirepass", "secret"))
    async with opened(server.url, denied_window_s=0.1) as transport:
        with pytest.raises(BrokerDeniedError, match="NOAUTH"):
            await transport.call(ECHO, (), ["x"])


async def test_a_rotated_password_is_bridged(make_server: MakeServer) -> None:
    """Calls made while the server doesn't know the new password yet wait for it, and go on."""
    server = make_server(arguments=("--requirepass", "old"))
    async with opened(f"unix://:new@{server.socket}") as transport:
        call = asyncio.create_task(transport.call(ECHO, (), ["in"]))
        await until(lambda: transport.counters.failed_connects > 0)
        with Redis(unix_socket_path=str(server.socket), password="old") as client:  # noqa: S106
            client.config_set("requirepass", "new")
        assert await call == b"in"


async def test_denied_calls_do_not_end_the_transport(make_server: MakeServer) -> None:
    """Once the credentials are right again, later calls work by themselves."""
    server = make_server(arguments=("--requirepass", "old"))
    async with opened(f"unix://:new@{server.socket}", denied_window_s=0.0) as transport:
        with pytest.raises(BrokerDeniedError):
            await transport.call(ECHO, (), ["x"])
        with Redis(unix_socket_path=str(server.socket), password="old") as client:  # noqa: S106
            client.config_set("requirepass", "new")
        while not transport.connected:
            with contextlib.suppress(BrokerDeniedError):
                await transport.call(ECHO, (), ["x"])
        assert await transport.call(ECHO, (), ["y"]) == b"y"


async def test_an_acl_refuses_the_call_not_the_connection(make_server: MakeServer) -> None:
    """NOPERM is the call's own error, at once; what is allowed goes on."""
    server = make_server()
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "worker", "on", ">pw", "~*", "+@all", "-set", "-client|setname"
        )
    async with opened(f"unix://worker:pw@{server.socket}") as transport:
        with pytest.raises(BrokerDeniedError, match="NOPERM"):
            await transport.command("SET", "k", "v")
        assert await transport.call(ECHO, (), ["x"]) == b"x"
        assert transport.counters.connects == 1


# --- the end ---------------------------------------------------------------------------------


async def test_close_fails_what_is_open_and_may_be_repeated(server: Server) -> None:
    """Calls in flight and calls waiting fail alike, saying why; so does every later one."""
    async with FaultProxy(server.socket) as proxy:
        transport = Transport(proxy.url, client_name="closing")
        await transport.call(ECHO, (), ["warm"])
        proxy.silence()
        sent = transport.submit(ECHO, (), ["sent"])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        unsent = transport.submit(ECHO, (), ["unsent"])
        await transport.close()
        for future in (sent, unsent):
            with pytest.raises(BrokerUnavailableError, match="the transport was closed"):
                await future
        await asyncio.gather(transport.close(), transport.close())
        with pytest.raises(BrokerUnavailableError, match="the transport is closed"):
            await transport.call(ECHO)
        assert not transport.connected
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "bananas.transport"]


async def test_close_closes_after_the_loop_has_cancelled_our_task(server: Server) -> None:
    """A loop that ends cancels all tasks first; the connection is closed all the same."""
    transport = Transport(server.url, client_name="cancelled")
    await transport.call(ECHO, (), ["x"])
    owner = transport._owner
    assert owner is not None
    owner.cancel()
    await asyncio.wait([owner])
    await transport.close()
    await until(lambda: not clients_named(server, "cancelled"))


async def test_an_unused_transport_opens_nothing(server: Server) -> None:
    """Making one connects nowhere, and closing it is quick."""
    async with FaultProxy(server.socket) as proxy:
        await Transport(proxy.url).close()
        assert proxy.accepted == 0


async def test_close_does_not_wait_for_a_connection_attempt(server: Server) -> None:
    """Closing in the middle of a handshake ends it."""
    async with FaultProxy(server.socket) as proxy:
        proxy.silence(also_new=True)
        transport = Transport(proxy.url)
        call = transport.submit(ECHO, (), ["x"])
        await until(lambda: proxy.accepted > 0)
        async with asyncio.timeout(0.5):
            await transport.close()
        with pytest.raises(BrokerUnavailableError):
            await call


# --- other roads to a server -------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Return certificate and key of 127.0.0.1, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    subprocess.run(
        [
            openssl,
            *request.split(),
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(cert),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_tls_is_used_and_verified(server: Server, certificate: tuple[Path, Path]) -> None:
    """With the authority given, calls work; without it the certificate is not trusted."""
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def bridge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, to_server = await asyncio.open_unix_connection(str(server.socket))

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        await asyncio.gather(copy(reader, to_server), copy(answers, writer))

    front = await asyncio.start_server(bridge, "127.0.0.1", 0, ssl=context)
    port = front.sockets[0].getsockname()[1]
    async with front:
        async with opened(f"rediss://127.0.0.1:{port}?ssl_ca_certs={cert}") as transport:
            big = "x" * 300_000
            assert await transport.call(ECHO, (), [big]) == big.encode()
        async with opened(f"rediss://127.0.0.1:{port}", retry_window_s=0.2) as transport:
            with pytest.raises(BrokerUnavailableError, match="certificate verify failed"):
                await transport.call(ECHO, (), ["x"])


async def test_the_resolver_is_asked_before_every_connection(server: Server) -> None:
    """A resolver's errors are retried; its latest answer is where the calls go."""
    async with FaultProxy(server.socket) as first, FaultProxy(server.socket) as second:
        answers = [first.url, LookupError("not known yet"), second.url]

        async def resolve() -> Address:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return Address(path=answer.removeprefix("unix://"))

        async with opened(first.url, resolver=resolve) as transport:
            await transport.call(ECHO, (), ["x"])
            first.refuse()
            assert await transport.call(ECHO, (), ["y"]) == b"y"
        assert (first.accepted, second.accepted, answers) == (1, 1, [])


@pytest.fixture
def make_sentinel() -> Iterator[Callable[[int], Server]]:
    """Return a maker of a running sentinel that watches a master "jobs" at a port."""
    made: list[Server] = []

    def make(master_port: int) -> Server:
        sentinel = Sentinel(available()[0], f"127.0.0.1 {master_port}", quorum=1)
        made.append(sentinel)
        return sentinel.start()

    yield make
    for sentinel in made:
        sentinel.discard()


async def test_sentinels_lead_to_the_master_and_to_the_next_one(
    make_server: MakeServer, make_sentinel: Callable[[int], Server]
) -> None:
    """The master is found by name past a dead sentinel; after a switch calls go to the new one."""
    old, new = make_server(tcp=True), make_server(tcp=True)
    dead = make_server(tcp=True)
    dead.kill()
    sentinel = make_sentinel(old.port)
    url = f"redis+sentinel://127.0.0.1:{dead.port},127.0.0.1:{sentinel.port}/jobs/2"
    async with opened(url) as transport:
        assert await transport.call(WRITE, ["k"], ["first"]) == b"OK"
        with old.client(db=2) as at_old, new.client(db=2) as at_new, sentinel.client() as watcher:
            assert at_old.get("k") == b"first"
            watcher.execute_command("SENTINEL", "REMOVE", "jobs")
            watcher.execute_command("SENTINEL", "MONITOR", "jobs", "127.0.0.1", str(new.port), "1")
            at_old.execute_command("REPLICAOF", "127.0.0.1", "1")
            assert await transport.call(WRITE, ["k"], ["second"]) == b"OK"
            assert (at_old.get("k"), at_new.get("k")) == (b"first", b"second")


async def test_a_sentinel_that_names_a_replica_is_not_believed(
    make_server: MakeServer, make_sentinel: Callable[[int], Server]
) -> None:
    """The server's own ROLE decides, so that not even reads go to a demoted one."""
    server = make_server(tcp=True)
    sentinel = make_sentinel(server.port)
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/jobs"
    async with opened(url, retry_window_s=0.3) as transport:
        with pytest.raises(BrokerUnavailableError, match="is not the master"):
            await transport.call(ECHO, (), ["x"])


async def test_an_unknown_master_is_told(
    make_server: MakeServer, make_sentinel: Callable[[int], Server]
) -> None:
    """The error names the master and what each sentinel said."""
    sentinel = make_sentinel(make_server(tcp=True).port)
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/other"
    async with opened(url, retry_window_s=0.2) as transport:
        with pytest.raises(BrokerUnavailableError, match=r'master "other": .* does not know it'):
            await transport.call(ECHO, (), ["x"])
