"""Row 18: a slow network: single bytes, delays, resets within a reply; no answer goes astray."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from typing import TYPE_CHECKING

import pytest

from bananas import link
from bananas.broker import MEMORY_MS
from bananas.context import current_job
from bananas.errors import BrokerUnavailableError
from bananas.scripts import Script
from bananas.transport import REPLY_TIMEOUT_S, RETRY_WINDOW_S, Transport
from faults.proxy import Fault, FaultProxy
from faults.throttle import Throttle
from workbench import Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from servers import Server

_ONCE = b"""
local answer = redis.call('GET', KEYS[1])
if answer then return answer end
answer = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], answer)
return answer
"""
ONCE = Script("once", _ONCE, hashlib.sha1(_ONCE, usedforsecurity=False).hexdigest())
"""As ours are: carried out once per request, answering the same for ever."""


@contextlib.asynccontextmanager
async def opened(url: str, **options: float) -> AsyncIterator[Transport]:
    """Give a transport and close it."""
    transport = Transport(url, **options)  # type: ignore[arg-type]
    try:
        yield transport
    finally:
        await transport.close()


async def ask(transport: Transport, prefix: str, number: int, size: int = 0) -> None:
    """Make one call; its answer must be its own, to the last byte."""
    tag = b"%d:" % number + b"x" * size
    answer = await transport.call(ONCE, [f"{prefix}:r{number}", f"{prefix}:n"], [tag])
    assert answer.partition(b":")[2] == tag


def effects(server: Server, prefix: str) -> int:
    """Return how many calls took effect."""
    with server.client() as client:
        return int(client.get(f"{prefix}:n") or 0)


async def test_a_byte_a_second_is_given_up_in_time(server: Server, prefix: str) -> None:
    """It is no connection: calls fail when their window ends, and succeed when it is over."""
    async with (
        FaultProxy(server.socket, tcp=True) as proxy,
        opened(proxy.url, reply_timeout_s=0.3, retry_window_s=1.0) as transport,
    ):
        await ask(transport, prefix, 0)
        proxy.slow(pieces=(1, 1), pause_s=1.0)
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            await ask(transport, prefix, 1)
        assert time.monotonic() - began_s < 10.0
        proxy.slow()
        await ask(transport, prefix, 2)
        await ask(transport, prefix, 1)
    assert effects(server, prefix) == 3


async def test_a_large_request_may_take_its_time(server: Server, prefix: str) -> None:
    """While it leaves, nothing is overdue, nor what waits behind it: it is sent once."""
    async with (
        Throttle(server.socket, 400_000) as line,
        opened(line.url, reply_timeout_s=0.5, retry_window_s=1.0) as transport,
    ):
        await ask(transport, prefix, 0)
        began_s = time.monotonic()
        large = [asyncio.ensure_future(ask(transport, prefix, n, 600_000)) for n in (1, 2, 3)]
        await asyncio.sleep(0.1)
        await asyncio.gather(*large, *(ask(transport, prefix, n) for n in range(4, 14)))
        assert time.monotonic() - began_s > 2.0, "the line was not slow"
        counters = transport.counters
        assert (counters.timeouts, counters.resends, counters.connects) == (0, 0, 1)
    assert effects(server, prefix) == 14


async def test_a_large_request_that_stops_leaving_is_given_up_in_time(
    server: Server, prefix: str
) -> None:
    """A line that takes nothing more is dead after the time of an answer, as for small ones."""
    async with (
        Throttle(server.socket, 400_000) as line,
        opened(line.url, reply_timeout_s=0.5, retry_window_s=1.0) as transport,
    ):
        await ask(transport, prefix, 0)
        call = asyncio.ensure_future(ask(transport, prefix, 1, 3_000_000))
        await asyncio.sleep(1.0)
        assert transport.counters.timeouts == 0
        line.stop()
        stopped_s = time.monotonic()
        while transport.counters.timeouts == 0:
            assert time.monotonic() - stopped_s < 5.0, "not given up"
            await asyncio.sleep(0.01)  # the transport tells nobody
        with pytest.raises(BrokerUnavailableError):
            await call
    assert effects(server, prefix) == 1


@pytest.mark.parametrize("reply_timeout_s", [0.3, 10.0])
async def test_a_large_request_that_is_refused_for_ever_fails_in_time(
    make_server: Callable[..., Server], prefix: str, reply_timeout_s: float
) -> None:
    """It has left long ago: what holds it up is the server, and its window holds as for any."""
    server = make_server()
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
    async with opened(server.url, reply_timeout_s=reply_timeout_s, retry_window_s=1.0) as transport:
        for _ in range(3):
            async with asyncio.timeout(8):
                with pytest.raises(BrokerUnavailableError, match="NOREPLICAS"):
                    await ask(transport, prefix, 1, 200_000)
    assert effects(server, prefix) == 0


async def test_a_large_request_older_than_memory_leaves_no_further(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past its window there is an end to its progress: a late copy could be carried out anew."""
    monkeypatch.setattr(link, "UPLOAD_S", 1.0)
    async with (
        Throttle(server.socket, 200_000) as line,
        opened(line.url, reply_timeout_s=0.5, retry_window_s=1.0) as transport,
    ):
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            await ask(transport, prefix, 1, 3_000_000)
        assert 1.0 < time.monotonic() - began_s < 8.0


def test_a_copy_is_dead_before_its_request_is_forgotten() -> None:
    """Window, upload and answer: what may still arrive is younger than what is remembered."""
    oldest_s = RETRY_WINDOW_S + link.UPLOAD_S + REPLY_TIMEOUT_S
    assert oldest_s < MEMORY_MS / 1000


async def test_a_large_answer_may_take_its_time(server: Server, prefix: str) -> None:
    """What keeps coming is no silence: no second sending, which would be as slow."""
    async with (
        FaultProxy(server.socket, tcp=True) as proxy,
        opened(proxy.url, reply_timeout_s=1.0) as transport,
    ):
        await ask(transport, prefix, 0)
        await transport.command("SET", f"{prefix}:large", b"y" * 400_000)
        proxy.slow(pieces=(10_000, 10_000), pause_s=0.05)
        began_s = time.monotonic()
        assert await transport.command("GET", f"{prefix}:large") == b"y" * 400_000
        assert time.monotonic() - began_s > 1.0
        assert (transport.counters.drops, transport.counters.timeouts) == (0, 0)


async def test_half_a_second_each_way(server: Server, prefix: str) -> None:
    """Two hundred calls share the wait: nothing is dropped, sent twice or crossed."""
    async with FaultProxy(server.socket, tcp=True) as proxy, opened(proxy.url) as transport:
        proxy.slow(latency_s=0.5)
        await asyncio.gather(*(ask(transport, prefix, number) for number in range(200)))
        assert (transport.counters.drops, transport.counters.resends) == (0, 0)
    assert effects(server, prefix) == 200


async def test_a_worker_half_a_second_from_its_answers(server: Server, prefix: str) -> None:
    """It is slower to begin, and else as good as any: each job runs once."""
    runs: list[str] = []
    async with (
        FaultProxy(server.socket, tcp=True) as proxy,
        Bench(server.url, prefix, lease_ttl_s=15) as bench,
    ):

        async def t() -> None:
            runs.append(current_job().id)

        bench.app.task(name="t")(t)
        proxy.slow(latency_s=0.25)
        worker = await bench.worker(url=proxy.url)
        ids = [(await bench.app.client.submit("t")).id for _ in range(20)]
        await bench.idle(within_s=30)
        assert sorted(runs) == sorted(ids)
        assert (await bench.counters())["completed"] == 20
        await worker.stop()


@pytest.mark.parametrize("seed", range(3))
async def test_pieces_of_any_size(server: Server, prefix: str, seed: int) -> None:
    """However the bytes are cut up, both ways, they are the same bytes."""
    async with (
        FaultProxy(server.socket, tcp=True, seed=seed) as proxy,
        opened(proxy.url) as transport,
    ):
        proxy.slow(pieces=(1, 40))
        await asyncio.gather(*(ask(transport, prefix, n, size=n % 90) for n in range(100)))
        assert transport.counters.drops == 0
    assert effects(server, prefix) == 100


@pytest.mark.parametrize("seed", range(5))
async def test_fuzz(server: Server, prefix: str, seed: int) -> None:
    """Pieces, silences, cuts, doubles, halves of answers and callers that leave, all by a seed.

    Whoever waits for its answer gets its own; each call that was waited for took effect once.
    """
    chance = random.Random(seed)
    left = 0

    async def caller(transport: Transport, which: int) -> None:
        nonlocal left
        for number in range(which, 120, 8):
            call = asyncio.ensure_future(ask(transport, prefix, number, size=chance.randrange(300)))
            if chance.random() < 0.1:
                left += 1
                await asyncio.wait([call], timeout=chance.random() / 100)
                call.cancel()
            else:
                await call

    async with (
        FaultProxy(server.socket, tcp=seed % 2 == 0, seed=seed) as proxy,
        opened(proxy.url, reply_timeout_s=0.2) as transport,
    ):
        await ask(transport, prefix, 1000)
        proxy.slow(pieces=(1, 1 + 40 * (seed % 5)))
        proxy.chaos(0.15, tuple(Fault), seconds=0.001)
        await asyncio.gather(*(caller(transport, which) for which in range(8)))
        assert proxy.fired >= 5
        assert transport.counters.drops >= 1
    assert left > 0
    assert 121 - left <= effects(server, prefix) <= 121
