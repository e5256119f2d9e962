"""Answers of a batch: verdict lines as they come, or counts at the end.

Most HTTP clients read nothing until they have sent everything. A stream of verdicts that
waited for its reader would then wait for ever: so what cannot be sent yet goes to a
nameless file, and only a reader that is a whole file behind holds up the batch.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from bananas.codec import encode_payload
from bananas.http.exchange import NDJSON, ClientGoneError, common_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.http.exchange import Answer
    from bananas.http.problems import Problem
    from bananas.submission import Verdict

MAX_REJECTIONS: Final = 100
"""Rejected lines that a summary lists; it counts all."""

MAX_MEMORY_BYTES: Final = 256 * 1024
MAX_FILE_BYTES: Final = 256 * 1024 * 1024
SEND_BYTES: Final = 64 * 1024
STALL_S: Final = 60.0
"""A reader that takes nothing for so long, while something waits for it, is gone."""


class Outlet(Protocol):
    """What becomes of the verdicts of one batch."""

    async def take(self, lines: Sequence[int], verdicts: Sequence[Verdict]) -> None:
        """Take the verdicts on these lines; they come in order."""
        ...

    async def finish(self, members: dict[str, Any]) -> None:
        """End the answer: every line has its verdict."""
        ...

    async def fail(self, problem: Problem) -> None:
        """End the answer: no more verdicts will come."""
        ...

    async def abandon(self) -> None:
        """Stop at once; nobody listens."""
        ...


class Summary:
    """Counts, and the first rejected lines."""

    def __init__(self, send: Answer) -> None:
        """Answer through `send`, once."""
        self._send = send
        self._counts = {"accepted": 0, "duplicate": 0, "rejected": 0}
        self._rejections: list[dict[str, Any]] = []

    async def take(self, lines: Sequence[int], verdicts: Sequence[Verdict]) -> None:
        """Count the verdicts."""
        counts = self._counts
        for line, verdict in zip(lines, verdicts, strict=True):
            counts[verdict.status] += 1
            if verdict.status == "rejected" and len(self._rejections) < MAX_REJECTIONS:
                self._rejections.append(
                    {"line": line, "field": verdict.field, "rule": verdict.rule}
                )

    def _members(self) -> dict[str, Any]:
        counts = self._counts
        return {
            "accepted": counts["accepted"],
            "duplicates": counts["duplicate"],
            "rejected": counts["rejected"],
            "rejections": self._rejections,
        }

    async def finish(self, members: dict[str, Any]) -> None:
        """Answer with the counts."""
        await self._send.reply_json(200, encode_payload(self._members() | members))

    async def fail(self, problem: Problem) -> None:
        """Answer with the problem, and what was counted until then."""
        problem.members = self._members() | problem.members
        await self._send.refuse(problem)

    async def abandon(self) -> None:
        """Do nothing: nothing was begun."""


class VerdictLines:
    """A verdict a line, in the order of the batch's lines, as they become known."""

    def __init__(
        self,
        send: Answer,
        *,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
        max_file_bytes: int = MAX_FILE_BYTES,
        stall_s: float = STALL_S,
    ) -> None:
        """Answer through `send`; the response begins with the first verdict."""
        self._send = send
        self._backlog = Backlog(max_memory_bytes)
        self._max_file_bytes = max_file_bytes
        self._stall_s = stall_s
        self._writer: asyncio.Task[None] | None = None
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._whole = False

    async def take(self, lines: Sequence[int], verdicts: Sequence[Verdict]) -> None:
        """Put the verdicts where the writer finds them; waits only for a reader far behind.

        Raises:
            ClientGoneError: The reader takes nothing.
        """
        text = "".join(
            [
                # ids match the rule for ids: nothing in them needs an escape
                f'{{"line":{line},"id":"{verdict.id}","status":"{verdict.status}"}}\n'
                if verdict.status != "rejected"
                else _rejected_line(line, verdict)
                for line, verdict in zip(lines, verdicts, strict=True)
            ]
        )
        self._put(text.encode())
        while self._backlog.file_bytes > self._max_file_bytes:
            self._less.clear()
            await self._less.wait()
        if self._writer is not None and self._writer.done():
            self._writer.result()

    async def finish(self, members: dict[str, Any]) -> None:  # noqa: ARG002 - the lines say it all
        """Send what is left.

        Raises:
            ClientGoneError: The reader takes nothing.
        """
        self._put(b"")
        self._whole = True
        if self._writer is not None:
            await self._writer

    async def fail(self, problem: Problem) -> None:
        """End with the problem: as the response, if none has begun, or as its last line."""
        if self._writer is None:
            await self._send.refuse(problem)
            return
        self._put(problem.body() + b"\n")
        await self.finish({})

    async def abandon(self) -> None:
        """Stop the writer."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            await asyncio.wait([writer])
            if not writer.cancelled():
                writer.exception()
        self._backlog.close()

    def _put(self, data: bytes) -> None:
        self._backlog.put(data)
        self._more.set()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Send the backlog as fast as the reader takes it."""
        send = self._send
        head = common_headers(NDJSON, [(b"x-accel-buffering", b"no")])
        try:
            await send({"type": "http.response.start", "status": 200, "headers": head})
            while True:
                data = self._backlog.take(SEND_BYTES)
                if data:
                    async with asyncio.timeout(self._stall_s):
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                    self._less.set()
                elif self._whole:
                    break
                else:
                    self._more.clear()
                    await self._more.wait()
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            raise ClientGoneError from None
        finally:
            self._backlog.close()
            self._less.set()


def _rejected_line(line: int, verdict: Verdict) -> str:
    members = {"line": line, "status": "rejected", "field": verdict.field, "rule": verdict.rule}
    return encode_payload(members).decode() + "\n"


class Backlog:
    """A queue of bytes: the newest on disk once the oldest fill the memory meant for them."""

    def __init__(self, max_memory_bytes: int = MAX_MEMORY_BYTES) -> None:
        """Hold up to `max_memory_bytes` without a file."""
        self._max_memory_bytes = max_memory_bytes
        self._memory: deque[bytes] = deque()
        self._memory_bytes = 0
        self._file: int | None = None
        self._read_at = 0
        self._write_at = 0
        self._closed = False

    @property
    def file_bytes(self) -> int:
        """Bytes that wait on disk."""
        return self._write_at - self._read_at

    def put(self, data: bytes) -> None:
        """Add at the end; after `close` it goes nowhere."""
        if self._closed or not data:
            return
        if not self.file_bytes and self._memory_bytes + len(data) <= self._max_memory_bytes:
            self._memory.append(data)
            self._memory_bytes += len(data)
            return
        if self._file is None:
            with tempfile.TemporaryFile() as file:
                self._file = os.dup(file.fileno())
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, self._write_at)
            self._write_at += written
            view = view[written:]

    def take(self, most: int) -> bytes:
        """Remove and return the oldest bytes, about `most`; empty when there are none."""
        if self._memory:
            parts = [self._memory.popleft()]
            size = len(parts[0])
            while self._memory and size < most:
                parts.append(self._memory.popleft())
                size += len(parts[-1])
            self._memory_bytes -= size
            return b"".join(parts)
        if not self.file_bytes or self._file is None:
            return b""
        data = os.pread(self._file, min(most, self.file_bytes), self._read_at)
        self._read_at += len(data)
        if self._read_at == self._write_at:
            self._read_at = self._write_at = 0
            os.ftruncate(self._file, 0)
        return data

    def close(self) -> None:
        """Forget what is left."""
        self._closed = True
        self._memory.clear()
        self._memory_bytes = self._read_at = self._write_at = 0
        if self._file is not None:
            os.close(self._file)
            self._file = None
