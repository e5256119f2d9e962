"""One link, without a server: what counts as a sign of life, and how its socket is set."""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from unittest.mock import Mock

import pytest

from bananas.address import Address
from bananas.link import Call, Counters, Link, connect

ANSWER_S = 5.0
PART = 1 << 12


def owner() -> Any:  # noqa: ANN401 - stands for the transport
    """Return whom a link may report to."""
    return Mock(counters=Counters())


@pytest.mark.parametrize(
    ("parts", "is_life"),
    [
        ([b"$100\r\nab"], False),
        ([b"$100000\r\n" + b"x" * PART], False),
        ([b"$100000\r\n", *[b"x" * PART] * 4], True),
        ([b"+OK\r\n"], True),
    ],
    ids=["few-bytes", "more-bytes", "many-bytes", "an-answer"],
)
async def test_a_whole_answer_or_much_of_one_is_a_sign_of_life(
    parts: list[bytes], *, is_life: bool
) -> None:
    """A few bytes are none: a server that sends one now and then would never be late."""
    now_s = 1000.0
    link = Link(owner(), lambda: now_s)
    link.connection_made(Mock(spec=asyncio.Transport))
    calls: list[Call] = [
        (asyncio.get_running_loop().create_future(), b"x", None, "x", now_s + 30, ANSWER_S, True)
        for _ in range(2)
    ]
    link.send(calls)
    now_s += 3
    for part in parts:
        link.data_received(part)
    assert link.answer_due() == (now_s if is_life else 1000.0) + ANSWER_S


async def test_a_dead_peer_is_noticed_while_nothing_is_asked() -> None:
    """The system probes an idle connection over TCP: nobody else would."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"+OK\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    link = Link(owner(), asyncio.get_running_loop().time)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await connect(link, Address(host="127.0.0.1", port=port), "test")
        assert link._wire is not None
        plug = link._wire.get_extra_info("socket")
        probes = plug.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        link.drop("the test is over")
    assert probes
