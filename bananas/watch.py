"""Who waits for a job is woken by its message: one pub/sub connection a client.

A message may be lost with its connection, so it is only a hint: whoever waits looks for
himself after every subscription and after every message, and now and then besides. A
look that follows the subscription cannot miss what was published after it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import hiredis

from bananas.address import parse_url
from bananas.link import Counters, Link, connect, pack
from bananas.topology import Finder

if TYPE_CHECKING:
    from collections.abc import Generator

    from bananas.address import Address
    from bananas.link import Call

log = logging.getLogger("bananas.watch")

CONNECT_TIMEOUT_S: Final = 5.0
BACKOFF_BASE_S: Final = 0.05
BACKOFF_CAP_S: Final = 2.0

_MORE: Final = object()


class Signal:
    """Set when its channel may have news; `subscribed` when the server said that it listens."""

    __slots__ = ("_news", "subscribed")

    def __init__(self) -> None:
        """Start quiet."""
        self._news = asyncio.Event()
        self.subscribed = asyncio.Event()

    def ring(self) -> None:
        """Wake whoever waits."""
        self._news.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for news, at most `timeout_s`; whether there were any. Hearing them uses them up."""
        heard = await _within(self._news, timeout_s)
        self._news.clear()
        return heard

    async def listening(self, timeout_s: float) -> bool:
        """Wait until the server listens on the channel, at most `timeout_s`; whether it does."""
        return await _within(self.subscribed, timeout_s)


async def _within(event: asyncio.Event, timeout_s: float) -> bool:
    if event.is_set():
        return True
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


class Watch:
    """Channels and who waits on them; connects when first asked, and again for ever."""

    def __init__(self, url: str | Address, *, client_name: str = "bananas-watch") -> None:
        """Read the address; nothing is opened yet.

        Raises:
            FieldError: The URL is wrong.
        """
        self._address = parse_url(url) if isinstance(url, str) else url
        self._finder = Finder(self._address)
        self._client_name = client_name
        self._signals: dict[bytes, list[Signal]] = {}
        self._feed: _Feed | None = None
        self._owner: asyncio.Task[None] | None = None
        self._setbacks = 0
        self._refusal_told = False
        self.counters = Counters()

    @contextmanager
    def open(self, channel: str) -> Generator[Signal]:
        """Watch a channel; the subscription is on its way when this returns."""
        name = channel.encode()
        signal = Signal()
        watchers = self._signals.setdefault(name, [])
        watchers.append(signal)
        if self._owner is None:
            loop = asyncio.get_running_loop()
            self._owner = loop.create_task(self._stay_connected(), name="bananas.watch")
        elif self._feed is not None:
            # Also for the second watcher: the answer tells it that the server listens.
            self._feed.say("SUBSCRIBE", [name])
        try:
            yield signal
        finally:
            watchers.remove(signal)
            if not watchers:
                del self._signals[name]
                if self._feed is not None:
                    self._feed.say("UNSUBSCRIBE", [name])

    async def close(self) -> None:
        """Close the connection; those who wait go on looking for themselves."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.cancel()
            await asyncio.wait([owner])

    # --- reports of the feed --------------------------------------------------------------------

    def on_message(self, channel: bytes) -> None:
        """Wake the channel's watchers."""
        for signal in self._signals.get(channel, ()):
            signal.ring()

    def on_subscribed(self, channel: bytes) -> None:
        """Have the channel's watchers look: what came before this was not heard."""
        self._setbacks = 0
        for signal in self._signals.get(channel, ()):
            if not signal.subscribed.is_set():
                signal.subscribed.set()
                signal.ring()

    def on_refused(self, link: Link, call: Call, text: str) -> None:
        """Nothing is called through a feed."""

    def on_lost(self, link: Link, reason: str, *, refused: bool) -> None:
        """Forget that the server listened."""
        if link is self._feed:
            self._feed = None
            if refused and not self._refusal_told:
                self._refusal_told = True
                log.warning(
                    "%s does not let us subscribe, so we look now and then instead: %s",
                    self._address.label,
                    reason,
                )
            log.debug("pub/sub connection lost: %s", reason)
            for watchers in self._signals.values():
                for signal in watchers:
                    signal.subscribed.clear()

    def on_writable(self) -> None:
        """Nothing was held back: what is said here is short."""

    # --- the connection -----------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        while True:
            feed = _Feed(self)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    address = await self._finder.find(CONNECT_TIMEOUT_S / 2)
                    await connect(feed, address, self._client_name)
                self._feed = feed
                if self._signals:
                    feed.say("SUBSCRIBE", list(self._signals))
                await asyncio.wait([feed.lost])  # so that cancelling us leaves it to be dropped
            except Exception as error:  # noqa: BLE001 - waiting goes on by looking
                log.debug("no pub/sub connection to %s: %s", self._address.label, error)
            finally:
                feed.drop("closed")
            self._setbacks += 1  # until we are subscribed: to be let in may not be enough
            pause_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(self._setbacks, 16))
            await asyncio.sleep(pause_s * (0.5 + random.random() / 2))


class _Feed(Link):
    """A link that listens once its handshake is over."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch, asyncio.get_running_loop().time)
        self._watch = watch
        self._words = hiredis.Reader(notEnoughData=_MORE)

    def say(self, command: str, channels: list[bytes]) -> None:
        """Send SUBSCRIBE or UNSUBSCRIBE; the answer comes as a message of its own."""
        if self._wire is not None and not self.lost.done():
            self._wire.write(pack((command, *channels)))

    def data_received(self, data: bytes) -> None:
        """Tell what came in."""
        if not self.ready:
            super().data_received(data)
            return
        self._words.feed(data)
        try:
            while (word := self._words.gets()) is not _MORE:
                match word:
                    case [b"message", bytes(channel), _]:
                        self._watch.on_message(channel)
                    case [b"subscribe", bytes(channel), _]:
                        self._watch.on_subscribed(channel)
                    case [b"unsubscribe", _, _]:
                        pass
                    case hiredis.ReplyError():
                        self.drop(str(word), refused=True)
                        return
                    case _:
                        self.drop(f"not what a subscriber is told: {word!r:.100}")
                        return
        except hiredis.ProtocolError as error:
            self.drop(f"not the protocol of Redis: {error}")
