"""The look at every leased job before it may run: to a lane, or straight to an outcome.

Whoever meets a job that lies in the wrong list, was cancelled, is broken, unknown or
poisonous deals with it here; nothing of it reaches a handler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bananas.errors import DecodeError, UnknownTaskError
from bananas.job import Job
from bananas.placement import belongs
from bananas.worker.attempt import Attempt, Lease

if TYPE_CHECKING:
    from bananas.broker import Batch, Leased, Specials
    from bananas.registry import Registry
    from bananas.settings import Settings
    from bananas.worker.outcomes import Outcomes, RedisTime


class Intake:
    """Turns a batch into attempts."""

    def __init__(
        self, registry: Registry, settings: Settings, outcomes: Outcomes, clock: RedisTime
    ) -> None:
        """Know the tasks and the limits."""
        self._registry = registry
        self._settings = settings
        self._outcomes = outcomes
        self._clock = clock
        self.known = frozenset(registry)
        """The tasks that may run here."""

    def admit(self, batch: Batch, epoch: str, specials: Specials) -> tuple[Lease, list[Attempt]]:
        """Return the batch's lease and the jobs of it that may run, in their order."""
        lease = Lease(epoch, batch.request, len(batch.jobs))
        attempts: list[Attempt] = []
        seen: set[bytes] = set()
        for leased in batch.jobs:
            if leased.job_id in seen:  # a foreign producer pushed it twice; it is leased once
                lease.open -= 1
                continue
            seen.add(leased.job_id)
            attempt = self._admit_one(lease, leased, specials)
            if attempt is not None:
                attempts.append(attempt)
        return lease, attempts

    def _admit_one(self, lease: Lease, leased: Leased, specials: Specials) -> Attempt | None:
        job_id, record, origin, crashes = leased
        outcomes, settings = self._outcomes, self._settings
        if record is None:
            outcomes.broken(lease, leased, "its record is missing")
            return None
        try:
            job = Job.decode(record, max_retries=settings.max_retries)
        except DecodeError as error:
            outcomes.broken(lease, leased, error.why)
            return None
        if job.status == "cancelled":
            outcomes.forget(lease, job_id)
            return None
        if job.place is None:  # a foreign record: nobody has checked it
            if job.id.encode("utf-8", "replace") != job_id:
                outcomes.broken(lease, leased, f'its record carries the id "{job.id}"')
                return None
            where = belongs(job, specials)
            if origin is not None and where != origin:
                outcomes.route(lease, job_id, where)
                return None
            origin = where
        elif origin is None:
            origin = job.place
        try:
            definition = self._registry[job.name]
        except UnknownTaskError:
            outcomes.unclaimed(lease, job_id, job, origin)
            return None
        limit_s = job.timeout_s or definition.options.timeout_s or settings.job_timeout_s
        attempt = Attempt(job_id, job, definition, lease, origin, crashes, limit_s)
        if crashes >= settings.poison_deaths:
            outcomes.poison(attempt)
            return None
        if job.expires_at is not None:
            expires_us = job.expires_us
            if expires_us is not None and expires_us <= self._clock.now_us():
                outcomes.expire(attempt)
                return None
        return attempt
