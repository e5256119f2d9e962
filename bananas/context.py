"""What a handler may know of the job it runs: `current_job()`.

The worker's own record of the run is what it gets, seen through a protocol: making a
second object for every job would cost more than a no-op handler does.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from bananas.keys import Priority


class JobContext(Protocol):
    """The job that the calling code runs for; `id` and `attempt` make an idempotency key."""

    @property
    def id(self) -> str:
        """The job's id."""
        ...

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    @property
    def attempt(self) -> int:
        """Which run this is, from 1; runs that a process's death cut off count."""
        ...

    @property
    def max_retries(self) -> int:
        """How many runs are allowed."""
        ...

    @property
    def priority(self) -> Priority:
        """The job's priority."""
        ...

    @property
    def routing_key(self) -> str:
        """The job's routing key."""
        ...

    @property
    def created_at(self) -> str:
        """When it was enqueued, RFC 3339; empty when a foreign producer left it out."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether the run should stop: timed out, its worker is leaving, or another has the job."""
        ...


running_job: Final[ContextVar[JobContext]] = ContextVar("bananas_running_job")
"""Set by the worker around every handler of a single job."""


def current_job() -> JobContext:
    """Return the job that runs here.

    Raises:
        LookupError: Not inside a handler of a single job.
    """
    return running_job.get()
