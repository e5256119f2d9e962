"""uvicorn, with what it leaves to a proxy: slow, endless and oversized requests end.

uvicorn limits neither the time nor the size of a request's head, nor the time of its body.
Here every connection counts what comes in, and once a second all are looked over:
one timer for the server instead of some for every request.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn import Server
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bananas.http.exchange import CLOSED, MAX_HEAD_BYTES, WHOLE_REPLY
from bananas.http.problems import MEDIA_TYPE, Problem

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator

    from uvicorn import Config
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from bananas.http.exchange import Fields

HEAD_TIMEOUT_S: Final = 5.0
BODY_TIMEOUT_S: Final = 15.0
MIN_BODY_RATE: Final = 1024.0
"""Bytes a second that a body must keep up with in every 15 s that it takes."""

DISCARD_TIMEOUT_S: Final = 5.0
"""How long the rest of a body may come in after its answer has gone out."""

STALL_S: Final = 60.0
"""How long an answer may lie here with nothing of it taken by its reader."""

MAX_PIPELINED: Final = 64
"""Requests of one connection that may wait for the answer to an earlier one."""

MAX_FRAMING_BYTES: Final = 64 * 1024
"""What chunk headers, extensions and trailers may take, beside eight times the body itself."""

LOOK_S: Final = 1.0
"""How often connections are looked over; `Date` changes as often."""

LINGER_S: Final = 0.5
"""How long a connection that was refused may go on sending before it is cut."""

STREAM_KEY: Final = "bananas.stream"
"""Set in the scope by a route that minds the time of its body itself."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection; see the module."""

    max_connections = 4096

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        """Expect the first head."""
        super().__init__(*args, **kwargs)
        self._messages = 0  # heads that have begun
        self._running: RequestResponseCycle | None = None  # the oldest without its answer
        self._in_head = True
        self._in_body = False
        self._head_bytes = 0
        self._body_bytes = 0  # of the body as it comes, framing included
        self._content_bytes = 0  # of the body itself
        self._measured_bytes = 0  # of the body as it came until its time was last measured
        self._ended = False
        self._unsent_bytes = 0
        self._since = self.loop.time()  # when the head, the body or the discarding began
        self._answered_at = self._since
        self._taken_at = self._since  # when the reader last took something that waited for it

    # --- what comes in ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._end(Problem("overloaded", "come back later", headers={"retry-after": "1"}))

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and count what belongs to a head or a body that is not whole yet."""
        if self._ended:
            return
        messages = self._messages
        super().data_received(data)
        if self._messages == messages:
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._end(Problem("headers-too-large", f"the limit is {MAX_HEAD_BYTES} bytes"))
            elif self._in_body:
                self._body_bytes += len(data)
                framing = self._body_bytes - self._content_bytes
                if framing > MAX_FRAMING_BYTES + 8 * self._content_bytes:
                    self._end(Problem("malformed-request", "the body is framed out of proportion"))

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        super().on_message_begin()
        self._messages += 1
        self._head_bytes = 0
        if not self._in_head:  # the first head's time began with the connection
            self._in_head = True
            self._since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; those after a body are no part of it, and nobody asked."""
        if not self._in_head:
            return
        name = name.lower()
        self.headers.append((name, value))
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        """Note that the body may begin.

        Raises:
            ValueError: Too many requests wait already; the parser's caller ends the connection.
        """
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        super().on_headers_complete()
        # Only now: what this refuses is a head that is wrong, and has no cycle of its own.
        self._in_head = False
        self._in_body = True
        self._body_bytes = self._content_bytes = self._measured_bytes = 0
        self._since = self.loop.time()
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and cycle.scope is self.scope:
            extensions: dict[str, Any] = {
                WHOLE_REPLY: partial(_reply_whole, cycle),
                CLOSED: self.transport.is_closing,
            }
            self.scope["extensions"] = extensions

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Count what is body."""
        self._content_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin the next request that waits; else the rest of a body, or the rest, has its time.

        uvicorn sets a timer here after every answer, and cancels it at the next request: without
        it, and with one call less for each field of the head, 260,700 instructions are 243,400.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._answered_at = self.loop.time()
        if self._in_body:
            self._since = self._answered_at
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._end(Problem("malformed-request", msg))

    def _unsupported_upgrade_warning(self) -> None:
        """Answer without the upgrade, and close: from here on the parser takes nothing in."""
        self._ended = True
        self.cycle.keep_alive = False
        if self.cycle.response_complete:
            self.transport.close()

    # --- what takes too long ------------------------------------------------------------------

    def look_over(self, now: float) -> None:
        """End the request that keeps this connection without making headway.

        Args:
            now: The loop's time, seconds.
        """
        if self._stalled(now):
            self.transport.abort()
            return
        took_s = now - self._since
        if self._in_head:
            if took_s > HEAD_TIMEOUT_S:
                self._end(Problem("request-timeout", f"the head took over {HEAD_TIMEOUT_S:g} s"))
        elif not self._in_body:
            if self.cycle.response_complete and now - self._answered_at > self.timeout_keep_alive:
                self.transport.close()
        elif self.cycle.response_complete:
            if took_s > DISCARD_TIMEOUT_S:
                self.transport.close()
        elif (
            took_s > BODY_TIMEOUT_S
            and not self.flow.read_paused  # then it is we who are slow
            and STREAM_KEY not in self.scope
        ):
            if self._body_bytes - self._measured_bytes < took_s * MIN_BODY_RATE:
                self._end(
                    Problem(
                        "request-timeout",
                        f"the body came at under {MIN_BODY_RATE:g} bytes/s for "
                        f"{BODY_TIMEOUT_S:g} s",
                    )
                )
            # Anew each time: a quick beginning must not pay for a pause without end.
            self._since, self._measured_bytes = now, self._body_bytes

    def _stalled(self, now: float) -> bool:
        """Whether an answer waits for a reader who has taken nothing for too long.

        A transport that is to be closed is waited for too: it closes with its last byte.
        """
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent_bytes:
            self._taken_at = now
        self._unsent_bytes = unsent
        return now - self._taken_at > STALL_S

    def _end(self, problem: Problem) -> None:
        """Say what is wrong, if it is this request's turn to be answered, and close."""
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        cycle = cast("RequestResponseCycle | None", self.cycle)
        running = self._running
        if (
            running is not None
            and not running.response_complete
            and (self._in_head or cycle is not running)
        ):
            # What came before gets its answers; what is wrong gets none, and nothing follows it.
            if not self._in_head:
                self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else running
            last.keep_alive = False
            self.flow.pause_reading()
            return
        unanswered = cycle is None or not cycle.response_started
        if cycle is not None and cycle.response_complete:
            unanswered = not self._in_body  # else it is the rest of what has its answer already
        # A connection that never sent a byte asked nothing: a browser's spare one.
        if unanswered and (self._messages or problem.kind == "overloaded"):
            self.transport.write(_raw(problem))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        # To close with data unread is a reset, which may overtake the answer: what still comes
        # is thrown away for a moment instead.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def _reply_whole(cycle: RequestResponseCycle, status: int, headers: Fields, body: bytes) -> bool:
    """Answer a request in one write, as `cycle.send` does in two; False = it must do it.

    Every write is a system call of its own, in uvloop too.
    """
    if (
        cycle.response_started
        or cycle.disconnected
        or cycle.transport.is_closing()
        or cycle.flow.write_paused
        or cycle.scope["method"] == "HEAD"
    ):
        return False
    lines = [b"%b: %b\r\n" % field for field in cycle.default_headers + headers]
    if not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        raise ValueError("a header's value has a line break in it")
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    # This function is in the scope that is in the cycle that is in this function: nobody else
    # would end that but the garbage collector: 274,900 instructions a request, 260,700 so.
    cycle.scope.pop("extensions")
    cycle.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, body))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def _raw(problem: Problem) -> bytes:
    """Return a whole response."""
    body = problem.body()
    head = [
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        f"content-type: {MEDIA_TYPE.decode()}",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in problem.headers.items()),
        "connection: close",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class GuardedServer(Server):
    """uvicorn's server; leaves signals to whoever runs it, and looks its connections over."""

    def __init__(self, config: Config, on_started: Callable[[], object]) -> None:
        """Prepare; `on_started` is called once connections are taken."""
        super().__init__(config)
        self._on_started = on_started
        self._leaving = asyncio.Event()

    def leave(self, *, at_once: bool = False) -> None:
        """End: after what is under way, or at once."""
        self.should_exit = True
        self.force_exit = at_once
        self._leaving.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def main_loop(self) -> None:
        """Do uvicorn's housekeeping and ours once a second, until it is time to leave.

        uvicorn's own loop wakes ten times a second and is as late to leave.
        """
        while not await self.on_tick(0):  # 0: its work of the full second
            now = asyncio.get_running_loop().time()
            connections: list[object] = [*self.server_state.connections]
            for connection in connections:
                if isinstance(connection, GuardedProtocol):
                    connection.look_over(now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none: the process has handlers of its own."""
        yield
