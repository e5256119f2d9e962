"""Time limits of a run: soft ones end it, and what refuses is left to the supervisor (row 29)."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from bananas.context import current_job
from bananas.errors import JobTimedOutError
from bananas.retry import RetryPolicy
from workbench import until

if TYPE_CHECKING:
    from workbench import Bench


TIMED_OUT = "JobTimedOutError: timed out after {} s"


async def test_an_async_run_is_cancelled_at_its_limit(bench: Bench) -> None:
    """The handler sees a cancellation, the job the time it had; a retry is left to it."""
    seen: list[BaseException] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as error:
            seen.append(error)
            assert current_job().cancelled
            raise

    task = bench.app.task(name="t", timeout_s=0.1, max_retries=2)(slow)
    await bench.worker()
    job = await task.enqueue()
    late = await bench.status(job.id, "scheduled", "failed")
    assert (late.status, late.attempts, late.error) == ("scheduled", 1, TIMED_OUT.format("0.1"))
    assert len(seen) == 1


async def test_a_sync_run_is_raised_in_at_its_limit(bench: Bench) -> None:
    """A `def` handler gets `JobTimedOutError` between two bytecodes, and its thread lives."""
    seen: list[BaseException] = []

    def busy(loop: bool = True) -> str:
        try:
            while loop:
                time.sleep(0.001)
        except JobTimedOutError as error:
            seen.append(error)
            raise
        return "fine"

    task = bench.app.task(name="t", timeout_s=0.1, max_retries=1, result=True)(busy)
    await bench.worker(sync_threads=1)
    job = await task.enqueue()
    late = await bench.status(job.id, "failed")
    assert str(late.error).startswith("JobTimedOutError: timed out after 0.1 s (test_limits.py:")
    assert len(seen) == 1
    assert await (await task.enqueue(loop=False)).result(timeout_s=5) == "fine"


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_bunch_has_the_longest_limit_of_its_items(bench: Bench, is_async: bool) -> None:
    """A call past it fails a run of every item, with the time they had."""

    async def on_loop(_items: list[Any]) -> None:
        await asyncio.sleep(30)

    def in_thread(_items: list[Any]) -> None:
        while True:
            time.sleep(0.001)

    handler: Any = on_loop if is_async else in_thread
    task = bench.app.batch_task(name="b", timeout_s=0.05, linger_s=0.02, max_retries=1)(handler)
    await bench.worker()
    jobs = [await task.enqueue(1), await task.options(timeout_s=0.2).enqueue(2)]
    for job in jobs:
        late = await bench.status(job.id, "failed")
        assert "timed out after 0.2 s" in str(late.error)


async def test_the_limit_of_a_job_beats_that_of_its_task_and_that_the_setting(
    bench: Bench,
) -> None:
    """Job, else task, else `job_timeout_s`: the first that is set counts."""

    async def slow() -> None:
        await asyncio.sleep(30)

    free = bench.app.task(name="free", max_retries=1)(slow)
    held = bench.app.task(name="held", max_retries=1, timeout_s=0.2)(slow)
    await bench.worker(job_timeout_s=1.0)
    jobs = {
        "1": await free.enqueue(),
        "0.2": await held.enqueue(),
        "0.1": await held.options(timeout_s=0.1).enqueue(),
    }
    for limit, job in jobs.items():
        assert (await bench.status(job.id, "failed")).error == TIMED_OUT.format(limit)


async def test_a_policy_is_asked_about_time_outs_too(bench: Bench) -> None:
    """`give_up_on=JobTimedOutError` makes a time-out final."""

    async def slow() -> None:
        await asyncio.sleep(30)

    policy = RetryPolicy(give_up_on=(JobTimedOutError,))
    task = bench.app.task(name="t", timeout_s=0.05, max_retries=9, retry=policy)(slow)
    await bench.worker()
    job = await task.enqueue()
    assert (await bench.status(job.id, "failed", "scheduled")).status == "failed"


async def test_what_heeds_no_limit_has_a_hard_deadline_in_the_table(bench: Bench) -> None:
    """A run that goes on past its limit stands in shared memory until the supervisor acts."""
    release = threading.Event()

    def stubborn() -> None:
        while not release.is_set():
            try:
                release.wait(0.01)
            except JobTimedOutError:
                continue

    task = bench.app.task(name="t", timeout_s=0.05, max_retries=1)(stubborn)
    worker = await bench.worker(hard_timeout_grace_s=0.1)
    job = await task.enqueue()
    await until(lambda: worker.slot.overdue(time.monotonic_ns()) == [job.id.encode()])
    release.set()
    assert (await bench.status(job.id, "failed")).attempts == 1
    assert worker.slot.begun() == []


async def test_a_late_limit_leaves_no_note_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits that strike just when a handler returns end in an outcome and a clean table."""
    monkeypatch.setattr("bananas.worker.worker._TICK_S", 0.0002)

    def quick() -> None:
        time.sleep(0.01)

    async def quick_async() -> None:
        await asyncio.sleep(0.01)

    def quick_batch(_items: list[Any]) -> None:
        time.sleep(0.01)

    tasks: list[Any] = [
        bench.app.task(name="s", timeout_s=0.01, max_retries=1)(quick),
        bench.app.task(name="a", timeout_s=0.01, max_retries=1)(quick_async),
        bench.app.batch_task(name="b", timeout_s=0.01, max_retries=1, max_size=1)(quick_batch),
    ]
    worker = await bench.worker(sync_threads=8)
    for task in tasks:
        for _ in range(200):
            await (task.enqueue(1) if task.name == "b" else task.enqueue())
    counters = (await bench.idle()).counters
    assert counters.get("failed", 0) + counters.get("completed", 0) == 600
    assert worker.slot.begun() == []
    assert not worker.worker.broken.is_set()
