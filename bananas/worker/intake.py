"""The look at every leased job before it may run: to a lane, or straight to an outcome.

Whoever meets a job that lies in the wrong list, was cancelled, is broken, unknown or
poisonous deals with it here; nothing of it reaches a handler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bananas.broker import Group
from bananas.errors import DecodeError, NewerRecordError
from bananas.job import STATUSES, Job
from bananas.keys import is_place
from bananas.placement import belongs
from bananas.speedups import ordinary_runs
from bananas.table import JOB_ID_MAX_BYTES
from bananas.worker.attempt import Attempt, Held, Lease

if TYPE_CHECKING:
    from bananas.broker import Batch, Leased, Specials
    from bananas.registry import Definition, Registry
    from bananas.settings import Settings
    from bananas.worker.outcomes import Outcomes, RedisTime


_LIVE: Final = frozenset({"pending", "scheduled", "processing"})
"""What a record says of a job that has not ended."""


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
        nobodys, no_job = Lease("", "", 0), Job("", "")
        self._models = {
            name: Attempt(
                nobodys, b"", no_job, task, task.options.timeout_s or settings.job_timeout_s
            )
            for name, task in registry.items()
        }
        """A run of each task, as new."""
        self.expiring: list[Attempt] = []
        """Those let in that have a time by which they must begin."""

    def admit(self, batch: Batch, epoch: str, specials: Specials) -> tuple[Lease, list[Attempt]]:
        """Return the batch's lease and the jobs of it that may run, in their order."""
        groups = batch.groups
        ids = [job_id for group in groups for job_id in group.ids]
        if len(set(ids)) < len(ids):
            groups = _once_each(batch)
        lease = Lease(epoch, batch.request, sum([len(group.ids) for group in groups]))
        attempts: list[Attempt] = []
        for group in groups:
            attempts += self._admit_group(lease, group, specials)
        return lease, attempts

    def _admit_group(self, lease: Lease, group: Group, specials: Specials) -> list[Attempt]:
        place, ids, records, crashes = group
        # The ordinary job, one of ours about which nothing is to be said, takes no look and no
        # value more than this: job by job, and in Python, it took 15 % more of a no-op job.
        if place is None:
            runs: list[Attempt | None] = [None] * len(ids)
            others = [*range(len(ids))]
        else:
            runs, others = ordinary_runs(Job, self._models, lease, place, ids, records)
        if any(crashes):
            others = [at for at in range(len(ids)) if runs[at] is None or crashes[at]]
        for at in others:
            runs[at] = self._admit_other(lease, group.leased(at), specials)
        return [run for run in runs if run is not None]

    def _admit_other(self, lease: Lease, leased: Leased, specials: Specials) -> Attempt | None:
        """Look at a job that is not ordinary; None when it may not run."""
        record = leased.record
        if record is None:
            self._outcomes.broken(lease, leased, "its record is missing")
            return None
        try:
            job = Job.decode(record, max_retries=self._settings.max_retries)
            return self._admit_one(lease, leased, job, self._registry.find(job.name), specials)
        except NewerRecordError as error:
            self._leave_alone(lease, leased, record, error)
        except DecodeError as error:
            self._outcomes.broken(lease, leased, error.why)
        except Exception as error:  # noqa: BLE001 - that job's alone, the batch goes on
            self._outcomes.undecided(lease, leased, error)
        return None

    def _admit_one(
        self,
        lease: Lease,
        leased: Leased,
        job: Job,
        definition: Definition | None,
        specials: Specials,
    ) -> Attempt | None:
        held = self._hold(lease, leased, job, specials)
        if held is None:
            return None
        outcomes, settings, job = self._outcomes, self._settings, held.job
        if definition is None:
            outcomes.unclaimed(held)
            return None
        limit_s = job.timeout_s or definition.options.timeout_s or settings.job_timeout_s
        attempt = Attempt(
            lease,
            held.job_id,
            job,
            definition,
            limit_s,
            crashes=leased.crashes,
            foreign=held.foreign,
        )
        if leased.crashes >= settings.poison_deaths:
            outcomes.poison(attempt)
            return None
        if job.expires_at is not None:
            if self.too_late(job):
                outcomes.expire(attempt)
                return None
            self.expiring.append(attempt)
        return attempt

    def _hold(  # noqa: PLR0911 - one return a way out
        self, lease: Lease, leased: Leased, job: Job, specials: Specials
    ) -> Held | None:
        """Deal with a job unless it belongs where it was found."""
        job_id, _, origin, _ = leased
        if job.status == "cancelled":
            self._outcomes.forget(Held(lease, job_id, job, foreign=False))
            return None
        if job.status not in _LIVE:
            self._outcomes.spare(Held(lease, job_id, job, foreign=False))
            return None
        if job.place is not None and (job.place == origin or is_place(job.place)):
            return Held(lease, job_id, job, foreign=False)
        # a foreign record: nobody has checked it
        if len(job_id) > JOB_ID_MAX_BYTES:
            self._outcomes.broken(lease, leased, f"its id is longer than {JOB_ID_MAX_BYTES} bytes")
            return None
        if job.id.encode("utf-8", "replace") != job_id:
            self._outcomes.broken(lease, leased, f'its record carries the id "{job.id}"')
            return None
        where = belongs(job, specials)
        held = Held(lease, job_id, job._replace(place=where), foreign=True)
        if origin is not None and where != origin:
            self._outcomes.route(held, where)
            return None
        return held

    def _leave_alone(
        self, lease: Lease, leased: Leased, record: bytes, error: NewerRecordError
    ) -> None:
        """Let go of what a later version wrote, as it is; unless it has ended, for that version."""
        held = Held(lease, leased.job_id, Job("", ""), foreign=False)
        if error.status == "cancelled":
            self._outcomes.forget(held)
        elif error.status in STATUSES and error.status not in _LIVE:
            self._outcomes.spare(held)
        else:
            self._outcomes.newer(held, record, error.protocol)

    def too_late(self, job: Job) -> bool:
        """Return whether a job may no longer begin."""
        expires_us = job.expires_us
        return expires_us is not None and expires_us <= self._clock.now_us()


def _once_each(batch: Batch) -> list[Group]:
    """Leave out what a foreign producer pushed again: it is leased once."""
    first: dict[bytes, Leased] = {}
    for leased in batch.jobs:
        first.setdefault(leased.job_id, leased)
    return [Group(job.place, [job.job_id], [job.record], [job.crashes]) for job in first.values()]
