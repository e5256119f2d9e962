"""Where a redirection leads, and in which order nodes are asked."""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace

import pytest

from bananas import topology
from bananas.address import Address
from bananas.topology import Finder, redirection

ASKED = Address(host="10.0.0.1", port=6379, password="pw", nodes=(("n1", 1),))  # noqa: S106


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("MOVED 3999 127.0.0.1:6381", "127.0.0.1", 6381),
        ("ASK 3999 node-2.example:7000", "node-2.example", 7000),
        ("MOVED 3999 ::1:6381", "::1", 6381),
        ("MOVED 3999 :6381", "10.0.0.1", 6381),
        ("ASK 3999 ?:6381", "10.0.0.1", 6381),
    ],
)
def test_a_redirection_names_a_node(text: str, host: str, port: int) -> None:
    """Where the reply names no host it is the one that was asked; the credentials go along."""
    expected = dataclasses.replace(ASKED, host=host, port=port, nodes=())
    assert redirection(text, ASKED) == expected


def test_other_words_are_no_redirection() -> None:
    """A reply of another form is not guessed at."""
    with pytest.raises(ValueError, match="not a redirection"):
        redirection("MOVED to elsewhere", ASKED)


async def test_one_server_is_its_own_answer() -> None:
    """Nobody is asked about an address that can be no other."""
    finder = Finder(Address(port=7))
    assert not finder.roams
    assert await finder.find(1.0) == Address(port=7)


async def test_what_a_node_said_is_the_next_answer_once() -> None:
    """A MOVED saves the question; if it was wrong, the nodes are asked again."""
    finder = Finder(Address(nodes=(("127.0.0.1", 1),)))
    finder.told(Address(port=7))
    assert await finder.find(1.0) == Address(port=7)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        await finder.find(1.0)


async def test_each_has_its_turn_to_be_asked_first() -> None:
    """One whose view is old must not lead us astray for ever."""
    finder = Finder(Address(nodes=(("127.0.0.1", 1), ("127.0.0.1", 2))))
    firsts = []
    for _ in range(4):
        with pytest.raises(ConnectionError) as caught:
            await finder.find(1.0)
        firsts.append(str(caught.value).partition(": ")[2].partition(" ")[0])
    assert firsts == ["127.0.0.1:1", "127.0.0.1:2"] * 2


async def test_a_node_that_another_one_named_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the URL may be gone long before the process that was given it."""
    asked: list[int] = []

    async def ask(node: Address, *_: object) -> list[object]:
        asked.append(node.port)
        if node.port == 1 and len(asked) > 1:
            raise ConnectionRefusedError
        return [[0, 16383, ["10.0.0.2", 2]]]

    monkeypatch.setattr(topology, "ask", ask)
    finder = Finder(Address(nodes=(("10.0.0.1", 1),), slot=7))
    for _ in range(3):
        assert (await finder.find(1.0)).port == 2
    assert asked == [1, 2, 1, 2]


async def test_the_time_is_enough_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent ones leave the last one its turn."""
    spans_s: list[float] = []

    def span(delay_s: float) -> contextlib.AbstractAsyncContextManager[None]:
        spans_s.append(delay_s)
        return contextlib.nullcontext()

    async def ask(*_: object) -> list[object]:
        raise TimeoutError

    monkeypatch.setattr(topology, "asyncio", SimpleNamespace(timeout=span))
    monkeypatch.setattr(topology, "ask", ask)
    with pytest.raises(ConnectionError):
        await Finder(Address(nodes=(("a", 1), ("b", 2), ("c", 3)))).find(1.0)
    assert len(spans_s) == 3
    assert sum(spans_s) < 1.0
