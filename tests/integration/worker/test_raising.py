"""Handlers that raise whatever can be raised: the job fails, the worker lives (row 30)."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bananas.errors import Control

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench import Bench


class Textless(Exception):  # noqa: N818 - it is about its text
    """Its own text raises."""

    def __str__(self) -> str:
        """Raise."""
        raise KeyboardInterrupt


class NotText(Exception):  # noqa: N818 - as above
    """Its own text is no text."""

    def __str__(self) -> str:
        """Return something else."""
        return 5  # type: ignore[return-value]  # noqa: PLE0307 - that is the point


class Traceless(Exception):  # noqa: N818 - as above
    """Its traceback cannot be had."""

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        """Refuse everything."""
        raise RuntimeError(name)


class Unknown(Control):
    """A verb that nobody knows."""


def overflow() -> None:
    """Recurse without end."""
    overflow()


def raiser(error: BaseException) -> Callable[[], None]:
    """Return a function that raises this."""

    def body() -> None:
        raise error

    return body


def _chained() -> None:
    error: BaseException | None = None
    for depth in range(5000):
        deeper = ValueError(str(depth))
        deeper.__cause__ = error
        error = deeper
    raise error  # type: ignore[misc]


RAISING: dict[str, Callable[[], Any]] = {
    "BaseException": raiser(BaseException("base")),
    "CancelledError": raiser(asyncio.CancelledError("from the handler")),
    "KeyboardInterrupt": raiser(KeyboardInterrupt()),
    "GeneratorExit": raiser(GeneratorExit()),
    "SystemExit": lambda: sys.exit(3),
    "RecursionError": overflow,
    "MemoryError": raiser(MemoryError()),
    "StopIteration": raiser(StopIteration(1)),
    "StopAsyncIteration": raiser(StopAsyncIteration()),
    "TimeoutError": raiser(TimeoutError()),
    "textless": raiser(Textless()),
    "not text": raiser(NotText()),
    "traceless": raiser(Traceless()),
    "unknown verb": raiser(Unknown("?")),
    "100 MB": raiser(ValueError("x" * 100_000_000)),
    "surrogates": raiser(ValueError("\ud800 \x00 \x1b[31m\r\n")),
    "group": raiser(BaseExceptionGroup("two", [ValueError(1), KeyboardInterrupt()])),
    "chain": _chained,
}


@pytest.mark.parametrize("kind", ["async", "sync", "inline", "batch"])
@pytest.mark.parametrize("name", RAISING)
async def test_whatever_is_raised_fails_the_job_and_nothing_else(
    bench: Bench, kind: str, name: str
) -> None:
    """The job is failed with a text of at most 4 KiB; the same runner does the next one."""
    body = RAISING[name]

    async def on_loop(bad: bool = True) -> str:
        await asyncio.sleep(0)
        return body() if bad else "fine"

    def plain(bad: bool = True) -> str:
        return body() if bad else "fine"

    def batched(items: list[dict[str, bool]]) -> None:
        if items[0].get("bad", True):
            body()

    options: dict[str, Any] = {"name": "t", "max_retries": 1, "result": True}
    if kind == "batch":
        task: Any = bench.app.batch_task(linger_s=0, **options)(batched)
        bad, good = [await task.enqueue({"bad": True})], {"item": {"bad": False}}
    else:
        handler = on_loop if kind == "async" else plain
        task = bench.app.task(inline=kind == "inline", **options)(handler)
        bad, good = [await task.enqueue() for _ in range(2)], {"bad": False}
    await bench.worker(worker_concurrency=1)
    for job in bad:
        dead = await bench.status(job.id, "failed", "completed", "scheduled")
        assert (dead.status, dead.attempts) == ("failed", 1)
        assert dead.error
        assert len(dead.error.encode()) <= 4096
    job = await task.enqueue(**good)
    assert await job.result(timeout_s=5) in ("fine", None)


async def test_a_handler_that_cancels_its_own_task_ends_alone(bench: Bench) -> None:
    """What a handler does to the task it runs in costs no runner."""

    async def suicidal(how: str) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if how == "waits":
            await asyncio.sleep(5)
        return how

    task = bench.app.task(name="t", max_retries=1, result=True)(suicidal)
    worker = await bench.worker(worker_concurrency=1)
    waits = await task.enqueue(how="waits")
    assert (await bench.status(waits.id, "failed")).error
    for _ in range(3):
        job = await task.enqueue(how="returns")
        assert await job.result(timeout_s=5) == "returns"
    assert not worker.worker.broken.is_set()


@pytest.mark.parametrize("kind", ["async", "inline", "batch"])
async def test_a_handler_that_cancels_its_own_task_charges_no_neighbour(
    bench: Bench, kind: str
) -> None:
    """It returns, and the next job in that runner runs to its end, on its first run."""

    async def on_loop() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]

    def inline() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]

    async def bunch(_items: list[int]) -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]

    async def victim() -> str:
        await asyncio.sleep(0.01)
        return "whole"

    if kind == "batch":
        task: Any = bench.app.batch_task(name="a", linger_s=0)(bunch)
    else:
        handler: Any = on_loop if kind == "async" else inline
        task = bench.app.task(name="a", inline=kind == "inline")(handler)
    next_one = bench.app.task(name="v", max_retries=1, result=True, priority="low")(victim)
    for _ in range(3):
        await (task.enqueue(1) if kind == "batch" else task.enqueue())
    victims = [await next_one.enqueue() for _ in range(3)]
    # all in one batch, behind one another in one runner
    worker = await bench.worker(worker_concurrency=1)
    for job in victims:
        assert await job.result(timeout_s=5) == "whole"
    assert not worker.worker.broken.is_set()
    assert (await bench.counters()).get("retried", 0) == 0


async def test_a_part_that_ends_by_itself_is_noticed(bench: Bench) -> None:
    """A defect that ends a part of the worker is no silence: the process is to be replaced."""

    async def idle() -> None:
        """Do nothing."""

    bench.app.task(idle)
    worker = await bench.worker()
    worker.worker._settler._dirty = None  # type: ignore[assignment]
    worker.worker._settler._event.set()
    await asyncio.wait_for(worker.worker.broken.wait(), 5)
    worker.worker._settler._dirty = {}
