"""How a job stands, and how to wait for its end.

Between enqueue and end a record is not rewritten, so the live status comes from where the
id lies. An end is found in the result, where one is kept, else in the record.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bananas.codec import decode_payload, encode_text
from bananas.errors import (
    DecodeError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
)
from bananas.job import Job
from bananas.watch import Signal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from bananas.broker import Broker
    from bananas.watch import Watch

ENDED: Final = ("completed", "failed", "cancelled")

# A subscription that takes longer is not waited for: it rings when it stands.
_LISTEN_S: Final = 0.1
_LOCATE: Final = 100  # most ids a call of `locate`

# Looks between messages. A job that keeps a result announces its end, and looking is only for
# lost messages; one that keeps none is found by looking alone.
_ANNOUNCED_S: Final = (0.5, 5.0)
_SILENT_S: Final = (0.02, 0.5)


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a job.

    Attributes:
        job_id: Whose.
        status: `completed`, `failed` or `cancelled`.
        value: What the handler returned; None where no result is kept.
        error: The last error, of a failed job.
        completed_at: RFC 3339; "" when unknown.
        duration_ms: How long the last run took; None when unknown.
    """

    job_id: str
    status: str
    value: Any = None
    error: str | None = None
    completed_at: str = ""
    duration_ms: float | None = None

    def unwrap(self) -> Any:  # noqa: ANN401 - what the handler returned
        """Return the value.

        Raises:
            JobFailedError: The job failed for good.
            JobCancelledError: The job was cancelled.
        """
        if self.status == "failed":
            raise JobFailedError(self.job_id, self.error or "unknown error")
        if self.status == "cancelled":
            raise JobCancelledError(self.job_id)
        return self.value


class Standing(NamedTuple):
    """A job at one instant: its record with the live status, the record's bytes, its place."""

    job: Job | None
    record: bytes | None
    where: str


def live(record: bytes, where: str, job_id: str) -> Job:
    """Return the job of a record with its live status.

    A broken record becomes a job without a name, its bytes as payload, the reason as error.
    """
    try:
        job = Job.decode(record)
    except DecodeError as error:
        return broken(job_id, record, str(error))
    if job.id != job_id:  # else an operator's order for this one would be carried out on that
        return broken(job_id, record, f'its record carries the id "{job.id}"')
    if where == "leased":
        status = "processing"
    elif where == "scheduled":
        status = "scheduled"
    elif where == "dead":
        status = "failed"
    elif job.status in ENDED:
        return job
    else:
        status = "pending"
    return job if job.status == status else job.with_(status=status)


def broken(job_id: str, data: bytes, why: str) -> Job:
    """Return what can be shown of a job whose record cannot be read."""
    payload = encode_text(data.decode("utf-8", "replace"))
    return Job(id=job_id, name="", payload_json=payload, status="failed").with_(error=why)


def _result_of(job_id: str, members: dict[bytes, bytes]) -> Result:
    """Return what a kept result says, or raise ValueError."""
    value = members.get(b"result")
    duration_ms = float(members.get(b"duration_ms") or b"nan")
    status = members.get(b"status", b"completed").decode()
    if status not in ENDED:
        raise ValueError("no status that ends a job")
    return Result(
        job_id=job_id,
        status=status,
        value=decode_payload(value) if value else None,
        error=members[b"error"].decode("utf-8", "replace") if b"error" in members else None,
        completed_at=members.get(b"completed_at", b"").decode(),
        duration_ms=duration_ms if math.isfinite(duration_ms) else None,
    )


class Results:
    """Reads how jobs stand and waits for their ends."""

    def __init__(self, broker: Broker, watch: Watch | None) -> None:
        """Read through `broker`; without a watch, waiting is looking now and then."""
        self._broker = broker
        self._watch = watch

    async def stand(self, job_id: str) -> Standing:
        """Look at one job."""
        ((record, where),) = await self._broker.locate([job_id])
        job = None if record is None else live(record, where, job_id)
        return Standing(job, record, where)

    async def jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Look at many jobs; None where there is no record."""
        jobs: list[Job | None] = []
        for begin in range(0, len(job_ids), _LOCATE):
            part = job_ids[begin : begin + _LOCATE]
            for job_id, (record, where) in zip(part, await self._broker.locate(part), strict=True):
                jobs.append(None if record is None else live(record, where, job_id))
        return jobs

    async def result(self, job_id: str) -> Result | None:
        """Read the kept result; None = none."""
        pairs = await self._broker.transport.command(
            "HGETALL", self._broker.keys.result(job_id), repeat=True
        )
        if not pairs:
            return None
        members: dict[bytes, bytes] = dict(zip(pairs[::2], pairs[1::2], strict=True))
        try:
            return _result_of(job_id, members)
        except ValueError:  # whoever wrote it was none of ours
            raise DecodeError("the kept result cannot be read") from None

    async def end(self, job_id: str, *, known: bool = False) -> tuple[Result | None, Job | None]:
        """Return (the job's end or None, the job as it stands or None).

        Args:
            job_id: Which.
            known: The caller knows that it was there: a record that is gone has ended.

        Raises:
            JobNotFoundError: Neither record nor result, and not `known`.
        """
        job = (await self.stand(job_id)).job
        if job is not None and job.status not in ENDED:
            return None, job
        # Read afterwards, not along with it: result and end are written at one instant, so the
        # result of a job that is seen as ended is there, if any is kept.
        result = await self.result(job_id)
        if result is None and job is not None:
            result = Result(job_id, job.status, None, job.error, job.updated_at)
        elif result is None and known:
            result = Result(job_id, "completed")
        if result is None:
            raise JobNotFoundError(job_id)
        return result, job

    def watching(self, job_id: str) -> AbstractContextManager[Signal]:
        """Subscribe to a job's end; done before it is submitted, nothing can be missed."""
        if self._watch is None:
            return nullcontext(Signal())
        return self._watch.open(self._broker.keys.notify(job_id))

    async def wait(self, job_id: str, signal: Signal, timeout_s: float | None) -> Result | None:
        """Wait for the end of a job that was there; None = not within `timeout_s`.

        Args:
            job_id: Which.
            signal: Of `watching`.
            timeout_s: Seconds; None = however long.
        """
        now = asyncio.get_running_loop().time
        until = math.inf if timeout_s is None else now() + timeout_s
        if self._watch is not None:
            await signal.listening(min(_LISTEN_S, until - now()))
        pause_s = 0.0
        while True:
            result, job = await self.end(job_id, known=True)
            if result is not None:
                return result
            left_s = until - now()
            if left_s <= 0:
                return None
            announced = signal.subscribed.is_set() and job is not None and job.result
            shortest_s, longest_s = _ANNOUNCED_S if announced else _SILENT_S
            pause_s = min(max(2 * pause_s, shortest_s), longest_s)
            if await signal.wait(min(pause_s, left_s)):
                pause_s = 0.0
