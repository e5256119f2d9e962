"""A proxy between a client and a real Redis that fails on cue.

It reads RESP both ways, so a fault hits one chosen command or its answer and never a
random byte. TCP cannot lose the middle of a stream: what "drops" a request or an answer
keeps silent on that connection from there on, as a cut cable does.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import shutil
import socket
import struct
import tempfile
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


class Fault(enum.Enum):
    """What may happen to one request or its answer."""

    DROP_REQUEST = "the request and all after it never reach the server"
    DROP_REPLY = "the command is carried out; its answer and all after it are lost"
    CUT_BEFORE = "the connection is reset before the request reaches the server"
    CUT_AFTER = "the command is carried out, then the connection is reset"
    RESET_MID_REPLY = "the connection is reset after half of the answer"
    DUPLICATE = "the server gets the request twice; the second answer is swallowed"
    HOLD = "the connection is reset; the request reaches the server when the test releases it"
    DELAY = "the answer, and all after it, come `seconds` late"
    TRICKLE = "the answer comes one byte at a time, `seconds` apart"


@dataclass(eq=False)
class Plan:
    """One fault to come; `fired` is set when it happens."""

    fault: Fault
    nth: int  # counts matching requests from the making of the plan on, from 1
    matches: Callable[[bytes], bool]
    seconds: float = 0.0
    fired: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Wire:
    """One client and its connection to the server."""

    to_client: asyncio.StreamWriter
    to_server: asyncio.StreamWriter
    fates: deque[Plan | Fault | None] = field(default_factory=deque)  # one per answer owed
    no_requests: bool = False
    no_replies: bool = False

    def reset(self) -> None:
        """End both sides at once; over TCP the client sees RST."""
        plug = self.to_client.get_extra_info("socket")
        if plug is not None and plug.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.to_client.transport.abort()
        self.to_server.transport.abort()


class FaultProxy:
    """Listens on a unix socket of its own and, with `tcp`, on a free port.

    Attributes:
        seen: Every request that came in, whole, in order of arrival.
        hit: The requests that met a fault, likewise.
        held: Requests under way for longer than their connection: `release` lets them arrive.
        accepted: Connections so far.
        fired: Faults so far.
    """

    def __init__(self, upstream: Path | str, *, tcp: bool = False, seed: int = 0) -> None:
        """Prepare to stand before the server at the unix socket `upstream`."""
        self._upstream = str(upstream)
        self._tcp = tcp
        self._random = random.Random(seed)
        self._plans: list[Plan] = []
        self._chaos: tuple[float, tuple[Fault, ...], float] | None = None
        self._wires: set[_Wire] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._silent = False
        self._mute = False
        self._refusing = False
        self._hearing = asyncio.Event()
        self._hearing.set()
        self._pieces = (0, 0)
        self._pause_s = 0.0
        self._latency_s = 0.0
        self.seen: list[bytes] = []
        self.hit: list[bytes] = []
        self.held: list[bytes] = []
        self._greeting: dict[bytes, bytes] = {}  # how clients log in and choose their database
        self.accepted = 0
        self.fired = 0
        self.before: Callable[[bytes], Awaitable[None]] | None = None
        """Awaited with each request before it is passed on."""

    async def __aenter__(self) -> Self:
        """Listen."""
        self._folder = Path(tempfile.mkdtemp(prefix="bp-", dir="/tmp"))  # short, mode 0700
        self._server: asyncio.AbstractServer
        if self._tcp:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        else:
            self._server = await asyncio.start_unix_server(self._serve, self._folder / "p")
            self.url = f"unix://{self._folder / 'p'}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close everything."""
        self._server.close()
        self.reset()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- what tests ask for -------------------------------------------------------------------

    def plan(
        self,
        fault: Fault,
        *,
        nth: int = 1,
        command: bytes | None = None,
        matching: Callable[[bytes], bool] | None = None,
        seconds: float = 0.0,
    ) -> Plan:
        """Have the nth request from now on that has this name, or matches, meet a fault, once."""

        def named(request: bytes) -> bool:
            return command in (None, command_of(request))

        plan = Plan(fault, nth, matching or named, seconds)
        self._plans.append(plan)
        return plan

    def chaos(self, probability: float, faults: tuple[Fault, ...], seconds: float = 0.0) -> None:
        """Have every request meet one of the faults with this probability, by the seed."""
        self._chaos = (probability, faults, seconds)

    def calm(self) -> None:
        """Forget all plans and the chaos."""
        self._plans.clear()
        self._chaos = None

    def silence(self, *, also_new: bool = False) -> None:
        """Swallow all bytes both ways, and close nothing: what stands is half-open from now on."""
        self._silent = also_new
        for wire in self._wires:
            wire.no_requests = wire.no_replies = True

    def mute(self) -> None:
        """Carry out all that is asked and let no answer through, on new connections too."""
        self._mute = True
        for wire in self._wires:
            wire.no_replies = True

    def deafen(self) -> None:
        """Read nothing more from clients, until `speak`: what they send fills their sockets."""
        self._hearing.clear()

    def speak(self) -> None:
        """Serve new connections again."""
        self._silent = self._mute = self._refusing = False
        self._hearing.set()

    def slow(
        self, *, pieces: tuple[int, int] = (0, 0), pause_s: float = 0.0, latency_s: float = 0.0
    ) -> None:
        """Be slow both ways: pieces of so many bytes with a pause after each, or all of it late."""
        self._pieces, self._pause_s, self._latency_s = pieces, pause_s, latency_s

    def refuse(self, *, only_new: bool = False) -> None:
        """Reset all connections, and new ones at once, until `speak`."""
        self._refusing = True
        if not only_new:
            self.reset()

    def reset(self) -> None:
        """Reset all connections."""
        for wire in list(self._wires):
            wire.reset()

    async def release(self) -> None:
        """Let the held requests arrive now, in their order; returns when all are carried out."""
        held, self.held = self.held, []
        await self.deliver(held)

    async def deliver(self, requests: Sequence[bytes]) -> None:
        """Have the server carry out requests as copies that were long on their way."""
        reader, writer = await asyncio.open_unix_connection(self._upstream)
        try:
            writer.write(b"".join((*self._greeting.values(), *requests)))
            writer.write(b"*2\r\n$4\r\nECHO\r\n$9\r\ndelivered\r\n")
            end = b""
            while not end.endswith(b"$9\r\ndelivered\r\n"):
                end = end[-20:] + await reader.read(1 << 16)
        finally:
            writer.transport.abort()

    def inject(self, reply: bytes) -> None:
        """Send bytes to every client as if the server had."""
        for wire in self._wires:
            wire.to_client.write(reply)

    # --- the two directions -------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        wire = None
        try:
            if self._refusing:
                return
            answers, to_server = await asyncio.open_unix_connection(self._upstream)
            mute = self._silent or self._mute
            wire = _Wire(writer, to_server, no_requests=self._silent, no_replies=mute)
            self._wires.add(wire)
            directions = [
                asyncio.ensure_future(self._forward_requests(wire, reader)),
                asyncio.ensure_future(self._forward_replies(wire, answers)),
            ]
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the test is over
        finally:
            writer.transport.abort()
            if wire is not None:
                wire.to_server.transport.abort()
                self._wires.discard(wire)
            self._serving.discard(task)

    async def _forward_requests(self, wire: _Wire, reader: asyncio.StreamReader) -> None:
        rest = b""
        while data := await reader.read(1 << 16):
            await self._hearing.wait()
            frames, rest = split_frames(rest + data)
            for number, frame in enumerate(frames):
                await self._note(frame)
                fate = self._fate_of(frame)
                if wire.no_requests:
                    continue
                if fate:
                    self.hit.append(frame)
                match fate.fault if fate else None:
                    case Fault.DROP_REQUEST:
                        wire.no_requests = True
                        self._fire(fate)
                        continue
                    case Fault.CUT_BEFORE:
                        self._fire(fate)
                        wire.reset()
                        return
                    case Fault.HOLD:
                        self._fire(fate)
                        self.held += frames[number:]  # nothing overtakes on one connection
                        wire.reset()
                        return
                    case Fault.DUPLICATE:
                        self._fire(fate)
                        wire.fates += [None, Fault.DUPLICATE]
                        await self._say(wire.to_server, frame + frame)
                    case _:
                        wire.fates.append(fate)
                        await self._say(wire.to_server, frame)
            await wire.to_server.drain()

    async def _forward_replies(self, wire: _Wire, reader: asyncio.StreamReader) -> None:
        rest = b""
        while data := await reader.read(1 << 16):
            frames, rest = split_frames(rest + data)
            for frame in frames:
                fate = wire.fates.popleft() if wire.fates else None
                if not wire.no_replies and not await self._answer(wire, frame, fate):
                    return
            await wire.to_client.drain()

    async def _answer(self, wire: _Wire, frame: bytes, fate: Plan | Fault | None) -> bool:
        """Pass one answer on as its fate wants it; False ends the connection."""
        if fate is Fault.DUPLICATE:
            return True
        plan = fate if isinstance(fate, Plan) else None
        if plan is not None:
            self._fire(plan)
        match plan.fault if plan else None:
            case Fault.DROP_REPLY:
                wire.no_replies = True
                return True
            case Fault.CUT_AFTER:
                wire.reset()
                return False
            case Fault.RESET_MID_REPLY:
                wire.to_client.write(frame[: max(1, len(frame) // 2)])
                await asyncio.sleep(0.01)  # so that the half is read before the end is
                wire.reset()
                return False
            case Fault.DELAY if plan is not None:
                await asyncio.sleep(plan.seconds)
                wire.to_client.write(frame)
            case Fault.TRICKLE if plan is not None:
                for at in range(len(frame)):
                    wire.to_client.write(frame[at : at + 1])
                    await asyncio.sleep(plan.seconds)
            case _:
                await self._say(wire.to_client, frame)
        return True

    async def _say(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Pass bytes on, as slowly as was asked for."""
        least, most = self._pieces
        if self._latency_s:
            asyncio.get_running_loop().call_later(self._latency_s, writer.write, data)
            return
        while most and data:
            size = self._random.randint(least, most)
            writer.write(data[:size])
            data = data[size:]
            await asyncio.sleep(self._pause_s)
        if data:
            writer.write(data)

    async def _note(self, frame: bytes) -> None:
        self.seen.append(frame)
        if command_of(frame) in (b"AUTH", b"SELECT"):
            self._greeting[command_of(frame)] = frame
        if self.before is not None:
            await self.before(frame)

    def _fate_of(self, frame: bytes) -> Plan | None:
        for plan in self._plans:
            if plan.matches(frame):
                plan.nth -= 1
                if plan.nth == 0:
                    self._plans.remove(plan)
                    return plan
        if self._chaos is not None:
            probability, faults, seconds = self._chaos
            if self._random.random() < probability:
                return Plan(self._random.choice(faults), 0, bool, seconds)
        return None

    def _fire(self, plan: Plan | None) -> None:
        assert plan is not None
        self.fired += 1
        plan.fired.set()


def command_of(frame: bytes) -> bytes:
    """Return the name of a request, upper case."""
    return frame.split(b"\r\n", 3)[2].upper()


def split_frames(data: bytes) -> tuple[list[bytes], bytes]:
    """Cut whole RESP2 values off the front; return them and the rest."""
    frames: list[bytes] = []
    at = 0
    while (end := _frame_end(data, at)) is not None:
        frames.append(data[at:end])
        at = end
    return frames, data[at:]


def _frame_end(data: bytes, at: int) -> int | None:
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return None
    after = line_end + 2
    kind = data[at : at + 1]
    if kind == b"$":
        size = int(data[at + 1 : line_end])
        after += size + 2 if size >= 0 else 0
        return after if after <= len(data) else None
    if kind == b"*":
        for _ in range(int(data[at + 1 : line_end])):
            end = _frame_end(data, after)
            if end is None:
                return None
            after = end
    return after
