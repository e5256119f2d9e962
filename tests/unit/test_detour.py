"""The detour, without a cluster: what a node's answers, its loss and the end make of a call."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bananas.address import Address
from bananas.detour import Detour
from bananas.errors import BrokerUnavailableError
from bananas.link import Call, Counters, pack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

ANSWERS_S = 5.0


class Node:
    """A node of a cluster: a socket that answers each command by its name, or keeps silent."""

    def __init__(self, path: Path) -> None:
        """Listen to nobody yet."""
        self.address = Address(path=str(path))
        self.answers = {b"CLIENT": b"+OK\r\n", b"ASKING": b"+OK\r\n", b"GET": b"$1\r\nv\r\n"}
        self.heard: list[bytes] = []
        self.asked = {name: asyncio.Event() for name in self.answers}
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends."""
        self._writers.append(writer)
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            self.heard.append(words[0])
            writer.write(self.answers.get(words[0], b""))
            self.asked[words[0]].set()
        writer.close()

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.close()


class Scene:
    """A detour, and what it gave back."""

    def __init__(self, *, timeout_s: float = 30.0) -> None:
        """Open nothing."""
        self.given_back: asyncio.Queue[tuple[Call, str]] = asyncio.Queue()
        self.detour = Detour(
            lambda call, why: self.given_back.put_nowait((call, why)),
            Counters(),
            client_name="test",
            timeout_s=timeout_s,
            now=time.monotonic,
        )

    def call(self, *, repeat: bool = True) -> Call:
        """Return a call that is not sent yet."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        return (future, pack((b"GET", b"k")), None, "GET", time.monotonic() + 30, 30.0, repeat)

    async def returned(self) -> tuple[Call, str]:
        """Wait until a call is given back; returns it, and why."""
        return await asyncio.wait_for(self.given_back.get(), ANSWERS_S)


@asynccontextmanager
async def node(tmp_path: Path, name: str = "a") -> AsyncIterator[Node]:
    """Open a node."""
    one = Node(tmp_path / name)
    server = await asyncio.start_unix_server(one.serve, one.address.path)
    try:
        yield one
    finally:
        one.cut()
        server.close()
        await server.wait_closed()


async def test_a_call_is_asked_of_the_node_that_was_named(tmp_path: Path) -> None:
    """Also when a connection to another one stands."""
    scene = Scene()
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        for one in (a, a, b, b):
            call = scene.call()
            scene.detour.take(call, one.address)
            assert await asyncio.wait_for(call[0], ANSWERS_S) == b"v"
        await scene.detour.close()
    assert a.heard == b.heard == [b"CLIENT", b"ASKING", b"GET", b"ASKING", b"GET"]


@pytest.mark.parametrize("error", ["MOVED 1 h:1", "ASK 1 h:1", "TRYAGAIN x", "LOADING x"])
async def test_what_a_node_does_not_answer_now_is_asked_again(tmp_path: Path, error: str) -> None:
    """The call goes back, and does not fail."""
    scene = Scene()
    async with node(tmp_path) as one:
        one.answers[b"GET"] = f"-{error}\r\n".encode()
        call = scene.call()
        scene.detour.take(call, one.address)
        assert await scene.returned() == (call, error)
        assert not call[0].done()
        await scene.detour.close()


@pytest.mark.parametrize("repeat", [True, False])
async def test_a_lost_answer(tmp_path: Path, *, repeat: bool) -> None:
    """What may be repeated goes back; what may not fails, as it may have been carried out."""
    scene = Scene()
    async with node(tmp_path) as one:
        del one.answers[b"GET"]
        call = scene.call(repeat=repeat)
        scene.detour.take(call, one.address)
        await asyncio.wait_for(one.asked[b"GET"].wait(), ANSWERS_S)
        one.cut()
        if repeat:
            await scene.returned()
            assert not call[0].done()
        else:
            with pytest.raises(BrokerUnavailableError, match="the answer was lost"):
                await asyncio.wait_for(call[0], ANSWERS_S)
            assert scene.given_back.empty()
        await scene.detour.close()


async def test_a_silent_node_gives_its_calls_back(tmp_path: Path) -> None:
    """Opening has a limit, and says which node it was."""
    scene = Scene(timeout_s=0.05)
    async with node(tmp_path) as one:
        del one.answers[b"CLIENT"]
        scene.detour.take(scene.call(), one.address)
        assert one.address.label in (await scene.returned())[1]
        await scene.detour.close()


@pytest.mark.parametrize("silent", [b"CLIENT", b"GET"])
async def test_the_end_leaves_no_caller_waiting(tmp_path: Path, silent: bytes) -> None:
    """Neither one whose node is being opened nor one whose answer is due."""
    scene = Scene()
    async with node(tmp_path) as one:
        del one.answers[silent]
        call = scene.call(repeat=False)
        scene.detour.take(call, one.address)
        assert scene.detour.outstanding == 1
        await asyncio.wait_for(one.asked[silent].wait(), ANSWERS_S)
        await asyncio.wait_for(scene.detour.close(), ANSWERS_S)
        with pytest.raises(BrokerUnavailableError):
            await asyncio.wait_for(call[0], ANSWERS_S)
        assert scene.detour.outstanding == 0
