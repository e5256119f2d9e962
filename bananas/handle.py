"""What a producer holds of a job it has enqueued: its id, and the way to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from bananas.errors import ResultTimeoutError

if TYPE_CHECKING:
    from bananas.job import Job
    from bananas.results import Result

T = TypeVar("T")


class AsyncVerbs(Protocol):
    """What a handle asks of its client."""

    async def get_job(self, job_id: str) -> Job:
        """Return the job with its live status."""
        ...

    async def wait_end(self, job_id: str, timeout_s: float | None) -> Result | None:
        """Wait for the end of a job that was enqueued."""
        ...

    async def cancel(self, job_id: str) -> None:
        """End the job before it begins."""
        ...


class SyncVerbs(Protocol):
    """The same, blocking."""

    def get_job(self, job_id: str) -> Job:
        """Return the job with its live status."""
        ...

    def wait_end(self, job_id: str, timeout_s: float | None) -> Result | None:
        """Wait for the end of a job that was enqueued."""
        ...

    def cancel(self, job_id: str) -> None:
        """End the job before it begins."""
        ...


class JobHandle(Generic[T]):
    """An enqueued job; `T` is what its handler returns."""

    __slots__ = ("_client", "id", "name")

    def __init__(self, client: AsyncVerbs, job_id: str, name: str) -> None:
        """Ask about the job through `client`."""
        self._client = client
        self.id = job_id
        self.name = name

    def __repr__(self) -> str:
        """Name the job."""
        return f"<JobHandle {self.name} {self.id}>"

    async def result(self, timeout_s: float | None = None) -> T:
        """Wait for the job's end and return its value; a retry that is pending is no end.

        Args:
            timeout_s: Longest wait, seconds; None = however long it takes.

        Returns:
            What the handler returned, or None where the task keeps no result.

        Raises:
            JobFailedError: It failed for good; `error` is its last error.
            JobCancelledError: It was cancelled.
            ResultTimeoutError: Not ended in time; it goes on.
        """
        end = await self._client.wait_end(self.id, timeout_s)
        return cast("T", value_of(end, self.id, timeout_s))

    async def status(self) -> str:
        """Return the live status.

        Raises:
            JobNotFoundError: Its record is gone: it ended, and its retention with it.
        """
        return (await self._client.get_job(self.id)).status

    async def cancel(self) -> None:
        """End the job before it begins.

        Raises:
            StateError: It runs, or it has ended.
            JobNotFoundError: Its record is gone.
        """
        await self._client.cancel(self.id)


class SyncJobHandle(Generic[T]):
    """An enqueued job, for code that blocks; `T` is what its handler returns."""

    __slots__ = ("_client", "id", "name")

    def __init__(self, client: SyncVerbs, job_id: str, name: str) -> None:
        """Ask about the job through `client`."""
        self._client = client
        self.id = job_id
        self.name = name

    def __repr__(self) -> str:
        """Name the job."""
        return f"<SyncJobHandle {self.name} {self.id}>"

    def result(self, timeout_s: float | None = None) -> T:
        """Wait for the job's end and return its value; see `JobHandle.result`."""
        return cast("T", value_of(self._client.wait_end(self.id, timeout_s), self.id, timeout_s))

    def status(self) -> str:
        """Return the live status; see `JobHandle.status`."""
        return self._client.get_job(self.id).status

    def cancel(self) -> None:
        """End the job before it begins; see `JobHandle.cancel`."""
        self._client.cancel(self.id)


def value_of(result: Result | None, job_id: str, timeout_s: float | None) -> object:
    """Return an end's value, or raise how the job ended; None = it did not, in time."""
    if result is None:
        raise ResultTimeoutError(job_id, timeout_s or 0.0)
    return result.unwrap()
