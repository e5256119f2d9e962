"""Who stands in for the other end of a connection: answers at once, and always the same.

No socket and no clock is asked, so that a run takes the same instructions each time.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from bananas import transport
from bananas.link import Counters, pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bananas.link import Link
    from bananas.scripts import Script


class Answering:
    """A transport that packs what it is given and answers at once."""

    def __init__(self, batches: Sequence[Any] = ()) -> None:
        """Give these batches to whoever dequeues, then nothing for ever."""
        self.counters = Counters()
        self._batches = list(batches)

    async def call(self, script: Script, keys: Sequence[Any] = (), args: Sequence[Any] = ()) -> Any:  # noqa: ANN401 - as many shapes as there are scripts
        """Return what the script would, had all gone well."""
        pack((b"EVALSHA", script.sha, len(keys), *keys, *args))
        match script.name:
            case "dequeue" if not self._batches:
                return await self.command()
            case "dequeue":
                return [b"ok", 0, self._batches.pop()]
            case "enqueue":
                return [0, b""]
            case "settle":
                return []
            case _:
                return 1

    async def close(self) -> None:
        """Have nothing to close."""

    async def command(self, *_words: object, **_options: object) -> Any:  # noqa: ANN401 - it never answers
        """Wait for ever."""
        return await asyncio.get_running_loop().create_future()


class Wire(asyncio.Transport):
    """A server's end of a link: every call of a script is answered as `enqueue` answers."""

    def __init__(self, link: Link) -> None:
        """Answer to this link."""
        super().__init__()
        self._link = link

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take calls; the answers to all of them arrive in one piece, in the next tick."""
        answers = b"*2\r\n:0\r\n$0\r\n\r\n" * bytes(data).count(b"\r\nEVALSHA\r\n")
        asyncio.get_running_loop().call_soon(self._link.data_received, answers)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Have no buffer."""

    def abort(self) -> None:
        """Have nothing to end."""


@contextmanager
def wired() -> Iterator[None]:
    """Let transports that are used herein connect to a `Wire`."""

    async def connect(link: Link, *_: object) -> None:
        link.connection_made(Wire(link))
        link.ready = True

    with patch.object(transport, "connect", connect):
        yield


class Reader(asyncio.Transport):
    """A client's end of an HTTP connection: it counts what is written to it."""

    def __init__(self, status: bytes) -> None:
        """Expect answers of this status."""
        super().__init__()
        self._head = b"HTTP/1.1 " + status
        self.answers = 0
        self.verdicts = 0
        """Lines of NDJSON among what came."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take an answer, or a part of one."""
        data = bytes(data)
        if data.startswith(b"HTTP/1.1 "):
            assert data.startswith(self._head), data
            self.answers += 1
        self.verdicts += data.count(b'{"line":')

    def is_closing(self) -> bool:
        """Never."""
        return False

    def pause_reading(self) -> None:
        """Be told: the piece itself looks whether it may go on."""

    def resume_reading(self) -> None:
        """Be told."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits: all is taken at once."""
        return 0


def answering(batches: Sequence[Any] = ()) -> transport.Transport:
    """Return a transport that answers; it has what a broker calls, and no more."""
    return cast("transport.Transport", Answering(batches))
