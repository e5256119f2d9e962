"""Waits until accepted jobs are as safe as was asked: on the server's disk, or on a replica.

WAIT and WAITAOF block their connection and cover the writes of that connection only. So a
confirmer has a connection of its own, and whoever waits shares it: while one wait is under
way newcomers gather for the next. A write must go before the wait, or it would cover
nothing: each waiting request has its memory renewed. That also tells whether this server
still has the request; one that restarted or failed over meanwhile may have lost it, and
must not confirm what it never saw.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bananas.broker import MEMORY_MS
from bananas.errors import (
    BrokerDeniedError,
    BrokerError,
    BrokerUnavailableError,
    DurabilityError,
    DurabilityUnconfirmedError,
)
from bananas.link import Call, Counters, Link, connect, fail, pack
from bananas.replies import Verdict, classify
from bananas.transport import DENIED_WINDOW_S, REPLY_TIMEOUT_S, RETRY_WINDOW_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.broker import Broker
    from bananas.link import Argument

log = logging.getLogger("bananas.confirmer")

MAX_REQUESTS: Final = 1000
"""Most requests that share one wait; the others have the next."""

_BACKOFF_BASE_S: Final = 0.05
_BACKOFF_CAP_S: Final = 1.0
_MARGIN_S: Final = 0.5  # for an answer to travel, once the server's own time limit is over
_FIRST_SHARE: Final = 0.3  # of the whole wait, until its first sign of life is overdue
_OPERATION: Final = "producer.confirm"

# Its WAITAOF tells the truth with `appendfsync everysec` too. Those of Valkey (8.1 and 9.1 were
# looked at) and of older Redis answer as soon as the write has left the process, unsynced.
_HONEST_REDIS: Final = 8


class _Waiter(NamedTuple):
    """One request to confirm: True = as safe as asked, False = the server has lost it."""

    request: str
    future: asyncio.Future[bool]
    ends_at: float


class Confirmer:
    """One durability on one server; belongs to the loop it is made in."""

    def __init__(
        self, broker: Broker, durability: str, *, timeout_s: float = 5.0, replicas: int = 1
    ) -> None:
        """Open nothing yet.

        Args:
            broker: Names the server and the keys; what it sends is what is confirmed.
            durability: `fsync` or `replica`.
            timeout_s: How long a confirmation may take.
            replicas: How many must have a job, for `replica`.
        """
        self.durability: Final = durability
        self.counters = Counters()
        self._broker = broker
        self._timeout_s = timeout_s
        self._replicas = replicas
        self._loop = asyncio.get_running_loop()
        self._opening = asyncio.Lock()
        self._link: Link | None = None
        self._able = False  # whether the server behind the link can do it
        self._refused = False  # so that one line of log says that it cannot
        self._every_wait_checked = False  # whether its WAITAOF holds only with `always`
        self._server = "the server"
        self._problem = "not asked yet"
        self._waiters: list[_Waiter] = []
        self._runner: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def able(self) -> bool:
        """Whether the server could give this durability when last looked at."""
        return self._able

    # --- what callers ask -----------------------------------------------------------------------

    async def check(self, *, afresh: bool = False) -> None:
        """Return if the server can give this durability; free while the connection stands.

        Args:
            afresh: Look again, unless somebody waits and so finds out anyway.

        Raises:
            DurabilityError: It cannot.
            BrokerUnavailableError: It does not answer.
            BrokerDeniedError: It refused us.
        """
        if afresh and self._runner is None:
            self._able = False
        if self._able:
            return
        ends_at = self._loop.time() + RETRY_WINDOW_S
        denied_ends_at = self._loop.time() + DENIED_WINDOW_S
        setbacks = 0
        while not self._able:
            try:
                await self._open()
            except DurabilityError:
                raise
            except (OSError, BrokerError) as error:
                now = self._loop.time()
                if isinstance(error, BrokerDeniedError) and now > denied_ends_at:
                    raise
                if now > ends_at:
                    raise BrokerUnavailableError(_OPERATION, self._problem) from error
                await asyncio.sleep(_pause_s(setbacks))
                setbacks += 1

    async def confirm(self, request: str) -> bool:
        """Wait until what a request did is as safe as asked; False = the server has lost it.

        Raises:
            DurabilityUnconfirmedError: Not within the time limit, or the server cannot any more;
                it names no jobs, as only the caller knows them.
        """
        if self._closed:
            raise self._unconfirmed("the client was closed")
        ends_at = self._loop.time() + self._timeout_s
        waiter = _Waiter(request, self._loop.create_future(), ends_at)
        self._waiters.append(waiter)
        if self._runner is None:
            self._runner = self._loop.create_task(self._run(), name="bananas.confirmer")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await waiter.future
        except TimeoutError:
            raise self._unconfirmed(
                f"not confirmed within {self._timeout_s:g} s by {self._server} ({self._problem})"
            ) from None

    async def close(self) -> None:
        """Close the connection; whoever waits is told that nothing was confirmed."""
        self._closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
        self._drop("the client was closed")
        for waiter in self._waiters:
            _answer(waiter, self._unconfirmed("the client was closed"))

    # --- waiting --------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Ask for all who wait, again and again, until nobody does."""
        setbacks = 0
        try:
            while self._gather():
                try:
                    await self._open()
                    await self._ask_for(self._waiters[:MAX_REQUESTS])
                except DurabilityError as error:
                    for waiter in self._waiters:
                        _answer(waiter, self._unconfirmed(error.why))
                except (OSError, BrokerError) as error:
                    self._problem = str(error) or "it gave no answer"
                    self._drop(self._problem)
                    await asyncio.sleep(_pause_s(setbacks))
                    setbacks += 1
                else:
                    setbacks = 0
        finally:
            self._runner = None

    def _gather(self) -> bool:
        """Forget those who have their answer, or gave up waiting; whether any are left."""
        self._waiters = [waiter for waiter in self._waiters if not waiter.future.done()]
        return bool(self._waiters)

    async def _ask_for(self, waiters: Sequence[_Waiter]) -> None:
        """Make one wait for some, and answer those it settles."""
        link = self._link
        if link is None:
            raise ConnectionError(self._problem)
        wait_s = max(waiter.ends_at for waiter in waiters) - self._loop.time()
        wait_ms = max(1, int((wait_s - min(_MARGIN_S, wait_s / 10)) * 1000))
        self._problem = "it gave no answer"
        requests = list({waiter.request: None for waiter in waiters})
        key = self._broker.keys.request
        commands: list[tuple[Argument, ...]]
        commands = [("PEXPIRE", key(request), MEMORY_MS) for request in requests]
        if self._every_wait_checked:
            commands.append(("CONFIG", "GET", "appendfsync"))
        if self.durability == "fsync":
            commands.append(("WAITAOF", 1, 0, wait_ms))
        else:
            commands.append(("WAIT", self._replicas, wait_ms))
        # The writes are answered before the wait: a connection that died unnoticed shows early.
        *renewed, reached = await self._ask(
            link, commands, wait_s + _MARGIN_S, first_s=wait_s * _FIRST_SHARE
        )
        if self._every_wait_checked and renewed.pop()[1] != b"always":
            self._drop("appendfsync was changed")
            return  # the next look at the server says what that means
        if self.durability == "fsync":
            safe, why = reached[0] >= 1, "the append-only file was not fsynced"
        else:
            safe = reached >= self._replicas
            why = f"{reached} of {self._replicas} replicas have it"
        if not safe:
            # The next caller must find out afresh whether it can be done at all.
            self._drop(why)
            log.warning("durability %s not confirmed by %s: %s", self.durability, self._server, why)
            for waiter in waiters:
                _answer(waiter, self._unconfirmed(f"{why} within {wait_ms / 1000:.2g} s"))
            return
        known = dict(zip(requests, renewed, strict=True))
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_result(known[waiter.request] == 1)

    def _unconfirmed(self, why: str) -> DurabilityUnconfirmedError:
        return DurabilityUnconfirmedError(self.durability, why)

    # --- the connection -------------------------------------------------------------------------

    async def _open(self) -> None:
        """Connect, unless connected, and see whether the server can do what is asked.

        Raises:
            DurabilityError: It cannot.
            OSError: No connection; also when it was too slow.
            BrokerError: No service.
        """
        async with self._opening:
            if self._able:
                return
            link = self._link
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S):
                    if link is None:
                        link = Link(self, self._loop.time)
                        address = await self._broker.transport.locate()
                        await connect(link, address, "bananas-confirmer")
                        self._link = link
                    await self._look(link)
            except DurabilityError as error:
                if not self._refused:
                    log.warning("%s", error)
                self._refused = True
                raise  # the connection stays: this very look may go better later
            except BaseException as error:
                self._problem = str(error) or f"no answer within {REPLY_TIMEOUT_S:g} s"
                if link is not None:
                    link.drop(self._problem)
                raise
            self._able, self._refused = True, False

    async def _look(self, link: Link) -> None:
        """Find out what the server can do; the link has written nothing yet.

        Raises:
            DurabilityError: Not what is asked.
        """
        # Without a write before it a wait answers at once, with an error where it is none.
        wait: tuple[Argument, ...] = ("WAITAOF", 1, 0, 1)
        if self.durability == "replica":
            wait = ("WAIT", 0, 0)
        about, policy, answer = await self._ask(
            link,
            [("INFO", "server", "replication"), ("CONFIG", "GET", "appendfsync"), wait],
            REPLY_TIMEOUT_S,
            may_refuse=True,
        )
        info = _read(about)
        self._server, redis_version = _name(info)
        if isinstance(answer, BrokerError):
            if classify(answer.why) is not Verdict.FATAL:
                raise answer
            raise self._unable(answer.why)
        if self.durability == "replica":
            following = [text for text in info.values() if "state=online" in text]
            if info and len(following) < self._replicas:
                remedy = "let one follow it (REPLICAOF)"
                if self._replicas > 1:
                    remedy += ", or lower BANANAS_DURABILITY_REPLICAS"
                why = f"{len(following)} of {self._replicas} replicas are connected"
                raise self._unable(why, remedy)
            return
        honest = redis_version >= _HONEST_REDIS
        self._every_wait_checked = not honest
        if isinstance(policy, BrokerError):
            if not honest:
                raise self._unable(
                    "its WAITAOF can be relied on only with appendfsync always, and it does not "
                    f"let us see whether that is so ({policy.why})",
                    "allow this user CONFIG GET (ACL SETUSER … +config|get)",
                )
        elif policy[1] == b"no" or (policy[1] != b"always" and not honest):
            raise self._unable(
                f"with appendfsync {policy[1].decode()} its WAITAOF confirms "
                + ("nothing" if policy[1] == b"no" else "what is not on disk yet"),
                "CONFIG SET appendfsync always"
                + (" (or everysec)" if honest else ", or use Redis 8 or later with everysec"),
            )

    def _unable(self, why: str, remedy: str | None = None) -> DurabilityError:
        if "unknown command" in why.lower():
            why, remedy = "it has no WAITAOF", "use Redis 7.2 or later, or Valkey 8 or later"
        elif "appendonly is disabled" in why:
            why = "its append-only file is off"
            remedy = "CONFIG SET appendonly yes, and in its configuration file"
        return DurabilityError(self.durability, self._server, why, remedy)

    async def _ask(
        self,
        link: Link,
        commands: Sequence[tuple[Argument, ...]],
        wait_s: float,
        *,
        first_s: float | None = None,
        may_refuse: bool = False,
    ) -> list[Any]:
        """Send commands in one piece; returns their answers.

        Args:
            link: Over which.
            commands: What to send.
            wait_s: Longest time for all the answers.
            first_s: Longest time for the first one, if it is shorter.
            may_refuse: Return an error reply as what it is; else the first one is raised.

        Raises:
            OSError: The connection ended, or no answer came in time.
            BrokerError: The server refused a command.
        """
        new_future = self._loop.create_future
        calls: list[Call] = [
            (new_future(), pack(words), None, _OPERATION, 0.0, 0.0, False) for words in commands
        ]
        link.send(calls)
        try:
            async with asyncio.timeout(wait_s if first_s is None else first_s):
                await asyncio.wait([calls[0][0]])
            async with asyncio.timeout(wait_s):
                answers = await asyncio.gather(*(call[0] for call in calls), return_exceptions=True)
        except BaseException as error:
            for call in calls:
                call[0].cancel()
            if isinstance(error, TimeoutError):
                link.drop("it gave no answer in time")
            raise
        for answer in answers:
            if isinstance(answer, BaseException) and not (
                may_refuse and type(answer) is BrokerError
            ):
                raise answer
        return answers

    def _drop(self, reason: str) -> None:
        if self._link is not None:
            self._link.drop(reason)

    # --- reports of the link ----------------------------------------------------------------------

    def on_refused(self, link: Link, call: Call, text: str) -> None:  # noqa: ARG002 - one link only
        """Hand an error reply to whoever asked."""
        fail(call, BrokerError(_OPERATION, text))

    def on_lost(self, link: Link, reason: str, *, refused: bool) -> None:  # noqa: ARG002 - all fail
        """Fail what a dead connection owes; whoever waits asks again over the next."""
        if link is self._link:
            self._link = None
            self._able = False
        for call in link.pending:
            fail(call, BrokerUnavailableError(_OPERATION, reason))
        link.pending.clear()

    def on_writable(self) -> None:
        """Do nothing: what is sent here is small."""


def _answer(waiter: _Waiter, error: DurabilityUnconfirmedError) -> None:
    if not waiter.future.done():
        waiter.future.set_exception(error)


def _pause_s(setbacks: int) -> float:
    """Return a pause that doubles, capped, and between half and whole of that."""
    pause_s = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0 ** min(setbacks, 8))
    return pause_s * (0.5 + random.random() / 2)


def _read(about: bytes | BrokerError) -> dict[str, str]:
    """Return what INFO says, by name; nothing where it may not be asked."""
    if isinstance(about, BrokerError):
        return {}
    lines = about.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _name(info: dict[str, str]) -> tuple[str, int]:
    """Return what to call the server, and its major version if it is Redis, else 0."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}", 0
    if "redis_version" not in info:
        return "the server", 0
    version = info["redis_version"]
    major = version.partition(".")[0]
    return f"Redis {version}", int(major) if major.isdigit() else 0
