"""Streams of items: order, verdicts, memory, and what happens when a source or the server fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from bananas.broker import MAX_JOBS
from bananas.client import Client
from bananas.errors import BrokerFullError
from bananas.producer import MAX_CALL_BYTES, MAX_IN_FLIGHT
from bananas.settings import Settings
from bananas.stream import LINGER_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from redis import Redis

    from bananas.submission import Verdicts
    from servers import Server


@pytest.fixture
async def client(server: Server, prefix: str) -> AsyncIterator[Client]:
    """Return a connected client under a prefix of its own."""
    async with Client(settings=Settings(redis_url=server.url, key_prefix=prefix)) as client:
        yield client


def items(count: int) -> Iterator[dict[str, Any]]:
    """Return good items, but each hundredth bad and each thousandth a repetition of job "0"."""
    for n in range(count):
        if n % 1000 == 0:
            yield {"name": "t", "id": "zero"}
        elif n % 100 == 0:
            yield {"name": "t", "payload": {"n": n}, "priority": "?"}
        else:
            yield {"name": "t", "payload": {"n": n}}


async def test_every_item_has_its_verdict_in_order(
    client: Client, redis: Redis, prefix: str
) -> None:
    """The report counts all, and holds a verdict for each item at its index."""
    report = await client.submit_many(items(5000))
    assert (report.accepted, report.duplicates, report.rejected) == (4951, 4, 45)
    assert report.total == 5000
    assert report.rate > 0
    assert report.verdicts is not None
    assert [verdict.index for verdict in report.verdicts] == list(range(5000))
    statuses = {n: report.verdicts[n].status for n in (0, 1, 100, 1000, 4999)}
    assert statuses == {
        0: "accepted",
        1: "accepted",
        100: "rejected",
        1000: "duplicate",
        4999: "accepted",
    }
    assert report.verdicts[1000].id == "zero"
    assert report.verdicts[100].field == "priority"
    listed = [job_id.decode() for job_id in redis.lrange(f"{prefix}:queue:normal", 0, -1)]
    accepted = [v.id for v in report.verdicts if v.status == "accepted"]
    assert listed[::-1] == accepted


async def test_chunks_are_told_in_order(client: Client) -> None:
    """`on_chunk` is given every verdict once, in order, before the report; nothing is kept."""
    told: list[int] = []

    def on_chunk(verdicts: Verdicts) -> None:
        told.extend(verdict.index for verdict in verdicts)

    report = await client.submit_many(items(3300), keep_verdicts=False, on_chunk=on_chunk)
    assert told == list(range(3300))
    assert report.verdicts is None


async def test_an_answer_that_overtakes_another_is_told_after_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of verdicts is that of the items, whatever the order of the answers."""
    producer = (await client.session()).producer
    submit_chunk = producer.submit_chunk
    first = asyncio.Event()

    async def slow_first(drafts: Any) -> Any:  # noqa: ANN401
        receipt = await submit_chunk(drafts)
        if first.is_set():
            return receipt
        first.set()
        await asyncio.sleep(0.1)
        return receipt

    monkeypatch.setattr(producer, "submit_chunk", slow_first)
    told: list[int] = []
    await client.submit_many(
        ({"name": "t"} for _ in range(1600)),
        on_chunk=lambda verdicts: told.extend(verdict.index for verdict in verdicts),
    )
    assert told == list(range(1600))


async def test_nothing_gives_an_empty_report(client: Client) -> None:
    """An empty source has an empty report."""
    report = await client.submit_many([])
    assert (report.total, list(report.verdicts or [])) == (0, [])


async def test_an_endless_source_is_pulled_no_faster_than_answered(client: Client) -> None:
    """From an async source without end, a bounded number of items is ahead of the answers."""
    pulled = answered = most_ahead = 0

    async def endless() -> AsyncIterator[dict[str, Any]]:
        nonlocal pulled, most_ahead
        while answered < 20_000:
            pulled += 1
            most_ahead = max(most_ahead, pulled - answered)
            yield {"name": "t", "payload": pulled}

    def on_chunk(verdicts: Verdicts) -> None:
        nonlocal answered
        answered += len(verdicts)

    report = await client.submit_many(endless(), keep_verdicts=False, on_chunk=on_chunk)
    assert report.accepted == pulled
    assert most_ahead <= (MAX_IN_FLIGHT + 1) * MAX_JOBS


async def test_a_stalled_server_stops_the_pulling(make_server: Callable[..., Server]) -> None:
    """While the server does not answer, a slow source is not taken in without bound either."""
    server = make_server()
    pulled = 0
    release = asyncio.Event()

    async def slow() -> AsyncIterator[dict[str, Any]]:
        nonlocal pulled
        while not release.is_set():
            pulled += 1
            await asyncio.sleep(0)
            yield {"name": "t", "payload": pulled}

    async with Client(server.url) as client:
        with server.frozen():
            streaming = asyncio.ensure_future(client.submit_many(slow(), keep_verdicts=False))
            before = -1
            while pulled != before:  # until it has stopped by itself
                before = pulled
                await asyncio.sleep(0.2)
            assert 0 < pulled <= (MAX_IN_FLIGHT + 2) * MAX_JOBS
        release.set()
        assert (await streaming).accepted == pulled


async def test_a_stalled_server_stops_the_sending(make_server: Callable[..., Server]) -> None:
    """What lingers of a slow source is not sent while the calls in flight have no answer."""
    server = make_server()
    release = asyncio.Event()

    async def slow() -> AsyncIterator[dict[str, Any]]:
        while not release.is_set():
            yield {"name": "t"}
            await asyncio.sleep(0.005)

    async with Client(server.url) as client:
        producer = (await client.session()).producer
        with server.frozen():
            streaming = asyncio.ensure_future(client.submit_many(slow(), keep_verdicts=False))
            await asyncio.sleep(15 * LINGER_S)
            assert len(producer._in_flight) + len(producer._chunks) == MAX_IN_FLIGHT
        release.set()
        await streaming


async def test_large_items_are_bounded_by_bytes(client: Client) -> None:
    """With payloads near the limit, a chunk holds one mebibyte, not five hundred items."""
    pulled = answered = most_ahead = 0

    def large() -> Iterator[dict[str, Any]]:
        nonlocal pulled, most_ahead
        for _ in range(30):
            pulled += 1
            most_ahead = max(most_ahead, pulled - answered)
            yield {"name": "t", "payload": "x" * (MAX_CALL_BYTES // 2)}

    def on_chunk(verdicts: Verdicts) -> None:
        nonlocal answered
        answered += len(verdicts)

    report = await client.submit_many(large(), on_chunk=on_chunk)
    assert report.accepted == 30
    assert most_ahead <= (MAX_IN_FLIGHT + 1) * 3


async def test_an_item_of_a_slow_source_does_not_wait_for_its_chunk(client: Client) -> None:
    """An item is accepted soon, though the next one is not there yet."""
    told = asyncio.Event()

    async def two() -> AsyncIterator[dict[str, Any]]:
        yield {"name": "t"}
        await asyncio.wait_for(told.wait(), 10)
        yield {"name": "t"}

    report = await client.submit_many(two(), on_chunk=lambda _: told.set())
    assert report.accepted == 2


async def test_a_source_that_fails_leaves_what_was_sent(client: Client) -> None:
    """The error of a source is raised as it is, after the chunks on their way are answered."""
    told = 0

    def failing() -> Iterator[dict[str, Any]]:
        yield from ({"name": "t"} for _ in range(1700))
        raise LookupError("no more")

    def on_chunk(verdicts: Verdicts) -> None:
        nonlocal told
        told += len(verdicts)

    with pytest.raises(LookupError, match="no more"):
        await client.submit_many(failing(), on_chunk=on_chunk)
    assert told == 1500
    assert (await client.stats())["accepted"] == 1500


async def test_a_refused_chunk_ends_the_stream(make_server: Callable[..., Server]) -> None:
    """A server at maxmemory ends the stream with its error, from a fast source or a slow one."""
    server = make_server()
    over = asyncio.Event()

    async def endless() -> AsyncIterator[dict[str, Any]]:
        while not over.is_set():
            yield {"name": "t"}
            await asyncio.sleep(0.02)

    async with Client(server.url) as client:
        with server.client() as plain:
            plain.config_set("maxmemory", "1")
        with pytest.raises(BrokerFullError):
            await client.submit_many({"name": "t"} for _ in range(10_000))
        with pytest.raises(BrokerFullError):
            await asyncio.wait_for(client.submit_many(endless()), 5)
        over.set()


async def test_a_cancelled_stream_stops(client: Client) -> None:
    """Cancelling ends the pulling; what was on its way has been answered."""
    pulled = 0

    async def endless() -> AsyncIterator[dict[str, Any]]:
        nonlocal pulled
        while True:
            pulled += 1
            if pulled % 100 == 0:
                await asyncio.sleep(0)
            yield {"name": "t"}

    streaming = asyncio.ensure_future(client.submit_many(endless(), keep_verdicts=False))
    while pulled < 3000:  # noqa: ASYNC110 - it is the stream's progress that is waited for
        await asyncio.sleep(0)
    streaming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await streaming
    before = pulled
    await client.ping()
    assert pulled == before
    assert (await client.stats())["drift"] == 0
