"""One connection to Redis: its handshake, its bytes, and which answer belongs to whom.

Answers come in the order of the calls, so a deque pairs them. At the first doubt the
link ends itself for good, handing back what it still owes; it never reconnects.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import termios
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

import hiredis

from bananas.errors import BrokerDeniedError, BrokerError, BrokerUnavailableError
from bananas.replies import Verdict, classify
from bananas.speedups import pack_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.address import Address

Argument: TypeAlias = bytes | str | int | float

_MORE: Final = object()
_ReplyError: Final = hiredis.ReplyError
_WRITE_HIGH_BYTES: Final = 1 << 20
"""Unsent bytes from which on calls gather: as many as one full call of a producer's has."""

_KEEPALIVE_S: Final = 15
"""Until an idle connection is probed, and between probes: below the minutes that NATs forget in."""

_PROGRESS_BYTES: Final = 1 << 14
"""So much of an answer is a sign of life: a large one may take longer than its time.

In the 5 s that an answer has by default this is 3 KiB a second: what is slower counts as dead.
"""

_LARGE_BYTES: Final = 1 << 16
"""From this on it is looked whether a request leaves at all: it may take longer than its time.

A smaller one mostly fits into what the system buffers, and has left with its write.
"""

UPLOAD_S: Final = 25.0
"""How long past its window a large request may go on leaving, seconds.

Window, this and the time of an answer together are less than a request is remembered for: a
repeat must not arrive when the first sending is forgotten.
"""

_LOOKS: Final = 10  # within the time of an answer: what leaves is noticed a tenth of it late

# hiredis's own takes 1,850 instructions a word, 150 of them needed: 8 % of a no-op job.
pack: Callable[[tuple[Argument, ...]], bytes] = pack_command


_EVALSHA_BYTES: Final = len(b"$7\r\nEVALSHA\r\n$40\r\n\r\n") + 40


def as_eval(data: bytes, source: bytes) -> bytes:
    """Return the packed EVALSHA as an EVAL of the same keys and arguments."""
    count_end = data.index(b"\r\n") + 2
    rest = data[count_end + _EVALSHA_BYTES :]
    return b"%s$4\r\nEVAL\r\n$%d\r\n%s\r\n%s" % (data[:count_end], len(source), source, rest)


class Script(Protocol):
    """A Lua script as a link sees it."""

    @property
    def name(self) -> str:
        """Name, for errors."""
        ...

    @property
    def source(self) -> bytes:
        """The Lua text."""
        ...

    @property
    def sha(self) -> str:
        """SHA-1 of `source`, 40 hex digits."""
        ...

    @property
    def lone(self) -> bool:
        """Whether it touches no key but its only one."""
        ...


# One call: future, bytes to send, script (None = a command), operation for errors, monotonic
# time its retry window ends, seconds its answer may take, whether it may be sent again.
# A bare tuple, since making an object with names costs five times as much, on every call.
Call: TypeAlias = tuple[asyncio.Future[Any], bytes, Script | None, str, float, float, bool]


def fail(call: Call, error: BrokerError) -> None:
    """Give a call its error, unless its caller has left."""
    if not call[0].done():
        call[0].set_exception(error)


@dataclass(slots=True)
class Counters:
    """What happened to the connections so far; plain integers that only grow."""

    connects: int = 0
    failed_connects: int = 0
    drops: int = 0
    timeouts: int = 0
    resends: int = 0
    script_loads: int = 0
    stale_replies: int = 0  # answers whose caller had left
    redirects: int = 0  # calls that a node of a cluster sent to another one


class Owner(Protocol):
    """Whom a link reports to."""

    counters: Counters

    def on_refused(self, link: Link, call: Call, text: str) -> None:
        """Deal with an error reply."""

    def on_lost(self, link: Link, reason: str, *, refused: bool) -> None:
        """Take back `link.pending`; with `refused`, the server declined its first call."""

    def on_writable(self) -> None:
        """Write what was held back while the link was `paused`."""


class Link(asyncio.Protocol):
    """One connection and what it owes.

    Attributes:
        pending: Calls written and not answered, oldest first.
        lost: Done once the link has ended; the result says why.
        paused: Whether the socket is full.
        ready: Whether the handshake is over; until then error replies are plain answers.
        answered: Whether a call got a good answer; the owner may clear it.
    """

    def __init__(self, owner: Owner, now: Callable[[], float]) -> None:
        """Make an end without a connection, to be given to `connect`."""
        self._owner = owner
        self._now = now
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._wire: asyncio.Transport | None = None
        self._progress_at = 0.0  # last sign of life, or first call after a rest
        self._part_bytes = 0  # since then
        self._unsent_bytes = 0  # of a large request, at its last sign of life
        self._look_s = 0.0
        self.pending: deque[Call] = deque()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.paused = False
        self.ready = False
        self.answered = False

    def answer_due(self) -> float:
        """Return the monotonic time at which the oldest call is late."""
        return self._progress_at + self.pending[0][5]

    def send(self, calls: list[Call]) -> None:
        """Write calls; they are answered in this order.

        Raises:
            ConnectionError: The link has ended, or never began.
        """
        wire = self._wire
        if wire is None or self.lost.done():
            raise ConnectionError(self.lost.result() if self.lost.done() else "not connected")
        if not self.pending:
            self._progress_at = self._now()
        self.pending.extend(calls)
        # The join of one, its list included, is 1 % of what a lone enqueue takes.
        data = calls[0][1] if len(calls) == 1 else b"".join([call[1] for call in calls])
        wire.write(data)
        if self._unsent_bytes:
            self._unsent_bytes += len(data)
        elif len(data) >= _LARGE_BYTES:
            self._unsent_bytes = len(data)
            self._look_s = calls[0][5] / _LOOKS
            asyncio.get_running_loop().call_later(self._look_s, self._look)

    @property
    def uploading(self) -> bool:
        """Whether calls wait for an answer that cannot come before a large request has left."""
        return self._unsent_bytes > 0 and bool(self.pending) and not self.lost.done()

    def _look(self) -> None:
        """Take it for a sign of life that a large request leaves: its answer cannot come before."""
        if self.lost.done():
            return
        left = self._left_bytes()
        if self.pending and self._now() > self.pending[0][4] + UPLOAD_S:
            return  # what is as old as that must not arrive any more
        if left == 0 or left <= self._unsent_bytes - _PROGRESS_BYTES:
            self._unsent_bytes = left
            self._progress_at = self._now()
        if left:
            asyncio.get_running_loop().call_later(self._look_s, self._look)

    def _left_bytes(self) -> int:
        """Return how many bytes the other side has not taken yet: ours and the system's."""
        wire = self._wire
        if wire is None:
            return 0
        queued = bytearray(4)
        with suppress(OSError, AttributeError):  # not every system tells
            fcntl.ioctl(wire.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return wire.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def sever(self, null: int) -> None:
        """Let our descriptor mean nothing, in a process that only has a copy of it."""
        with suppress(Exception):
            if self._wire is not None and not self._wire.is_closing():
                os.dup2(null, self._wire.get_extra_info("socket").fileno(), inheritable=False)

    def drop(self, reason: str, *, refused: bool = False) -> None:
        """End the connection at once; what it owes goes back to the owner."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._wire is not None:
            self._wire.abort()
        self._owner.on_lost(self, reason, refused=refused)

    # --- called by the loop -------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Hand every whole answer to the call whose turn it is."""
        pending, gets = self.pending, self._reader.gets
        self._reader.feed(data)
        progress = False
        try:
            while (reply := gets()) is not _MORE:
                if not pending:
                    # A server without room for us says so before it is asked.
                    refusal = type(reply) is _ReplyError
                    self.drop(str(reply) if refusal else "an answer that nobody asked for")
                    return
                call = pending.popleft()
                progress = True
                if type(reply) is _ReplyError and self.ready:
                    self._owner.on_refused(self, call, str(reply))
                    if self.lost.done():
                        return
                    continue
                self.answered = self.ready
                if call[0].done():
                    self._owner.counters.stale_replies += 1
                else:
                    call[0].set_result(reply)
        except hiredis.ProtocolError as error:
            self.drop(f"not the protocol of Redis: {error}")
        if not progress:
            self._part_bytes += len(data)
            progress = self._part_bytes >= _PROGRESS_BYTES
        if progress:
            self._part_bytes = 0
            self._progress_at = self._now()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the wire."""
        # uvloop's transports are no subclasses of asyncio's.
        self._wire = cast("asyncio.Transport", transport)
        self._wire.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        _links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the other side's end for the end."""
        self.drop(str(exc) if exc else "closed by the server")

    def pause_writing(self) -> None:
        """Let calls gather: the server does not read fast enough."""
        self.paused = True

    def resume_writing(self) -> None:
        """Have what has gathered written."""
        self.paused = False
        self._owner.on_writable()


_links: Final[weakref.WeakSet[Link]] = weakref.WeakSet()


def _sever_copies() -> None:
    """Part a forked child from its parent's connections: two writers would mix their calls."""
    links = [*_links]
    if links:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for link in links:
            link.sever(null)
        os.close(null)
        _links.clear()


os.register_at_fork(after_in_child=_sever_copies)


async def connect(link: Link, address: Address, client_name: str) -> None:
    """Open the connection and shake hands, with no time limit of its own.

    Raises:
        OSError: No connection, or no trust in its certificate.
        BrokerDeniedError: Credentials missing or refused.
        BrokerError: A server that cannot serve us now.
    """
    loop = asyncio.get_running_loop()
    if address.path is not None:
        await loop.create_unix_connection(lambda: link, address.path)
    else:
        tls = address.tls.context() if address.tls else None
        wire, _ = await loop.create_connection(lambda: link, address.host, address.port, ssl=tls)
        _keep_alive(wire.get_extra_info("socket"))
    await _greet(link, address, client_name)
    link.ready = True


def _keep_alive(plug: socket.socket) -> None:
    """Find a dead peer while nothing is asked; while something is, the owner's watchdog does."""
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        if hasattr(socket, option):
            plug.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), _KEEPALIVE_S)


async def _greet(link: Link, address: Address, client_name: str) -> None:
    """Log in, choose the database, give our name; RESP2 is what a connection starts with."""
    commands: list[tuple[Argument, ...]] = []
    auth = address.auth()
    if auth is not None:
        commands.append(auth)
    if address.db:
        commands.append(("SELECT", address.db))
    commands.append(("CLIENT", "SETNAME", client_name))
    if address.master_only:
        commands.append(("ROLE",))
    new_future = asyncio.get_running_loop().create_future
    calls: list[Call] = [
        (new_future(), pack(words), None, str(words[0]), 0.0, 0.0, False) for words in commands
    ]
    link.send(calls)
    answers = await asyncio.gather(*(call[0] for call in calls), return_exceptions=True)
    for words, answer in zip(commands, answers, strict=True):
        if isinstance(answer, _ReplyError):
            _judge_greeting(str(words[0]), _hidden(str(answer), address.password))
        elif isinstance(answer, BaseException):
            raise answer
        elif words[0] == "ROLE" and answer[0] != b"master":
            raise BrokerUnavailableError("connect", f"{address.label} is not the master")


def _judge_greeting(command: str, text: str) -> None:
    """Raise for an error reply of the handshake, unless we can do without that command."""
    verdict = classify(text)
    needed = command in ("AUTH", "SELECT")
    # Tight ACLs and old servers refuse CLIENT and ROLE; NOAUTH and DENIED are about everything.
    if text.startswith(("NOAUTH", "DENIED")) or (needed and verdict is Verdict.DENIED):
        raise BrokerDeniedError("connect", text)
    if needed or verdict in (Verdict.RETRY, Verdict.RECONNECT):
        raise BrokerError("connect", text)


def _hidden(text: str, password: str | None) -> str:
    """Take the password out: some proxies quote the arguments of a command they don't know."""
    return text.replace(password, "***") if password else text
