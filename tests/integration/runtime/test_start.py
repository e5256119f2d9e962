"""A worker that is started while Redis is away."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from bananas.broker import Broker
from bananas.keys import Keys
from bananas.runtime.processes import until_redis_answers
from bananas.transport import Transport
from workbench import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server


async def test_it_waits_longer_than_a_call_is_repeated(
    make_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    """An outage is no boot failure: five of those would end the whole fleet."""
    caplog.set_level(logging.WARNING, "bananas")
    server = make_server()
    server.stop()
    transport = Transport(server.url, retry_window_s=0.1)
    waiting = asyncio.ensure_future(until_redis_answers(Broker(transport, Keys("w"))))

    def times_told() -> int:
        return sum("begins when Redis answers" in message for message in caplog.messages)

    await until(lambda: times_told() >= 3)
    assert not waiting.done()
    server.start()
    async with asyncio.timeout(20):
        await waiting
    await transport.close()


async def test_an_error_is_an_answer(make_server: Callable[..., Server]) -> None:
    """Who may not even ask is told so by the first call that matters, and at once."""
    server = make_server()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-ping")
    transport = Transport(server.url)
    async with asyncio.timeout(20):
        await until_redis_answers(Broker(transport, Keys("w")))
    await transport.close()


@pytest.mark.slow
async def test_nothing_answers_for_ever(make_server: Callable[..., Server]) -> None:
    """A stopped server is waited for as an absent one is."""
    server = make_server()
    transport = Transport(server.url, reply_timeout_s=0.3, retry_window_s=0.5)
    broker = Broker(transport, Keys("w"))
    with server.frozen(), pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await until_redis_answers(broker)
    async with asyncio.timeout(20):
        await until_redis_answers(broker)
    await transport.close()
