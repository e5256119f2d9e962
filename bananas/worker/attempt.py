"""One run of one leased job, from its dequeue to its outcome, and the lease it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from bananas.broker import Settlement
from bananas.errors import JobTimedOutError
from bananas.registry import MAX_TIMEOUT_S
from bananas.speedups import MAX_COUNT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.job import Job
    from bananas.keys import Priority
    from bananas.registry import Definition


_MOST_RUNS: Final = MAX_COUNT - 1
"""A foreign record may say anything; one more than this must still be a count."""


class Lease:
    """Jobs that one dequeue request gave us, and their outcomes not yet sent.

    `open` counts jobs without an outcome; the lease is over when it is 0 and nothing
    is left to send. `told` says that the settler knows of outcomes to send.
    """

    __slots__ = ("epoch", "open", "request", "settlement", "told")

    def __init__(self, epoch: str, request: str, jobs: int) -> None:
        """Start with all jobs open."""
        self.epoch = epoch
        self.request = request
        self.open = jobs
        self.settlement = Settlement(request)
        self.told = False

    def take_settlement(self) -> Settlement:
        """Return what is to be sent and gather anew."""
        taken = self.settlement
        self.settlement = Settlement(self.request)
        return taken


class Held(NamedTuple):
    """A leased job that will not run here."""

    lease: Lease
    job_id: bytes
    job: Job
    foreign: bool


class Attempt:
    """One run of a job; handlers see it as their `JobContext`."""

    __slots__ = (
        "crashes",
        "definition",
        "finished",
        "foreign",
        "giving_back",
        "job",
        "job_id",
        "lease",
        "soft_limit_s",
        "started_s",
        "timed_out",
    )

    def __init__(  # noqa: PLR0913 - an object between them would cost every job one more
        self,
        lease: Lease,
        job_id: bytes,
        job: Job,
        definition: Definition,
        limit_s: float,
        *,
        crashes: int = 0,
        foreign: bool = False,
    ) -> None:
        """Hold what a run needs; nothing is decoded yet."""
        self.lease = lease
        self.job_id = job_id
        self.job = job
        self.definition = definition
        self.crashes = crashes
        self.foreign = foreign
        self.soft_limit_s = limit_s if limit_s < MAX_TIMEOUT_S else MAX_TIMEOUT_S  # noqa: FURB136 - no call a job
        self.started_s = 0.0
        self.finished = False
        self.timed_out = False
        self.giving_back = False

    @property
    def attempts(self) -> tuple[Attempt]:
        """The runs in this unit: itself, as a bunch has several."""
        return (self,)

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def name(self) -> str:
        """The task's name."""
        return self.job.name

    @property
    def attempt(self) -> int:
        """Which run this is, from 1; runs that a process's death cut off count."""
        return self.runs_before + self.crashes + 1

    @property
    def runs_before(self) -> int:
        """Runs before this one that had an outcome: what `max_retries` is held against.

        Those that a process's death cut off are counted apart, up to `poison_deaths`: most jobs
        that were running then are not to blame.
        """
        runs = self.job.attempts
        return runs if runs < _MOST_RUNS else _MOST_RUNS  # noqa: FURB136 - no call a job

    @property
    def max_retries(self) -> int:
        """How many runs are allowed."""
        return self.job.max_retries

    @property
    def priority(self) -> Priority:
        """The job's priority."""
        return self.job.priority  # type: ignore[return-value]  # checked when it was decoded

    @property
    def routing_key(self) -> str:
        """The job's routing key."""
        return self.job.routing_key

    @property
    def created_at(self) -> str:
        """When it was enqueued, RFC 3339."""
        return self.job.created_at

    @property
    def cancelled(self) -> bool:
        """Whether the run should stop."""
        return self.timed_out or self.giving_back

    def timeout(self) -> JobTimedOutError:
        """Return the error of a run that outlived its soft limit."""
        return JobTimedOutError(f"timed out after {self.soft_limit_s:g} s")


class Bunch:
    """Items of one batch task that go to its handler in one call."""

    __slots__ = ("attempts", "definition", "giving_back", "soft_limit_s", "started_s", "timed_out")

    def __init__(self, definition: Definition, attempts: Sequence[Attempt]) -> None:
        """Hold the runs that share a call; the longest limit among them holds for all."""
        self.definition = definition
        self.attempts = attempts
        self.soft_limit_s = max(attempt.soft_limit_s for attempt in attempts)
        self.started_s = 0.0
        self.timed_out = False
        self.giving_back = False

    def timeout(self) -> JobTimedOutError:
        """Return the error of a call that outlived its soft limit."""
        return JobTimedOutError(f"timed out after {self.soft_limit_s:g} s")


Unit = Attempt | Bunch
"""What a runner takes at once."""
