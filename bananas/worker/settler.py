"""Sends outcomes: all that gathered while the last ones were on their way, in one write.

One flush is under way at a time, so the busier the worker the larger its batches; an
idle one sends at once. Outcomes are never dropped: while Redis does not answer they wait,
and the worker takes no more jobs.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import starmap
from typing import TYPE_CHECKING, Any, Final

from bananas.broker import MAX_JOBS, Retention, Settlement
from bananas.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bananas.broker import Broker
    from bananas.settlement import ResultNote
    from bananas.worker.attempt import Lease

log = logging.getLogger("bananas.worker")

MAX_BYTES: Final = 1 << 20
"""Most bytes of records and results in one call, but for a job that has more alone."""

_RETRY_S: Final = 0.5
_AT_ONCE: Final = 32
"""Most calls under way."""

_LISTS: Final = (
    *("dropped", "later", "failed", "released"),
    *("routed", "lapsed", "forgotten", "spared"),
)


class Settler:
    """The way from outcomes to Redis."""

    def __init__(
        self,
        broker: Broker,
        retention: Retention,
        *,
        on_outcome: Callable[[], None],
        on_settled: Callable[[], None],
    ) -> None:
        """Call `on_outcome` when there is something new to send, `on_settled` after each flush."""
        self._broker = broker
        self._retention = retention
        self._on_outcome = on_outcome
        self._on_settled = on_settled
        self._dirty: dict[str, Lease] = {}
        self._event = asyncio.Event()
        self._open: dict[str, Lease] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.stale = 0
        """Outcomes that were refused: others have these jobs, or had them."""
        self.repeated = 0
        """Outcomes that were in effect already when a repeat of their call was answered."""
        self.blocked = False
        """True while outcomes cannot be sent: nothing more should be taken."""

    @property
    def requests(self) -> list[str]:
        """The requests whose jobs this process holds: what the heartbeat compares."""
        return list(self._open)

    def start(self) -> None:
        """Start sending."""
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(self._send_for_ever(), name="settler")]

    def open(self, lease: Lease) -> None:
        """Hold a lease until it is over."""
        self._open[lease.request] = lease
        if lease.open == 0:
            self.outcome(lease)

    def outcome(self, lease: Lease) -> None:
        """A job of this lease has got its outcome."""
        if not lease.told:
            self._dirty[lease.request] = lease
            lease.told = True
            self._quiet.clear()
            self._event.set()
            self._on_outcome()

    def disown(self) -> None:
        """Forget every lease: the epoch was fenced, its jobs belong to others."""
        self._open.clear()
        self._take_dirty()

    def is_settled(self) -> bool:
        """Tell whether nothing is left to send, and nothing is on its way."""
        return self._quiet.is_set()

    async def flushed(self) -> None:
        """Wait until nothing is left to send."""
        await self._quiet.wait()

    async def stop(self) -> None:
        """Stop sending; what was not sent stays leased."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _send_for_ever(self) -> None:
        while True:
            await self._event.wait()
            self._event.clear()
            leases = self._take_dirty()
            parts = [(lease, part) for lease in leases for part in _parts(lease.take_settlement())]
            if len(parts) == 1:
                await self._send(*parts[0])
            else:
                for begin in range(0, len(parts), _AT_ONCE):
                    await asyncio.gather(*starmap(self._send, parts[begin : begin + _AT_ONCE]))
            for lease in leases:
                if lease.open == 0 and not lease.told:
                    self._open.pop(lease.request, None)
            if not self._dirty:
                self._quiet.set()
            self._on_settled()

    def _take_dirty(self) -> list[Lease]:
        leases = list(self._dirty.values())
        self._dirty.clear()
        for lease in leases:
            lease.told = False
        if len(leases) > 1 and any(lease.settlement.released for lease in leases):
            # what is given back goes to the front: the oldest must be the last to go
            age = {request: number for number, request in enumerate(self._open)}
            leases.sort(key=lambda lease: age.get(lease.request, -1), reverse=True)
        return leases

    async def _send(self, lease: Lease, settlement: Settlement) -> None:
        """Send one settlement until Redis has taken it."""
        counters = self._broker.transport.counters
        resends, again = counters.resends, False
        while True:
            try:
                stale = await self._broker.settle(lease.epoch, settlement, self._retention)
            except BrokerError as error:
                again = True  # the server may have it all the same
                if not self.blocked:
                    log.warning("cannot settle, taking no more jobs: %s", error)
                self.blocked = True
                await asyncio.sleep(_RETRY_S)
            else:
                break
        if self.blocked:
            self.blocked = False
            log.info("settling again")
        if not stale:
            return
        if (again or counters.resends != resends) and await self._stands(lease.epoch):
            # Of a lease that nobody can have taken from us: an earlier copy ended these jobs.
            self.repeated += len(stale)
            log.info("%d outcomes were in effect already: their first answer was lost", len(stale))
            return
        self.stale += len(stale)
        log.warning(
            "%d outcomes refused: their lease was no longer ours (first: %s)",
            len(stale),
            stale[0].decode(errors="replace"),
        )

    async def _stands(self, epoch: str) -> bool:
        """Tell whether an epoch was never reclaimed; False when nobody answers."""
        try:
            return await self._broker.stands(epoch)
        except BrokerError:
            return False


def _parts(settlement: Settlement) -> list[Settlement]:
    """Return a settlement as calls of at most MAX_JOBS jobs, and about MAX_BYTES unless of one job.

    What is given back goes newest part first, so that the oldest is at the front in the end.
    """
    count = len(settlement)
    if count <= 1:
        return [settlement] if count else []
    results = {result[0]: _result_bytes(result) for result in settlement.results}
    if count <= MAX_JOBS and _record_bytes(settlement) + sum(results.values()) <= MAX_BYTES:
        return [settlement]
    request = settlement.request
    parts: list[Settlement] = []
    for name in _LISTS:
        chunks = _chunks(getattr(settlement, name), results)
        for chunk in reversed([*chunks]) if name == "released" else chunks:
            part = Settlement(request)
            setattr(part, name, chunk)
            parts.append(part)
    for ttl_s, items in settlement.kept.items():
        for chunk in _chunks(items, results):
            part = Settlement(request)
            part.kept[ttl_s] = chunk
            parts.append(part)
    owner = {job_id: part for part in parts for job_id in part.ids()}
    for job_id in settlement.foreign:
        owner[job_id].foreign.append(job_id)
    for result in settlement.results:
        owner[result[0]].results.append(result)
    return parts


def _chunks(items: list[Any], results: dict[bytes, int]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    total = 0
    for item in items:
        job_id, size = (item, 0) if isinstance(item, bytes) else (item[0], len(item[1]))
        size += results.get(job_id, 0)
        if chunk and (len(chunk) == MAX_JOBS or total + size > MAX_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += size
    if chunk:
        yield chunk


def _record_bytes(settlement: Settlement) -> int:
    total = sum(len(job[1]) for job in settlement.later)
    for jobs in (settlement.failed, settlement.lapsed, *settlement.kept.values()):
        total += sum([len(record) for _, record in jobs])
    return total


def _result_bytes(result: ResultNote) -> int:
    return sum(len(field) for field in result[3] if not isinstance(field, int))
