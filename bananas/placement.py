"""Where a job belongs, read from its whole record: for those whose record does not end in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bananas.errors import DecodeError
from bananas.job import Job
from bananas.keys import place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bananas.broker import Broker, Specials

FALLBACK: Final = place("normal")
"""Where broken and missing records go, so that a worker meets and buries them."""

_FIRST_STEP: Final = 16
_MOST_AT_ONCE: Final = 128
_ROOM_BYTES: Final = 1 << 20


def belongs(job: Job, specials: Specials) -> str:
    """Return the place where a job belongs now."""
    return place(job.priority, job.routing_key, job.name if job.name in specials.tasks else None)


async def read_records(
    broker: Broker, job_ids: Sequence[bytes]
) -> AsyncIterator[tuple[bytes, bytes | None]]:
    """Yield each id with its record, None = missing; never more than a few MiB at a time.

    Raises:
        BrokerError: Redis did not answer.
    """
    prefix = broker.keys.job_prefix.encode()
    step, at = _FIRST_STEP, 0
    while at < len(job_ids):
        chunk = job_ids[at : at + step]
        keys = [prefix + job_id for job_id in chunk]
        records: list[bytes | None] = await broker.transport.command("MGET", *keys, repeat=True)
        for job_id, record in zip(chunk, records, strict=True):
            yield job_id, record
        at += len(chunk)
        # more at once while they are small, fewer when they are not
        read = sum(len(record) for record in records if record is not None)
        step = max(1, min(2 * step, _MOST_AT_ONCE, step * _ROOM_BYTES // (read + 1)))


async def find_places(broker: Broker, job_ids: Sequence[bytes]) -> dict[bytes, str]:
    """Read records and return each one's place; for ids that a script reported as unplaced."""
    places: dict[bytes, str] = {}
    async for job_id, record in read_records(broker, job_ids):
        where = FALLBACK
        if record is not None:
            try:
                where = belongs(Job.decode(record), broker.specials)
            except DecodeError:
                where = FALLBACK
        places[job_id] = where
    return places
