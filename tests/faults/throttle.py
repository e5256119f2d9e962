"""A slow uplink: a proxy that takes so many bytes a second, and gives answers at full speed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

_PIECE_BYTES: Final = 4096


class Throttle:
    """Passes on what comes, slowly, so that the buffers of the sender fill."""

    def __init__(self, upstream: Path, bytes_per_s: float) -> None:
        """Prepare to pass on to a unix socket."""
        self._upstream = upstream
        self._pause_s = _PIECE_BYTES / bytes_per_s
        self._going = asyncio.Event()
        self._going.set()
        self._server: asyncio.Server | None = None
        self._wires: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Where to connect."""
        return f"redis://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Take nothing more, and say nothing of it."""
        self._going.clear()

    async def __aenter__(self) -> Self:
        """Listen."""
        ear = socket.socket()
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE_BYTES)  # of each connection
        ear.bind(("127.0.0.1", 0))
        self.port = ear.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=ear, limit=_PIECE_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every connection."""
        assert self._server is not None
        self._server.close()
        for wire in self._wires:
            wire.cancel()
        await asyncio.gather(*self._wires, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._wires.add(task)
        replies, requests = await asyncio.open_unix_connection(self._upstream)
        back = asyncio.ensure_future(self._pass_back(replies, writer))
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(_PIECE_BYTES):
                    await self._going.wait()
                    requests.write(data)
                    await asyncio.sleep(self._pause_s)
        finally:
            back.cancel()
            for end in (writer, requests):
                end.close()
            self._wires.discard(task)

    @staticmethod
    async def _pass_back(replies: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await replies.read(1 << 16):
            writer.write(data)
