"""What users write, as mypy and pyright see it in strict mode; checked, never run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_type

from bananas import (
    AsyncTask,
    Bananas,
    BatchTask,
    Client,
    Job,
    JobHandle,
    Outcome,
    Report,
    Result,
    Retry,
    RetryPolicy,
    Submission,
    SyncClient,
    SyncJobHandle,
    SyncTask,
    Verdict,
    current_job,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = Bananas("redis://localhost", max_retries=5)


@dataclass
class Row:
    """An item."""

    n: int


@app.task
async def send(to: str, subject: str = "") -> int:
    """Return a number."""
    if current_job().attempt > 3:
        raise Retry(5)
    return len(to) + len(subject)


@app.task(name="x", priority="high", max_retries=5, timeout_s=30, result=True, retry=RetryPolicy())
async def named(n: int) -> str:
    """Return a text."""
    return str(n)


@app.task
def blocking(n: int) -> bytes:
    """Return bytes."""
    return bytes(n)


@app.task(inline=True)
def short(n: int) -> float:
    """Return a float."""
    return float(n)


@app.batch_task(max_size=500, linger_s=0.02, priority="low")
async def load(rows: list[Row]) -> list[Outcome]:
    """Return verdicts."""
    return [Outcome.ok() if row.n else Outcome.retry(delay_s=1) for row in rows]


@app.batch_task
def numbers(items: list[int]) -> None:
    """Return nothing."""


@app.lifespan
async def process() -> AsyncIterator[None]:
    """Wrap a process."""
    yield


_sender: AsyncTask[..., int] = send


async def use_tasks() -> None:
    """Enqueue in every way."""
    job = await send.enqueue("a", subject="b")
    assert_type(job, JobHandle[int])
    assert_type(await job.result(timeout_s=5), int)
    assert_type(await job.status(), str)
    assert_type(await send("a"), int)
    assert_type(send.enqueue_sync("a"), SyncJobHandle[int])
    assert_type(send.enqueue_sync("a").result(), int)
    assert_type(await named.enqueue(n=1), JobHandle[str])
    assert_type(await blocking.enqueue(1), JobHandle[bytes])
    assert_type(blocking(1), bytes)
    assert_type(await short.enqueue(1), JobHandle[float])
    assert_type(await send.options(delay_s=60, priority="high").enqueue("a"), JobHandle[int])
    assert_type(await send.enqueue_many([{"to": "a"}]), Report)
    assert_type(await load.enqueue(Row(1)), JobHandle[Any])
    assert_type(await load.enqueue_many(Row(n) for n in range(3)), Report)
    assert_type(await load([Row(1)]), list[Outcome])
    _loader: BatchTask[Row, Any] = load
    numbers.enqueue_sync(5)
    numbers([1])

    await send.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await send.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await send.enqueue("a", other=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await load.enqueue(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send.options(priority="urgent")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send.options(nonsense=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.task(priority="urgent")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType,reportCallIssue]


async def use_client() -> None:
    """Submit by name."""
    async with Client("redis://localhost") as client:
        job = await client.submit("t", {"n": 1}, priority="high", scheduled_for=datetime.now(UTC))
        assert_type(job, JobHandle[Any])
        report = await client.submit_many([Submission(name="t"), {"name": "t"}])
        for verdict in report.verdicts or ():
            assert_type(verdict, Verdict)
        assert_type(await client.get_job("id"), Job)
        assert_type(await client.get_jobs(["id"]), list[Job | None])
        assert_type(await client.get_result("id", wait_s=1), Result | None)
        assert_type(await client.submit_and_wait("t", timeout_s=5, run_timeout_s=3), Any)
        await client.retry("id", payload={"n": 2})
        await client.submit("t", nonsense=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def use_sync_client() -> None:
    """Submit from code that blocks."""
    with SyncClient() as client:
        assert_type(client.submit("t").result(), Any)
        assert_type(client.submit_many([{"name": "t"}]), Report)
        assert_type(client.dead_count(), int)


def takes_tasks(task: SyncTask[[int], bytes]) -> None:
    """Be given a task."""
    task.enqueue_sync(1)


takes_tasks(blocking)
