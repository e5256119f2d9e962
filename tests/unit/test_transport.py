"""The transport without a server: its pauses, its windows, and what ends them."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from unittest.mock import Mock

import pytest

from bananas import transport as module
from bananas.address import Address
from bananas.errors import BrokerDeniedError, BrokerUnavailableError
from bananas.link import Call, Link
from bananas.transport import BACKOFF_BASE_S, BACKOFF_CAP_S, Transport

WINDOW_S = 20.0
DENIED_S = 2.0
NODE: Final = Address(nodes=(("127.0.0.1", 1),), slot=0)


class Scene:
    """A transport whose clock and whose bytes are the test's; it finds no server by itself."""

    def __init__(self, address: Address = NODE) -> None:
        """Stand still."""
        self.now_s = 1000.0
        self._calls: list[asyncio.Future[Any]] = []
        self.transport = Transport(
            address,
            reply_timeout_s=1e6,
            retry_window_s=WINDOW_S,
            denied_window_s=DENIED_S,
            resolver=asyncio.Event().wait,  # type: ignore[arg-type]
            clock=lambda: self.now_s,
            chance=lambda: 0.0,
        )

    def connect(self) -> Link:
        """Give the transport a connection that has passed its handshake."""
        link = Link(self.transport, lambda: self.now_s)
        link.connection_made(Mock(spec=asyncio.Transport))
        link.ready = True
        self.transport._link = link
        return link

    async def asked(self, *, repeat: bool = True) -> asyncio.Future[Any]:
        """Make a call and let it leave; returns its answer to be."""
        future = self.transport._submit(b"x", None, "x", 1e6, repeat=repeat)
        self._calls.append(future)
        await asyncio.sleep(0)
        return future

    async def close(self) -> None:
        """Close the transport; nobody waits for what is open."""
        for call in self._calls:
            call.cancel()
        await self.transport.close()


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
async def test_pauses_double_up_to_a_cap_and_are_spread(chance: float) -> None:
    """Between half and whole of each, so that a fleet does not come back at one moment."""
    transport = Transport("redis://127.0.0.1:1", chance=lambda: chance)
    wholes = [min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2**n) for n in range(40)]
    assert wholes[0] < wholes[1] < wholes[-1] == BACKOFF_CAP_S
    pauses = [transport._backoff_s() for _ in wholes]
    assert pauses == pytest.approx([whole * (0.5 + chance / 2) for whole in wholes])
    await transport.close()


@pytest.mark.parametrize(
    ("answered", "end", "is_short"),
    [
        (True, b"", True),
        (False, b"", False),
        (True, b"-READONLY x\r\n", False),
        (True, b"-MOVED 1 127.0.0.1:2\r\n", True),
        (False, b"-MOVED 1 127.0.0.1:2\r\n", False),
    ],
)
async def test_the_next_pause_is_short_only_after_a_good_answer(
    answered: bool, end: bytes, is_short: bool
) -> None:
    """A replica that answers reads and refuses writes is left slower each time."""
    scene = Scene()
    for _ in range(5):
        scene.transport._backoff_s()
    link = scene.connect()
    if answered:
        answer = await scene.asked()
        link.data_received(b"+OK\r\n")
        assert await answer == b"OK"
    call = await scene.asked()
    if end:
        link.data_received(end)
    else:
        link.drop("cut")
    assert link.lost.done()
    assert (scene.transport._backoff_s() == BACKOFF_BASE_S / 2) == is_short
    assert not call.done()
    await scene.close()


async def test_a_pause_holds_back_what_comes_during_it() -> None:
    """A server that is busy is not asked more; then all goes out, what came first at the front."""
    scene = Scene()
    link = scene.connect()
    first = await scene.asked()
    link.data_received(b"-BUSY x\r\n")
    second = await scene.asked()
    assert (len(link.pending), scene.transport.outstanding) == (0, 2)
    scene.transport._resume()
    assert [call[0] for call in link.pending] == [first, second]
    await scene.close()


async def test_a_node_that_was_named_is_where_the_next_connection_goes() -> None:
    """No question in between: the one asked may not know yet."""
    scene = Scene()
    link = scene.connect()
    await scene.asked()
    link.data_received(b"-MOVED 1 127.0.0.1:2\r\n")
    assert (await scene.transport._finder.find(1.0)).port == 2
    await scene.close()


async def test_what_a_connection_owed_goes_before_what_has_not_left() -> None:
    """Those who have waited longest are asked for first."""
    scene = Scene()
    link = scene.connect()
    owed = [await scene.asked(), await scene.asked()]
    link.pause_writing()
    later = await scene.asked()
    link.drop("cut")
    assert [call[0] for call in scene.transport._queue] == [*owed, later]
    await scene.close()


async def test_of_calls_that_may_not_be_repeated_only_the_refused_one_is_asked_again() -> None:
    """The server says that it did not carry it out; of those behind it nobody knows."""
    scene = Scene()
    link = scene.connect()
    first, second = await scene.asked(repeat=False), await scene.asked(repeat=False)
    link.data_received(b"-READONLY x\r\n")
    assert [call[0] for call in scene.transport._queue] == [first]
    assert "the answer was lost" in str(second.exception())
    await scene.close()


async def test_a_call_that_is_held_back_fails_when_its_window_ends() -> None:
    """However often it is refused until then."""
    scene = Scene()
    link = scene.connect()
    call = await scene.asked()
    link.data_received(b"-BUSY x\r\n")
    scene.now_s += WINDOW_S - 1
    scene.transport._watch()
    assert not call.done()
    scene.now_s += 1
    scene.transport._watch()
    assert "BUSY x" in str(call.exception())
    await scene.close()


async def test_what_is_given_back_after_the_end_fails_and_sets_no_timer() -> None:
    """The detour may do so while it is closed."""
    transport = Scene().transport
    await transport.close()
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call: Call = (future, b"x", None, "x", 2000.0, 1.0, True)
    transport._detour._give_back(call, "cut")
    assert isinstance(future.exception(), BrokerUnavailableError)
    assert transport._pause is transport._watchdog is None


async def test_a_second_refusal_of_credentials_has_its_own_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Passwords are rotated more than once: what worked in between ends the first refusal."""
    scene = Scene()
    answers = iter([False, False, True, False, False, False])

    async def connect(link: Link, _address: Address, _name: str) -> None:
        if not next(answers):
            raise BrokerDeniedError("connect", "WRONGPASS")
        link.connection_made(Mock(spec=asyncio.Transport))
        link.ready = True

    async def resolve() -> Address:
        return Address(port=1)

    async def attempt() -> None:
        try:
            link = await scene.transport._open()
        except BrokerDeniedError as error:
            scene.transport._not_connected(error)
        else:
            link.drop("cut")

    call = await scene.asked()  # the transport's own attempt waits for its server for ever
    monkeypatch.setattr(module, "connect", connect)
    monkeypatch.setattr(scene.transport, "_resolve", resolve)
    for after_s in (0, DENIED_S / 2, 0, DENIED_S, DENIED_S / 2):
        scene.now_s += after_s
        await attempt()
        assert not call.done()
    scene.now_s += DENIED_S / 2
    await attempt()
    assert isinstance(call.exception(), BrokerDeniedError)
    await scene.close()
