"""Where a redirection leads, and in which order nodes are asked."""

from __future__ import annotations

import dataclasses

import pytest

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
