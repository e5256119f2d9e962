"""A watch that may connect and not subscribe: it tries again ever more seldom, and says so once."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from bananas import watch as watching
from bananas.watch import BACKOFF_BASE_S, Watch
from workbench import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from redis import Redis

    from servers import Server

CHANNEL = "news"
PATIENCE_S = 30.0


def connections(redis: Redis) -> int:
    """Return how many the server has accepted."""
    return int(redis.info("stats")["total_connections_received"])


@contextlib.asynccontextmanager
async def deaf(server: Server, redis: Redis) -> AsyncIterator[Watch]:
    """Give the watch of a user who may do all but subscribe."""
    redis.execute_command("ACL", "SETUSER", "deaf", "on", ">p", "~*", "&*", "+@all", "-subscribe")
    watch = Watch(server.url.replace("unix://", "unix://deaf:p@"), client_name="deaf")
    try:
        yield watch
    finally:
        await watch.close()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """Return a server of the test's own, whose users it may change."""
    return make_server()


async def test_whoever_may_not_subscribe_connects_ever_more_seldom(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The pauses double although each connection succeeds; one warning for all of them."""
    with server.client() as redis:
        async with deaf(server, redis) as watch:
            before, began_s = connections(redis), time.monotonic()
            with watch.open(CHANNEL) as signal:
                await until(lambda: connections(redis) >= before + 6)
                # of five pauses each is at least half of twice the last
                assert time.monotonic() - began_s > BACKOFF_BASE_S * (1 + 2 + 4 + 8 + 16) * 0.9
                assert not signal.subscribed.is_set()
                warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
                assert len(warned) == 1, warned
                assert "NOPERM" in warned[0]
                redis.execute_command("ACL", "SETUSER", "deaf", "+subscribe")
                assert await signal.listening(PATIENCE_S)


async def test_a_subscription_ends_the_long_pauses(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it a lost connection is made anew at once, whatever was refused before it."""
    monkeypatch.setattr(watching, "BACKOFF_BASE_S", 0.001)
    monkeypatch.setattr(watching, "BACKOFF_CAP_S", 600.0)
    with server.client() as redis:
        async with deaf(server, redis) as watch:
            before = connections(redis)
            with watch.open(CHANNEL) as signal:
                await until(lambda: connections(redis) >= before + 10)
                redis.execute_command("ACL", "SETUSER", "deaf", "+subscribe")
                assert await signal.listening(PATIENCE_S)
                for _ in range(7):  # the last pause of so many more would be half a minute
                    before = connections(redis)
                    assert redis.client_kill_filter(_type="pubsub") == 1
                    await until(lambda before=before: connections(redis) > before)  # type: ignore[misc]
                    assert await signal.listening(PATIENCE_S)
