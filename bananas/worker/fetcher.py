"""Keeps the lanes fed: asks for the next jobs before the last are done, and for no more.

How much that is its owner says (`room`). While answers come full a second call is under
way behind the first, so that the server and the lanes do not wait for each other. Without
work it blocks on the wake markers; a lost marker costs one poll interval.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from bananas.broker import Fenced
from bananas.errors import BrokerError
from bananas.ids import request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.broker import Batch, Broker
    from bananas.settings import Settings
    from bananas.transport import Transport
    from bananas.worker.places import Service
    from bananas.worker.sorter import Sorter

log = logging.getLogger("bananas.worker")

ROOM_BYTES: Final = 1 << 20
"""Most bytes of records in one answer."""

_PAUSE_S: Final = 0.5
_WAKE_MARGIN_S: Final = 5.0
_WAKE_LATE_S: Final = 0.25


class Fetcher:
    """The one who asks for jobs."""

    def __init__(  # noqa: PLR0913 - it stands between all the others
        self,
        broker: Broker,
        wake_transport: Transport,
        service: Service,
        sorter: Sorter,
        settings: Settings,
        *,
        known: frozenset[str],
        appetite: Callable[[], int],
        admit: Callable[[Batch], None],
        fenced: Callable[[str], None],
    ) -> None:
        """Feed `admit` with batches of at most what `appetite` says.

        Args:
            broker: Leases come from here.
            wake_transport: Apart from the broker's, since a blocked read holds it.
            service: Which places, in which order.
            sorter: For workers that do not lease from the common places.
            settings: Batch size and poll interval.
            known: Tasks registered here.
            appetite: How many jobs are wanted now.
            admit: Takes a batch.
            fenced: Told that the epoch is gone.
        """
        self._broker = broker
        self._wake_transport = wake_transport
        self._service = service
        self._sorter = sorter
        self._batch = settings.dequeue_batch
        self._poll_s = settings.poll_interval_s
        self._known = known
        self._appetite = appetite
        self._admit = admit
        self._fenced = fenced
        self._stirred = asyncio.Event()
        self._woken: asyncio.Future[object] | None = None  # the blocked read under way
        self.tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.epoch = ""
        self.closed = False
        """Fetch nothing while True: the worker is quiet or leaving, or has no epoch."""
        self.starved = False
        """Whether it waits for room, or for whatever else makes the appetite 0."""
        self.in_flight: set[str] = set()
        """The requests that wait for their answers: two while answers come full, else one."""
        self._behind: asyncio.Task[Batch | None] | None = None  # the call sent behind the first
        self.answered_ns = 0
        """CLOCK_MONOTONIC of the last answer; 0 = none yet."""

    def start(self, epoch: str) -> None:
        """Start fetching for an epoch."""
        self.epoch = epoch
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(self._fetch_for_ever(), name="fetcher")]

    def stir(self) -> None:
        """Look again: there is room, or something has changed."""
        self._stirred.set()

    async def stop(self, within_s: float) -> None:
        """Ask for nothing more; an answer under way is still admitted if it comes in time."""
        self._stopping = True
        self.stir()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=within_s)
        self.cut()

    def cut(self) -> None:
        """Drop the call under way: what its answer would bring goes back with the epoch."""
        for task in (*self.tasks, self._behind, self._woken):
            if task is not None:
                task.cancel()

    def _wanted(self) -> int:
        """Return how many jobs to ask for now, beside those that a call is to bring."""
        if self.closed or self._stopping:
            return 0
        return self._appetite() - (self._batch if self._behind else 0)

    async def _fetch_for_ever(self) -> None:
        plenty = False
        while not self._stopping or self._behind is not None:
            wanted = self._wanted()
            call, self._behind = self._behind, None
            if call is not None:
                limit = self._batch
            elif wanted > 0:
                limit = min(wanted, self._batch)
                wanted -= limit
            else:
                self.starved = True
                await self._stirred.wait()
                self.starved = False
                self._stirred.clear()
                continue
            if plenty and wanted >= self._batch:
                # one process drains 1.27 times as many no-op jobs so, two on two cores 1.1 times
                self._behind = asyncio.create_task(self._fetch(self._batch))
                self._behind.add_done_callback(_hear)
            plenty = False
            try:
                batch = await (call or self._fetch(limit))
                if batch is None:
                    continue
                plenty = _is_full(batch, limit)
                if plenty or self._behind is not None:
                    continue
                if len(batch):
                    await asyncio.sleep(0)  # it begins before more is asked for, not after
                elif not await self._sorter.sort() and not self._stopping:
                    await self._wait_for_work()
            except BrokerError as error:
                log.warning("cannot fetch: %s", error)
                await self._pause(_PAUSE_S)

    async def _fetch(self, limit: int) -> Batch | None:
        """Ask once; returns None when there is reason to ask anew at once."""
        broker = self._broker
        places = self._service.places(self._known, broker.specials)
        request, epoch = request_id(), self.epoch
        self.in_flight.add(request)
        try:
            batch = await broker.dequeue(request, epoch, places, limit=limit, room_bytes=ROOM_BYTES)
        finally:
            self.in_flight.discard(request)
        self.answered_ns = time.monotonic_ns()
        if batch is None:
            return None
        if isinstance(batch, Fenced):
            self._fenced(epoch)
            return None
        if len(batch):
            if epoch != self.epoch:
                log.warning("request %s was answered after its epoch was given up", request)
                return None
            self._admit(batch)
        return batch

    async def _wait_for_work(self) -> None:
        """Block on the wake markers; each answer, or none in time, is reason to ask."""
        keys = self._broker.keys
        places = self._service.places(self._known, self._broker.specials)
        poll_s = min(self._poll_s, 0.1) if self._service.sources() else self._poll_s
        woken = self._woken
        if woken is None:
            self._woken = woken = asyncio.ensure_future(
                self._wake_transport.command(
                    "BLPOP", *map(keys.wake, places), poll_s, timeout_s=poll_s + _WAKE_MARGIN_S
                )
            )
            woken.add_done_callback(lambda _: self._stirred.set())
        now = asyncio.get_running_loop().time
        look_at = now() + poll_s + _WAKE_LATE_S
        # a stir alone brings no jobs: only a marker, its time, or the end of fetching counts
        while not woken.done() and not self._stopping and not self.closed:
            if now() >= look_at:
                return  # its connection may be half-open: we look, and go on waiting for it
            with suppress(TimeoutError):
                async with asyncio.timeout(look_at - now()):
                    await self._stirred.wait()
            self._stirred.clear()
        self._woken = None
        if not woken.done():
            woken.cancel()
        elif (error := woken.exception()) is not None:
            log.debug("wake-up lost: %s", error)
            await self._pause(_PAUSE_S)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
                self._stirred.clear()


def _hear(call: asyncio.Task[Batch | None]) -> None:
    """Look at how a call has ended: after a cut nobody else does."""
    if not call.cancelled():
        call.exception()


def _is_full(batch: Batch, limit: int) -> bool:
    """Tell whether more may wait than came: it is as many as were asked for, or as had room."""
    if len(batch) < limit:
        records = [record for group in batch.groups for record in group.records if record]
        return sum(map(len, records)) > ROOM_BYTES // 2
    return True
