"""Looks for a restricted worker's jobs among others', without taking, dropping or delaying those.

What foreign producers push lands in the common lists, whatever its task or routing key.
Each id is looked at once: it moves, in order, to the list where it belongs, or to the
sorted list of its own place, which everybody serves first. O(batch) a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bananas.broker import MAX_JOBS
from bananas.errors import DecodeError
from bananas.job import Job
from bananas.placement import belongs, read_records

if TYPE_CHECKING:
    from bananas.broker import Broker


class Sorter:
    """Sorts the common places that a restricted worker does not lease from."""

    def __init__(self, broker: Broker, sources: list[str]) -> None:
        """Watch these places; none = nothing to do."""
        self._broker = broker
        self._sources = sources

    async def sort(self) -> bool:
        """Sort one batch of each place; returns whether a place may hold more."""
        more = False
        for source in self._sources:
            more = await self._sort_one(source) or more
        return more

    async def _sort_one(self, source: str) -> bool:
        broker, keys = self._broker, self._broker.keys
        command = broker.transport.command
        ids: list[bytes] = await command("LRANGE", keys.waiting(source), -MAX_JOBS, -1, repeat=True)
        if not ids:
            return False
        ids.reverse()
        jobs: list[tuple[bytes, str | None]] = []
        async for job_id, record in read_records(broker, ids):
            where = self._where(record, source)
            jobs.append((job_id, None if where == source else where))
        await broker.sort(source, jobs, sorted_place=source)
        return len(ids) == MAX_JOBS

    def _where(self, record: bytes | None, source: str) -> str:
        if record is None:
            return source
        try:
            job = Job.decode(record)
        except DecodeError:
            return source  # whoever leases it buries it
        return belongs(job, self._broker.specials)
