"""Where a job belongs, read from its whole record: for those whose record does not end in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bananas.errors import DecodeError
from bananas.job import Job
from bananas.keys import place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.broker import Broker, Specials

FALLBACK: Final = place("normal")
"""Where broken and missing records go, so that a worker meets and buries them."""


def belongs(job: Job, specials: Specials) -> str:
    """Return the place where a job belongs now."""
    return place(job.priority, job.routing_key, job.name if job.name in specials.tasks else None)


async def find_places(broker: Broker, job_ids: Sequence[bytes]) -> dict[bytes, str]:
    """Read records and return each one's place; for ids that a script reported as unplaced."""
    if not job_ids:
        return {}
    prefix = broker.keys.job_prefix.encode()
    keys = [prefix + job_id for job_id in job_ids]
    records = await broker.transport.command("MGET", *keys, repeat=True)
    places: dict[bytes, str] = {}
    for job_id, record in zip(job_ids, records, strict=True):
        where = FALLBACK
        if record is not None:
            try:
                where = belongs(Job.decode(record), broker.specials)
            except DecodeError:
                where = FALLBACK
        places[job_id] = where
    return places
