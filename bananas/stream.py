"""Any number of items into Redis through bounded memory: cut, sent a few at a time, judged.

Items are pulled only as fast as their chunks are answered. Verdicts come in the order of
the items. An item that breaks a rule is rejected alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bananas.broker import MAX_JOBS
from bananas.errors import (
    DurabilityUnconfirmedError,
    FieldError,
    PayloadError,
    PayloadTypeError,
)
from bananas.producer import (
    MAX_CALL_BYTES,
    MAX_IN_FLIGHT,
    MAX_UNCONFIRMED,
    MEMORY,
    Draft,
    Producer,
)
from bananas.submission import Report, Verdict, Verdicts, rejection

if TYPE_CHECKING:
    from bananas.producer import Receipt

Item = TypeVar("Item")

LINGER_S: Final = 0.02
"""How long an item of a slow source waits for others to share its call."""


class Stream:
    """One stream of items on its way; made for one `run`."""

    def __init__(
        self,
        producer: Producer,
        draft: Callable[[Any], Draft],
        *,
        keep_verdicts: bool,
        on_chunk: Callable[[Verdicts], object] | None,
    ) -> None:
        """Draft items by `draft`, which raises for those that break a rule."""
        self._producer = producer
        self._draft = draft
        self._verdicts = Verdicts(0, []) if keep_verdicts else None
        self._on_chunk = on_chunk
        self._loop = asyncio.get_running_loop()
        self._begin = 0  # index of the first item of the chunk that is filling
        self._drafts: list[Draft] = []
        self._rejected: dict[int, Verdict] = {}
        self._bytes = 0
        self._linger: asyncio.TimerHandle | None = None
        self._sent: list[asyncio.Task[None]] = []  # in order; at most the window + 1
        self._window = MAX_IN_FLIGHT
        self._counts = {"accepted": 0, "duplicate": 0, "rejected": 0}

    async def run(self, items: Iterable[Any] | AsyncIterable[Any]) -> Report:
        """Take every item; returns when the last one has its verdict.

        Raises:
            BrokerError: A chunk was refused or got no answer; chunks in flight with it may
                have been accepted, and `on_chunk` was told of those before.
            DurabilityUnconfirmedError: With the ids of all jobs that are accepted in memory only.
        """
        started = time.perf_counter()
        try:
            if isinstance(items, AsyncIterable):
                await self._pull(items)
            else:
                source = iter(items)
                while self._take(source):
                    await self._ship()
            self._send()
            while self._sent:
                await self._oldest()
        except DurabilityUnconfirmedError as error:
            others = await asyncio.gather(*self._sent, return_exceptions=True)
            alike = [other for other in others if isinstance(other, DurabilityUnconfirmedError)]
            raise DurabilityUnconfirmedError.of([error, *alike]) from None
        finally:
            if self._linger is not None:
                self._linger.cancel()
            # The source or a chunk failed: what is on its way is not torn down half-way.
            await asyncio.gather(*self._sent, return_exceptions=True)
        return Report(
            accepted=self._counts["accepted"],
            duplicates=self._counts["duplicate"],
            rejected=self._counts["rejected"],
            verdicts=self._verdicts,
            elapsed_s=time.perf_counter() - started,
        )

    async def _pull(self, items: AsyncIterable[Any]) -> None:
        async for item in items:
            if self._take((item,)):
                await self._ship()
            elif self._linger is None:
                self._linger = self._loop.call_later(LINGER_S, self._lingered)
            elif self._sent and self._sent[0].done():
                await self._oldest()  # a failure ends a slow source too

    def _take(self, items: Iterable[Any]) -> bool:
        """Add items until the chunk is full; whether it is, else they are at their end."""
        draft, drafts, rejected = self._draft, self._drafts, self._rejected
        room = MAX_JOBS - len(drafts) - len(rejected)
        room_bytes = MAX_CALL_BYTES - self._bytes
        for item in items:
            try:
                drafted = draft(item)
            except (FieldError, PayloadError, PayloadTypeError) as error:
                index = self._begin + len(drafts) + len(rejected)
                rejected[index] = rejection(index, error)
            else:
                drafts.append(drafted)
                room_bytes -= len(drafted[1])
            room -= 1
            if room <= 0 or room_bytes <= 0:
                return True
        self._bytes = MAX_CALL_BYTES - room_bytes
        return False

    async def _ship(self) -> None:
        """Send the chunk and wait until there is room for another."""
        self._send()
        while len(self._sent) >= self._window:
            await self._oldest()

    async def _oldest(self) -> None:
        oldest = self._sent[0]
        await asyncio.wait([oldest])
        if oldest in self._sent:
            self._sent.remove(oldest)
        oldest.result()

    def _lingered(self) -> None:
        """Send what a slow source has given so far, if there is room."""
        self._linger = None
        while self._sent and self._sent[0].done() and self._sent[0].exception() is None:
            del self._sent[0]
        if len(self._sent) < self._window:
            self._send()
        else:
            self._linger = self._loop.call_later(LINGER_S, self._lingered)

    def _send(self) -> None:
        """Put the chunk on its way."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        begin, drafts, rejected = self._begin, self._drafts, self._rejected
        if not drafts and not rejected:
            return
        if drafts and drafts[0].form.durability != MEMORY:
            self._window = MAX_UNCONFIRMED  # a wait costs the same for many chunks as for one
        self._begin += len(drafts) + len(rejected)
        self._drafts, self._rejected, self._bytes = [], {}, 0
        before = self._sent[-1] if self._sent else None
        self._sent.append(self._loop.create_task(self._judge(begin, drafts, rejected, before)))

    async def _judge(
        self,
        begin: int,
        drafts: list[Draft],
        rejected: dict[int, Verdict],
        before: asyncio.Task[None] | None,
    ) -> None:
        receipt = await self._producer.submit_chunk(drafts) if drafts else None
        if before is not None:
            await asyncio.wait([before])
        accepted = 0 if receipt is None else sum(receipt.accepted)
        self._counts["accepted"] += accepted
        self._counts["duplicate"] += len(drafts) - accepted
        self._counts["rejected"] += len(rejected)
        if self._verdicts is None and self._on_chunk is None:
            return
        verdicts = judge(begin, receipt, rejected)
        if self._verdicts is not None:
            self._verdicts.extend(verdicts)
        if self._on_chunk is not None:
            self._on_chunk(verdicts)


def judge(begin: int, receipt: Receipt | None, rejected: dict[int, Verdict]) -> Verdicts:
    """Return the verdicts of a chunk, in the order of its items.

    Args:
        begin: Index of the first item.
        receipt: The answer to those drafted; None = none was.
        rejected: The verdicts on the others, by index.
    """
    ids: list[str | None] = [] if receipt is None else list(receipt.ids)
    accepted = [] if receipt is None else receipt.accepted
    if not rejected and False not in accepted:
        return Verdicts(begin, ids)
    others = dict(rejected)
    for index in sorted(rejected):
        ids.insert(index - begin, None)
    answers = iter(accepted)
    for index, job_id in enumerate(ids, begin):
        if job_id is not None and not next(answers):
            others[index] = Verdict(index, job_id, "duplicate")
    return Verdicts(begin, ids, others)
