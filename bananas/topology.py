"""Which server holds our keys now: asked of Sentinels, or of any node of a cluster.

Each question goes over a connection of its own, which is rare enough: before a connection
is made, while one gives no answers, and when a Sentinel tells of a change. In a cluster all
keys of a prefix lie in one slot, so that one node is all there is to find.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import hiredis

from bananas.address import Address, auth_words

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

log = logging.getLogger("bananas.topology")

_REDIRECT: Final = re.compile(r"(?:MOVED|ASK) \d+ (.*):(\d+)")


_NEWS: Final = ("+switch-master", "+promoted-slave")
_SILENCE_S: Final = 5.0  # after which a Sentinel is asked whether it is there
_PAUSE_S: Final = 1.0


def redirection(text: str, asked: Address) -> Address:
    """Return the node that a MOVED or ASK reply of `asked` names; without a host it is the same."""
    match = _REDIRECT.match(text)
    if match is None:
        raise ValueError(f"not a redirection: {text}")
    return _node(asked, match[1], int(match[2]), asked.host)


def _node(address: Address, host: str, port: int, asked: str) -> Address:
    host = asked if host in ("", "?") else host
    return dataclasses.replace(address, host=host, port=port, sentinels=(), nodes=())


class Finder:
    """Finds the server that holds the keys of an address, as often as it is asked to."""

    def __init__(self, address: Address) -> None:
        """Ask nobody yet."""
        self._address = address
        self._told: Address | None = None
        self._nodes = address.nodes
        self._turn = 0

    @property
    def roams(self) -> bool:
        """Whether the answer may change."""
        return bool(self._address.sentinels or self._address.nodes)

    @property
    def watched(self) -> bool:
        """Whether there are sentinels to listen to."""
        return bool(self._address.sentinels)

    @property
    def clustered(self) -> bool:
        """Whether nodes may send a call to another."""
        return bool(self._address.nodes)

    def told(self, address: Address) -> None:
        """Take a node's word for where the slot is: the next answer is this."""
        self._told = address

    async def find(self, timeout_s: float) -> Address:
        """Return the server's own address.

        Args:
            timeout_s: For all who are asked, one after the other.

        Raises:
            ConnectionError: Nobody answered, or nobody knows.
        """
        told, self._told = self._told, None
        if told is not None:
            return told
        address = self._address
        if not self.roams:
            return address
        asked = list(address.sentinels or self._nodes)
        # one whose view is old must not be asked first for ever
        begin, self._turn = self._turn % len(asked), self._turn + 1
        problems: list[str] = []
        for host, port in asked[begin:] + asked[:begin]:
            try:
                # all must have had their turn before the time is up
                async with asyncio.timeout(timeout_s / (len(asked) + 1)):
                    ask = self._ask_sentinel if address.sentinels else self._ask_node
                    found = await ask(host, port)
            except (OSError, hiredis.HiredisError) as error:
                problems.append(f"{host}:{port} {str(error) or type(error).__name__}")
                continue
            if found is not None:
                return found
            problems.append(f"{host}:{port} does not know it")
        raise ConnectionError(f"{self._sought()}: {'; '.join(problems)}")

    async def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` when a master may have changed, for ever; for addresses with sentinels.

        A master that is replaced by order goes on taking what will be lost with it, until the
        Sentinels get round to telling it: whoever listens is gone by then.
        """
        sentinels = self._address.sentinels
        turn = 0
        while True:
            host, port = sentinels[turn % len(sentinels)]
            turn += 1
            try:
                await self._listen_to(host, port, heard)
            except Exception as error:  # noqa: BLE001 - the next one may be more talkative
                log.debug("sentinel %s:%d is not heard: %s", host, port, error)
            await asyncio.sleep(_PAUSE_S)

    async def _listen_to(self, host: str, port: int, heard: Callable[[], None]) -> None:
        address = self._address
        auth = auth_words(address.sentinel_username, address.sentinel_password)
        asked = False
        async with _talk(dataclasses.replace(address, host=host, port=port)) as talk:
            if auth:
                await talk.ask(auth)
            talk.say(("SUBSCRIBE", *_NEWS))
            while True:
                try:
                    async with asyncio.timeout(_SILENCE_S):
                        words = await talk.hear()
                except TimeoutError:
                    if asked:
                        return
                    talk.say(("PING",))
                    asked = True
                    continue
                asked = False
                # its own beginning counts: what came before was not heard
                if words[0] in ("subscribe", "message"):
                    heard()

    def _sought(self) -> str:
        if self._address.sentinels:
            return f'no sentinel found master "{self._address.master_name}"'
        return f"no node of the cluster told where slot {self._address.slot} is"

    async def _ask_sentinel(self, host: str, port: int) -> Address | None:
        address = self._address
        match await ask(
            dataclasses.replace(address, host=host, port=port),
            ("SENTINEL", "get-master-addr-by-name", address.master_name),
            auth_words(address.sentinel_username, address.sentinel_password),
        ):
            case [str(master_host), str(master_port)]:
                return _node(address, master_host, int(master_port), host)
            case _:
                return None

    async def _ask_node(self, host: str, port: int) -> Address | None:
        address = self._address
        asked = dataclasses.replace(address, host=host, port=port)
        found = None
        nodes: list[tuple[str, int]] = []
        for first, last, *holders in await ask(asked, ("CLUSTER", "SLOTS"), address.auth()):
            for holder in holders:
                node = _node(address, holder[0] or "", holder[1], host)
                nodes.append((node.host, node.port))
                if holder is holders[0] and first <= address.slot <= last:
                    found = node
        # those that the URL names stay first: they may be all that can be reached from here
        self._nodes = tuple(dict.fromkeys((*address.nodes, *nodes)))
        return found


async def ask(address: Address, words: tuple[str, ...], auth: Sequence[str] | None) -> Any:  # noqa: ANN401 - as many shapes as there are commands
    """Send one command over a connection of its own; text comes decoded.

    Raises:
        ConnectionError: The server refused, or closed the connection.
        OSError: There is no connection.
    """
    async with _talk(address) as talk:
        if auth:
            await talk.ask(tuple(auth))
        return await talk.ask(words)


class _Talk:
    """A connection for questions that are rare."""

    def __init__(self, stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        self._stream = stream
        self._out = out
        self._reader = hiredis.Reader(encoding="utf-8", notEnoughData=...)

    def say(self, words: tuple[str, ...]) -> None:
        # The stub of hiredis asks for a tuple of exactly one item.
        self._out.write(hiredis.pack_command(words))  # type: ignore[arg-type]

    async def hear(self) -> Any:  # noqa: ANN401 - as above
        while (answer := self._reader.gets()) is ...:
            data = await self._stream.read(65536)
            if not data:
                raise ConnectionError("closed the connection")
            self._reader.feed(data)
        if isinstance(answer, hiredis.ReplyError):
            # The code only: an unknown-command error quotes the arguments of AUTH.
            raise ConnectionError(f"answered {str(answer).partition(' ')[0]}")
        return answer

    async def ask(self, words: tuple[str, ...]) -> Any:  # noqa: ANN401 - as above
        self.say(words)
        return await self.hear()


@asynccontextmanager
async def _talk(address: Address) -> AsyncGenerator[_Talk]:
    context = address.tls.context() if address.tls else None
    stream, out = await asyncio.open_connection(address.host, address.port, ssl=context)
    try:
        yield _Talk(stream, out)
    finally:
        out.transport.abort()
