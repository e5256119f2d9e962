"""POST /jobs/batch: any number of jobs, one a line, in constant memory.

Lines become chunks, chunks become script calls, a few of them under way at a time; the
body is read only while there is room for the next, so Redis sets the pace and TCP hands it
on to the sender. A chunk is sent when it is full, or when nothing else is under way: a
trickle has no delay and a flood has full chunks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from bananas.broker import MAX_JOBS
from bananas.codec import decode_payload
from bananas.errors import DecodeError
from bananas.http.exchange import (
    NDJSON,
    ClientGoneError,
    Query,
    check_media_type,
)
from bananas.http.gate import GRANT_KEY
from bananas.http.idempotency import derived_id, read_key
from bananas.http.operations import FLAG, Operation, parameter, ref, refusals
from bananas.http.problems import Problem, from_error
from bananas.http.protocol import STREAM_KEY
from bananas.http.submit import (
    DURABILITY_PARAMETER,
    IDEMPOTENCY_KEY,
    enqueues,
    read_durability,
)
from bananas.http.verdicts import MAX_REJECTIONS, Summary, VerdictLines
from bananas.producer import MAX_CALL_BYTES, MAX_UNCONFIRMED, MEMORY
from bananas.producer import MAX_IN_FLIGHT as MAX_CALLS
from bananas.speedups import split_lines
from bananas.submission import Verdict
from bananas.tokens import ALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Message, Receive, Scope

    from bananas.http.exchange import Answer, Headers
    from bananas.http.operations import Context
    from bananas.http.verdicts import Outlet
    from bananas.settings import Durability
    from bananas.tokens import Grant

# As many jobs as a call of the producer's, and as many chunks as it has calls under way: more would
# wait there. A chunk full by bytes may take several calls: they count a record, not its line.
CHUNK_LINES: Final = MAX_JOBS
CHUNK_BYTES: Final = MAX_CALL_BYTES
MAX_IN_FLIGHT: Final = MAX_CALLS

IDLE_S: Final = 60.0
"""A sender that sends nothing for so long has given up."""

MEDIA_TYPES: Final = (NDJSON, b"application/ndjson", b"application/jsonl")


async def submit_batch(
    context: Context, scope: Scope, receive: Receive, send: Answer, headers: Headers
) -> None:
    """Answer POST /jobs/batch.

    Raises:
        Problem: Before anything was read of the body.
        ClientGoneError: The connection ended; lines without a verdict may or may not be jobs.
    """
    query = Query(scope["query_string"])
    summary = query.flag("summary")
    durability = read_durability(query)
    query.done()
    check_media_type(headers, *MEDIA_TYPES)
    key = read_key(headers)
    scope[STREAM_KEY] = True
    outlet: Outlet = Summary(send) if summary else VerdictLines(send)
    batch = Batch(context, outlet, key, scope[GRANT_KEY], durability)
    try:
        await batch.run(receive)
    finally:
        await batch.close()


class _Chunk:
    """Lines on their way: those that are jobs so far, and those rejected already."""

    __slots__ = ("items", "lines", "rejected", "size")

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.lines: list[int] = []
        self.rejected: list[tuple[int, Verdict]] = []
        self.size = 0

    def __len__(self) -> int:
        return len(self.lines) + len(self.rejected)

    @property
    def first_line(self) -> int:
        firsts = self.lines[:1] + [line for line, _ in self.rejected[:1]]
        return min(firsts)


class Batch:
    """One body under way; belongs to one request."""

    def __init__(
        self,
        context: Context,
        outlet: Outlet,
        key: bytes | None,
        grant: Grant = ALL,
        durability: Durability | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            context: Client, limits and the sign to stop.
            outlet: Takes the verdicts.
            key: The batch's idempotency key: gives lines without an id one by their number.
            grant: For which queues the caller may enqueue; other lines are rejected.
            durability: Of lines that do not say; None = the setting.
        """
        self._context = context
        self._outlet = outlet
        self._key = key
        self._limited = None if grant.admin else grant
        self._durability: Durability | None = durability
        in_memory = (durability or context.settings.durability) == MEMORY
        self._window = MAX_IN_FLIGHT if in_memory else MAX_UNCONFIRMED
        self._max_line_bytes = context.max_body_bytes
        self._line = 0  # the last one seen
        self._rest = b""  # the beginning of a line
        self._skipping = False  # the rest of a line that is too long
        self._chunk = _Chunk()
        self._under_way: deque[tuple[_Chunk, asyncio.Task[Sequence[Verdict]]]] = deque()
        self._room = asyncio.Event()
        self._arrived = asyncio.Event()
        self._reading = False
        self._failure: tuple[BaseException, int] | None = None
        self._emitter: asyncio.Task[None] | None = None

    async def run(self, receive: Receive) -> None:
        """Read the body to its end and answer it."""
        began = time.monotonic()
        self._emitter = asyncio.create_task(self._emit())
        stopped = asyncio.create_task(self._context.stopping.wait())
        try:
            problem = await self._read(receive, stopped)
        finally:
            stopped.cancel()
        self._send_off()
        self._arrived.set()
        await self._until_landed()
        if self._failure is not None:
            error, line = self._failure
            if isinstance(error, ClientGoneError):
                raise error
            problem = from_error(error)
            if problem.kind == "internal":
                raise error
            problem = Problem(
                problem.kind,
                problem.detail,
                headers=problem.headers,
                **problem.members,
                undecided_from=line,
            )
        if problem is not None:
            await self._outlet.fail(problem)
            return
        elapsed_s = time.monotonic() - began
        await self._outlet.finish({"lines": self._line, "elapsed_s": round(elapsed_s, 3)})

    async def close(self) -> None:
        """End what is still going on; jobs already sent may still be enqueued."""
        if self._emitter is not None:
            self._emitter.cancel()
            await asyncio.wait([self._emitter])
        for _, task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait([task for _, task in self._under_way])
        await self._outlet.abandon()

    # --- reading ------------------------------------------------------------------------------

    async def _read(self, receive: Receive, stopped: asyncio.Task[Any]) -> Problem | None:
        """Read to the end, or until there is a reason to stop, which is returned."""
        while True:
            message = await self._receive(receive, stopped)
            if message is None or isinstance(message, Problem):
                return message
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            data: bytes = message.get("body", b"")
            if data:
                await self._feed(data)
            if not message.get("more_body"):
                if self._rest:
                    await self._take([self._rest])
                    self._rest = b""
                return None
            if self._failure is not None:
                return None

    async def _receive(
        self, receive: Receive, stopped: asyncio.Task[Any]
    ) -> Message | Problem | None:
        """Return the next part of the body, or why there is none; None = the emitter has failed."""
        if not self._under_way:
            self._send_off()
        self._reading = True
        part = asyncio.ensure_future(receive())
        emitter = self._emitter
        assert emitter is not None  # noqa: S101 - made by run()
        await asyncio.wait(
            {part, stopped, emitter}, timeout=IDLE_S, return_when=asyncio.FIRST_COMPLETED
        )
        self._reading = False
        if part.done():
            return part.result()
        part.cancel()
        await asyncio.wait([part])
        if stopped.done():
            return Problem("stopping", "go on elsewhere", undecided_from=self._next_line)
        if emitter.done():
            return None
        return Problem(
            "request-timeout", f"nothing came for {IDLE_S:g} s", undecided_from=self._next_line
        )

    @property
    def _next_line(self) -> int:
        """The first line that will get no verdict when reading stops here."""
        return self._line + 1

    async def _feed(self, data: bytes) -> None:
        """Take a part of the body."""
        if self._skipping:
            end = data.find(b"\n")
            if end < 0:
                return
            self._skipping = False
            data = data[end + 1 :]
        lines, self._rest = split_lines(self._rest + data)
        await self._take(lines)
        if len(self._rest) > self._max_line_bytes:
            self._rest = b""
            self._skipping = True
            await self._take_too_long()

    async def _take(self, lines: Sequence[bytes]) -> None:
        """Turn lines into items of chunks, and send full chunks off."""
        max_line_bytes = self._max_line_bytes
        key = self._key
        chunk = self._chunk
        number = self._line
        for line in lines:
            number += 1
            if len(line) > max_line_bytes:
                self._line = number - 1
                await self._take_too_long()
                chunk = self._chunk
                continue
            try:
                item: Any = decode_payload(line)
            except DecodeError as error:
                if not line.strip():
                    continue
                verdict = Verdict(0, None, "rejected", "line", f"must be JSON: {error.why}")
                chunk.rejected.append((number, verdict))
            else:
                if self._limited is not None and not _allowed(self._limited, item):
                    verdict = Verdict(0, None, "rejected", "routing_key", _NOT_ALLOWED)
                    chunk.rejected.append((number, verdict))
                else:
                    if key is not None and type(item) is dict:
                        _name(cast("dict[str, Any]", item), key, number)
                    chunk.items.append(item)
                    chunk.lines.append(number)
                    chunk.size += len(line)
            if len(chunk.lines) + len(chunk.rejected) >= CHUNK_LINES or chunk.size >= CHUNK_BYTES:
                self._line = number
                await self._send_off_when_room()
                chunk = self._chunk
        self._line = number

    async def _take_too_long(self) -> None:
        self._line += 1
        rule = f"must be at most {self._max_line_bytes} bytes"
        verdict = Verdict(0, None, "rejected", "line", rule)
        self._chunk.rejected.append((self._line, verdict))
        if len(self._chunk) >= CHUNK_LINES:
            await self._send_off_when_room()

    # --- sending ------------------------------------------------------------------------------

    async def _send_off_when_room(self) -> None:
        """Send the chunk off, after waiting until few enough are under way."""
        while len(self._under_way) >= self._window and self._failure is None:
            self._room.clear()
            await self._room.wait()
        self._send_off()

    def _send_off(self) -> None:
        """Send what has gathered, if anything has."""
        if not len(self._chunk) or self._failure is not None:
            return
        chunk, self._chunk = self._chunk, _Chunk()
        task = asyncio.create_task(
            self._context.client.submit_chunk(chunk.items, durability=self._durability)
        )
        self._under_way.append((chunk, task))
        self._arrived.set()

    async def _emit(self) -> None:
        """Hand the verdicts on, chunk by chunk in the order of the lines."""
        while self._failure is None:
            while not self._under_way:
                self._arrived.clear()
                await self._arrived.wait()
            chunk, task = self._under_way[0]
            try:
                verdicts = await task
                lines: Sequence[int] = chunk.lines
                if chunk.rejected:
                    lines, verdicts = _merged(chunk, verdicts)
                await self._outlet.take(lines, verdicts)
            except Exception as error:  # noqa: BLE001 - told by whoever answers
                self._failure = (error, chunk.first_line)
            self._under_way.popleft()
            self._room.set()
            if self._reading and not self._under_way:
                self._send_off()

    async def _until_landed(self) -> None:
        """Wait for the verdicts of all that was sent off, or for the first failure."""
        while self._under_way and self._failure is None:
            self._room.clear()
            await self._room.wait()


def _allowed(grant: Grant, item: object) -> bool:
    """Whether the caller may submit a line; what is no object is refused elsewhere."""
    return type(item) is not dict or enqueues(
        grant, cast("dict[str, object]", item).get("routing_key")
    )


_NOT_ALLOWED: Final = "is not among those that the token may enqueue for"


def _name(item: dict[str, Any], key: bytes, line: int) -> None:
    """Give a job without an id the one that the key and its line stand for."""
    if item.get("id") is None:
        item["id"] = derived_id(key, line)


def _merged(chunk: _Chunk, verdicts: Sequence[Verdict]) -> tuple[list[int], list[Verdict]]:
    """Return lines and verdicts of a chunk with the lines that were rejected here, in order."""
    pairs = [*zip(chunk.lines, verdicts, strict=True), *chunk.rejected]
    pairs.sort(key=lambda pair: pair[0])
    return [line for line, _ in pairs], [verdict for _, verdict in pairs]


SCHEMAS: Final = {
    "Verdict": {
        "type": "object",
        "description": "What became of one line.",
        "properties": {
            "line": {"type": "integer", "minimum": 1},
            "id": {"type": "string", "description": "The job's; absent when rejected."},
            "status": {"type": "string", "enum": ["accepted", "duplicate", "rejected"]},
            "field": {"type": "string", "description": 'Rejected: the field, or "line".'},
            "rule": {"type": "string", "description": "Rejected: the rule it broke."},
        },
        "required": ["line", "status"],
    },
    "Summary": {
        "type": "object",
        "properties": {
            "lines": {"type": "integer", "description": "Lines read, empty ones included."},
            "accepted": {"type": "integer"},
            "duplicates": {"type": "integer", "description": "Lines whose job existed."},
            "rejected": {"type": "integer"},
            "rejections": {
                "type": "array",
                "maxItems": MAX_REJECTIONS,
                "description": f"The first {MAX_REJECTIONS} rejected lines.",
                "items": {
                    "type": "object",
                    "properties": {
                        "line": {"type": "integer"},
                        "field": {"type": "string"},
                        "rule": {"type": "string"},
                    },
                    "required": ["line", "field", "rule"],
                },
            },
            "elapsed_s": {"type": "number"},
        },
        "required": ["lines", "accepted", "duplicates", "rejected", "rejections", "elapsed_s"],
    },
}

_EXAMPLE: Final = """\
{"name":"resize","payload":{"image":1}}
{"name":"resize","payload":{"image":2},"priority":"high"}
"""
_BODY: Final = {
    "schema": {"type": "string", "description": "A Submission a line."},
    "example": _EXAMPLE,
}

OPERATION: Final = Operation(
    "POST",
    "/jobs/batch",
    "enqueue",
    {
        "operationId": "submitBatch",
        "tags": ["jobs"],
        "summary": "Submit any number of jobs, one a line",
        "description": (
            "Lines are read as fast as Redis takes them. A line that breaks a rule is rejected "
            "alone. The answer is a verdict a line, in order and as they become known, or with "
            "summary counts at the end. If Redis gives out midway, the answer ends with a "
            "problem whose member undecided_from is the first line without a verdict: repeat "
            "from there. With an Idempotency-Key, or ids of your own, repeating the whole body "
            "is just as safe; without them a line that had no verdict may become a second job."
        ),
        "parameters": [
            IDEMPOTENCY_KEY,
            DURABILITY_PARAMETER,
            parameter("summary", "Counts instead of a verdict a line.", dict(FLAG)),
        ],
        "requestBody": {
            "required": True,
            "content": {media_type.decode(): dict(_BODY) for media_type in MEDIA_TYPES},
        },
        "responses": {
            "200": {
                "description": "Every line has its verdict.",
                "content": {
                    "application/x-ndjson": {
                        "schema": {"type": "string", "description": "A Verdict a line."}
                    },
                    "application/json": {"schema": ref("Summary")},
                },
            },
            **refusals(
                "request-timeout",
                "unsupported-media-type",
                "broker-full",
                "durability-unavailable",
                "durability-unconfirmed",
                "stopping",
            ),
        },
    },
)
