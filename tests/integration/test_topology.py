"""Who listens to Sentinels hears of a change, whichever of them is there."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from bananas import topology
from bananas.address import parse_url
from bananas.topology import Finder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from servers import Server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be told sooner that somebody is silent."""
    monkeypatch.setattr(topology, "_PAUSE_S", 0.01)
    monkeypatch.setattr(topology, "_SILENCE_S", 0.2)


@asynccontextmanager
async def listening(*sentinels: Server) -> AsyncIterator[Callable[[], asyncio.Event]]:
    """Listen to servers, which publish as Sentinels do; gives a maker of events for news."""
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    finder = Finder(parse_url(f"redis+sentinel://{hosts}/jobs"))
    events: list[asyncio.Event] = []

    def next_news() -> asyncio.Event:
        events.append(asyncio.Event())
        return events[-1]

    def hear() -> None:
        for event in events:
            event.set()

    listener = asyncio.create_task(finder.listen(hear))
    try:
        async with asyncio.timeout(30):
            yield next_news
    finally:
        listener.cancel()
        await asyncio.wait([listener])


def publish(server: Server, channel: str) -> int:
    """Publish; returns how many heard."""
    with server.client() as client:
        return int(client.publish(channel, "jobs 127.0.0.1 1 127.0.0.1 2"))


@pytest.mark.parametrize("channel", ["+switch-master", "+promoted-slave"])
async def test_news_is_heard(make_server: Callable[..., Server], channel: str) -> None:
    """The beginning counts as news, as what came before was not heard; then each message."""
    sentinel = make_server(tcp=True)
    async with listening(sentinel) as next_news:
        await next_news().wait()
        while publish(sentinel, "+switch-master") == 0:  # noqa: ASYNC110 - until it is there
            await asyncio.sleep(0.01)
        news = next_news()
        assert publish(sentinel, channel) == 1
        await news.wait()


async def test_a_dead_or_frozen_one_is_left_for_the_next(
    make_server: Callable[..., Server],
) -> None:
    """One that has gone, and one that only keeps its connections open."""
    first, second = make_server(tcp=True), make_server(tcp=True)
    async with listening(first, second) as next_news:
        await next_news().wait()
        news = next_news()
        with first.frozen():
            await news.wait()  # of the second: subscribing is news
            while publish(second, "+switch-master") == 0:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        news = next_news()
        second.kill()
        await news.wait()
        while publish(first, "+switch-master") == 0:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


async def test_silence_alone_is_no_reason_to_leave(make_server: Callable[..., Server]) -> None:
    """One that answers a PING stays: no news is good news."""
    sentinel = make_server(tcp=True)
    async with listening(sentinel) as next_news:
        await next_news().wait()
        with sentinel.client() as client:
            while client.info("commandstats").get("cmdstat_ping", {}).get("calls", 0) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            found = client.info("clients")
            assert client.info("stats")["total_connections_received"] < 10, found
