"""Calls to Redis that survive the connection they were sent on.

One pipelining connection: the calls of one loop tick leave in one write. A connection
in doubt (late, closed, or answering what nobody asked) is dropped, and every call
without an answer goes out again on the next, with the same bytes, until its retry
window ends. Scripts must therefore be idempotent by the request id they carry, and
calls in flight together have no order among them.

Client CPU a `submit`, us: 20 one at a time, 3.4 with 50 callers, 3.6 in bursts of 100
(`call` adds 0.2; gathered, where each becomes a task, 3). On the same machine in the same
minutes a bare protocol without any of the above takes 18, 2.7 and 3.0, redis-py 94 and,
with 50 callers, 65. EVALSHA of `return ARGV[1]` with 200 bytes, unix socket, CPython
3.11.7, uvloop 0.23, hiredis 3.5, Redis 7.0.15, two shared x86-64 cores.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Final

from bananas.address import Address, parse_url
from bananas.detour import Detour
from bananas.errors import BrokerDeniedError, BrokerUnavailableError
from bananas.failpoints import around_calls
from bananas.link import Argument, Call, Counters, Link, Script, as_eval, connect, fail, pack
from bananas.replies import Verdict, classify, refusal
from bananas.topology import Finder, redirection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger("bananas.transport")

REPLY_TIMEOUT_S: Final = 5.0
RETRY_WINDOW_S: Final = 25.0
DENIED_WINDOW_S: Final = 2.0
BACKOFF_BASE_S: Final = 0.05
BACKOFF_CAP_S: Final = 2.0

_BLOCK_BYTES: Final = 8 << 20
_CALLS_PER_WRITE: Final = 256  # bounds the copy that joining makes, and what leaves once it is full
_LOOK_S: Final = 0.5  # how often a silent server is looked after, where another may follow it
_SILENT_S: Final = 1.0


def _keep_freed_memory() -> None:
    """Have glibc keep 16 MiB of freed memory, not only twice the largest block freed so far.

    Four calls of 500 jobs need 9.4 MB for a moment; given back and faulted in again each time, that
    took 2,300 page faults and 1.9 of 4.9 us a job. Elsewhere this is a block that comes and goes.
    """
    bytes(_BLOCK_BYTES)


class Transport:
    """One connection to one server, made when first needed, remade for ever until `close`.

    Must be made and used inside one running event loop. A caller that is cancelled
    abandons its call: the command may still be carried out, its answer is read and
    thrown away, and nobody else's answer moves.
    """

    def __init__(  # noqa: PLR0913 - each is a knob that some deployment or test turns
        self,
        url: str | Address,
        *,
        client_name: str = "bananas",
        reply_timeout_s: float = REPLY_TIMEOUT_S,
        retry_window_s: float = RETRY_WINDOW_S,
        denied_window_s: float = DENIED_WINDOW_S,
        resolver: Callable[[], Awaitable[Address]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Read the address; nothing is opened yet.

        Args:
            url: As `bananas.address.parse_url` takes it; of a cluster, the address that it
                gives for the prefix of the keys.
            client_name: Shown by CLIENT LIST; printable ASCII without spaces.
            reply_timeout_s: A connection that owes an answer and gives none for this long, while
                no large request or answer is moving, is dropped; a connection attempt may take
                as long. Seconds, > 0.
            retry_window_s: How long a call is repeated before it fails; shorter than the
                server's memory of request ids. Seconds, > 0.
            denied_window_s: How long refused credentials are tried again before calls fail;
                bridges the rotation of a password. Seconds, >= 0.
            resolver: Asked for the address before every connection; by default `url` itself,
                the master that its sentinels name, or the node that holds the slot.
            clock: Monotonic seconds.
            chance: Draws from [0, 1), for the jitter of the back-off.

        Raises:
            FieldError: The URL is wrong.
            RuntimeError: No event loop is running.
        """
        _keep_freed_memory()
        self._address = parse_url(url) if isinstance(url, str) else url
        self._client_name = client_name
        self._reply_timeout_s = reply_timeout_s
        self._retry_window_s = retry_window_s
        self._denied_window_s = denied_window_s
        self._finder = Finder(self._address)
        self._resolve = resolver or self._find
        self._server = self._address  # whom the connection goes to
        self._now = clock
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._new_future = self._loop.create_future
        self._news: asyncio.Future[None] = self._new_future()  # of who holds our keys
        self.counters = Counters()

        self._link: Link | None = None
        self._detour = Detour(
            self._hold,
            self.counters,
            client_name=client_name,
            timeout_s=reply_timeout_s,
            now=clock,
        )
        self._queue: list[Call] = []  # not written yet, or to be written again
        self._flush_due = False
        self._held: list[Call] = []  # refused for now; back in the queue when the pause ends
        self._pause: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._owner: asyncio.Task[None] | None = None
        self._closed = False
        self._setbacks = 0  # refusals and lost connections since the last good answer
        self._problem = "not connected yet"  # the last one, in the words of who had it
        self._denied_since: float | None = None
        self._outage = False  # so that an outage makes one line of log, not one per attempt

    def __repr__(self) -> str:
        """Name the server, without credentials."""
        state = "closed" if self._closed else "connected" if self._link else "not connected"
        return f"<Transport {self._address.label} {state}>"

    @property
    def connected(self) -> bool:
        """Whether a connection stands that has passed its handshake."""
        return self._link is not None

    @property
    def server(self) -> Address:
        """The server that the last connection went to."""
        return self._server

    @property
    def outstanding(self) -> int:
        """Calls without an answer so far, abandoned ones included."""
        pending = len(self._link.pending) if self._link else 0
        return len(self._queue) + len(self._held) + pending + self._detour.outstanding

    async def locate(self) -> Address:
        """Return where the next connection would go: the server itself, its Sentinels asked."""
        return await self._resolve()

    # --- calls --------------------------------------------------------------------------------

    def submit(
        self, script: Script, keys: Sequence[bytes | str] = (), args: Sequence[Argument] = ()
    ) -> asyncio.Future[Any]:
        """Send a script call with the others of this loop tick; return its answer to be.

        The future fails with a `BrokerError`: `BrokerUnavailableError` when the retry window
        ended (the outcome is unknown, repeating is safe), `BrokerFullError`,
        `BrokerDeniedError`, or `ScriptError` for any other error reply.

        Raises:
            TypeError: An argument is neither bytes, str, int nor float.
            BrokerUnavailableError: The transport is closed.
        """
        data = pack((b"EVALSHA", script.sha, len(keys), *keys, *args))
        return self._submit(data, script, script.name, self._reply_timeout_s, True)

    @around_calls
    async def call(
        self, script: Script, keys: Sequence[bytes | str] = (), args: Sequence[Argument] = ()
    ) -> Any:  # noqa: ANN401 - each script's header says what it answers
        """Run a script and return its answer; see `submit` for what it raises."""
        return await self.submit(script, keys, args)

    async def command(
        self, *words: Argument, timeout_s: float | None = None, repeat: bool = False
    ) -> Any:  # noqa: ANN401 - as many shapes as Redis has commands
        """Send one command and return its answer.

        Args:
            words: Its name and arguments.
            timeout_s: Instead of the reply timeout; for a blocking command more than it blocks,
                and on a transport of its own, since answers come in order. Seconds, > 0.
            repeat: Send it again when the answer is lost; only where twice is as good as once.

        Raises:
            BrokerUnavailableError: No answer; the command may or may not have been carried out.
            BrokerError: An error reply, as for `submit`.
        """
        wait_s = self._reply_timeout_s if timeout_s is None else timeout_s
        return await self._submit(pack(words), None, str(words[0]), wait_s, repeat)

    def _submit(
        self, data: bytes, script: Script | None, operation: str, wait_s: float, repeat: bool
    ) -> asyncio.Future[Any]:
        if self._closed:
            raise BrokerUnavailableError(operation, "the transport is closed")
        future = self._new_future()
        window_ends = self._now() + self._retry_window_s
        self._queue.append((future, data, script, operation, window_ends, wait_s, repeat))
        if not self._flush_due:
            # Written at once while nothing is under way, a lone call takes 2 % less; but what a
            # worker settles and what it asks for next would be two writes instead of one.
            self._flush_due = True
            self._loop.call_soon(self._flush)
        if self._watchdog is None:
            self._watch()
        return future

    def _flush(self) -> None:
        """Write what has gathered in this tick, unless the server or the socket wants a rest."""
        self._flush_due = False
        link, queue, sent = self._link, self._queue, 0
        if link is None or self._pause is not None:
            return
        while sent < len(queue) and not link.paused:
            link.send(queue[sent : sent + _CALLS_PER_WRITE])
            sent += _CALLS_PER_WRITE
        del queue[:sent]

    async def close(self) -> None:
        """Close the connection; calls without an answer fail, their outcome unknown."""
        self._closed = True
        for timer in (self._watchdog, self._pause):
            if timer is not None:
                timer.cancel()
        self._watchdog = self._pause = None
        if self._link is not None:
            self._link.drop("the transport was closed")
        await self._detour.close()
        left, self._queue, self._held = self._queue + self._held, [], []
        for call in left:
            fail(call, BrokerUnavailableError(call[3], "the transport was closed"))
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.cancel()
            await asyncio.wait([owner])

    # --- reports of the link ------------------------------------------------------------------

    def on_refused(self, link: Link, call: Call, text: str) -> None:
        """Do with a call what its error reply asks for."""
        _, data, script, operation, *_ = call
        clustered = self._finder.clustered
        match classify(text):
            case Verdict.NOSCRIPT if script is not None:
                self.counters.script_loads += 1
                self._queue.append((call[0], as_eval(data, script.source), *call[2:]))
                self._flush()
            case Verdict.RETRY:
                if link.answered:
                    link.answered, self._setbacks = False, 0
                self._hold(call, text)
            case Verdict.ASK if clustered and script is not None and not script.lone:
                self._hold(call, text)  # until all its keys are on one node
            case Verdict.ASK if clustered:
                self.counters.redirects += 1
                self._detour.take(call, redirection(text, self._server))
            case Verdict.MOVED if clustered:
                self.counters.redirects += 1
                if link.answered:
                    self._setbacks = 0  # it did hold the slot
                self._finder.told(redirection(text, self._server))
                link.pending.appendleft(call)
                link.drop(text, refused=True)
            case Verdict.RECONNECT:
                link.pending.appendleft(call)
                link.drop(text, refused=True)
            case _:
                fail(call, refusal(operation, text, in_script=script is not None))

    def on_lost(self, link: Link, reason: str, *, refused: bool) -> None:
        """Take back what a dead connection owes."""
        if link is self._link:
            self._link = None
            self._problem = reason
            if not self._closed:
                self.counters.drops += 1
                log.warning("connection to %s dropped: %s", self._address.label, reason)
        if link.answered and not refused:
            # A replica that answers reads and refuses writes must not reset the back-off.
            self._setbacks = 0
        again: list[Call] = []
        for position, call in enumerate(link.pending):
            if call[0].done():
                continue
            # The first one of a `refused` link: the server says that it did not carry it out.
            if not (call[6] or (refused and position == 0)):
                fail(call, BrokerUnavailableError(call[3], f"the answer was lost: {reason}"))
            else:
                again.append(call)
        link.pending.clear()
        self.counters.resends += len(again)
        self._queue[:0] = again
        if not self._closed:
            self._loop.call_soon(self._watch)  # from here on it is their windows that count

    def on_writable(self) -> None:
        """Write what gathered while the socket was full."""
        self._flush()

    def _hold(self, call: Call, text: str) -> None:
        """Ask again after a pause."""
        if self._closed:
            fail(call, BrokerUnavailableError(call[3], text))
            return
        self._problem = text
        self._held.append(call)
        if self._pause is None:
            self._pause = self._loop.call_later(self._backoff_s(), self._resume)
        if self._watchdog is None:
            self._watch()

    def _resume(self) -> None:
        self._pause = None
        self._queue[:0] = self._held
        self._held.clear()
        self._flush()

    # --- time ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Judge the oldest unanswered call and the ended windows; come back for the next."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if self._closed:
            return
        if self._owner is None:
            self._owner = self._loop.create_task(self._stay_connected(), name="bananas.transport")
        now = self._now()
        for link in (self._link, self._detour.link):
            if link is not None and link.pending and now >= link.answer_due():
                self.counters.timeouts += 1
                link.drop(f"no answer for {link.pending[0][5]:g} s")
        self._expire(self._held, now)
        dues = [call[4] for call in self._held]
        # What waits behind a large request that is leaving waits for no outage.
        if self._link is None or not self._link.uploading:
            self._expire(self._queue, now)
            dues += [call[4] for call in self._queue]
        links = (self._link, self._detour.link)
        dues += [link.answer_due() for link in links if link is not None and link.pending]
        if dues:
            delay_s = min(min(dues) - now, self._reply_timeout_s)
            self._watchdog = self._loop.call_later(max(delay_s, 0.001), self._watch)

    def _expire(self, calls: list[Call], now: float) -> None:
        ended = [call for call in calls if call[4] <= now]
        if ended:
            calls[:] = [call for call in calls if call[4] > now]
            for call in ended:
                fail(call, self._unavailable(call))

    def _unavailable(self, call: Call) -> BrokerUnavailableError:
        why = f"no answer from {self._address.label} within {self._retry_window_s:g} s"
        return BrokerUnavailableError(call[3], f"{why} ({self._problem})")

    def _backoff_s(self) -> float:
        """Return the next pause: doubling, capped, and between half and whole of that."""
        pause_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(self._setbacks, 16))
        self._setbacks += 1
        return pause_s * (0.5 + self._chance() / 2)

    # --- the connection -----------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        if self._finder.watched:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._finder.listen(self._hear))
                tasks.create_task(self._reconnect())
        else:
            await self._reconnect()

    async def _reconnect(self) -> None:
        while True:
            try:
                link = await self._open()
            except Exception as error:  # noqa: BLE001 - a resolver is foreign code; calls wait on us
                self._not_connected(error)
            else:
                await self._end_of(link)
            await asyncio.sleep(self._backoff_s())

    async def _end_of(self, link: Link) -> None:
        """Wait until a connection has ended; end one whose server has a follower."""
        look_s = _LOOK_S if self._finder.roams else None
        while not link.lost.done():
            # wait(), as cancelling us must not mark the link as lost: nobody would close it.
            ends: list[asyncio.Future[Any]] = [link.lost, self._news]
            await asyncio.wait(ends, timeout=look_s, return_when=asyncio.FIRST_COMPLETED)
            heard = self._news.done()
            if heard:
                self._news = self._new_future()
            if not link.lost.done() and (heard or self._is_silent(link)):
                await self._look_around(link)

    def _hear(self) -> None:
        if not self._news.done():
            self._news.set_result(None)

    def _is_silent(self, link: Link) -> bool:
        patience_s = self._reply_timeout_s - _SILENT_S
        return bool(link.pending) and self._now() >= link.answer_due() - patience_s

    async def _look_around(self, link: Link) -> None:
        try:
            async with asyncio.timeout(self._reply_timeout_s):
                server = await self._resolve()
        except Exception as error:  # noqa: BLE001 - a resolver is foreign code; we go on waiting
            log.debug("who holds %s is not known: %s", self._address.label, error)
        else:
            if server != self._server:
                link.drop(f"{server.label} has taken over")

    async def _open(self) -> Link:
        link = Link(self, self._now)
        try:
            async with asyncio.timeout(self._reply_timeout_s):
                address = await self._resolve()
                await connect(link, address, self._client_name)
        except BaseException as error:
            link.drop(str(error))
            raise
        self.counters.connects += 1
        self._server = address
        self._detour.drop("there is a new connection")
        self._denied_since = None
        log.log(logging.INFO if self._outage else logging.DEBUG, "connected to %s", address.label)
        self._outage = False
        self._link = link
        self._flush()
        return link

    async def _find(self) -> Address:
        return await self._finder.find(self._reply_timeout_s)

    def _not_connected(self, error: Exception) -> None:
        self.counters.failed_connects += 1
        self._problem = str(error) or f"no connection within {self._reply_timeout_s:g} s"
        if not self._outage:
            self._outage = True
            log.warning("cannot reach Redis at %s: %s", self._address.label, self._problem)
        if not isinstance(error, BrokerDeniedError):
            return
        now = self._now()
        if self._denied_since is None:
            self._denied_since = now
        if now - self._denied_since >= self._denied_window_s:
            denied, self._queue, self._held = self._queue + self._held, [], []
            for call in denied:
                fail(call, BrokerDeniedError(call[3], error.why))
