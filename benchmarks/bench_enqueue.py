"""What does it cost to enqueue: one, 50 at the same time, many?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bananas.settings import Settings
from benchmarks.workload import app, noop_async

if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

    from servers import Server

TEXT = "x" * 191


@pytest.fixture
def connected(server: Server, runner: Runner) -> Iterator[Runner]:
    """Return a loop in which the application is connected to an empty server."""
    app.configure(Settings(redis_url=server.url))
    runner.run(noop_async.enqueue(x=TEXT))
    yield runner
    runner.run(app.aclose())


async def ten() -> None:
    """Enqueue ten, each awaited."""
    for _ in range(10):
        await noop_async.enqueue(x=TEXT)


async def ten_by_fifty() -> None:
    """Enqueue ten from each of 50 tasks."""
    await asyncio.gather(*(ten() for _ in range(50)))


def bench_one(benchmark: BenchmarkFixture, connected: Runner) -> None:
    """One `enqueue`, awaited, ten times over."""
    benchmark(lambda: connected.run(ten()))
    benchmark.extra_info["jobs"] = 10


def bench_fifty_at_once(benchmark: BenchmarkFixture, connected: Runner) -> None:
    """50 tasks that enqueue ten jobs each."""
    benchmark(lambda: connected.run(ten_by_fifty()))
    benchmark.extra_info["jobs"] = 500


def bench_many(benchmark: BenchmarkFixture, connected: Runner) -> None:
    """5,000 rows by one `enqueue_many`."""
    rows = [{"x": TEXT}] * 5_000
    benchmark(lambda: connected.run(noop_async.enqueue_many(rows)))
    benchmark.extra_info["jobs"] = 5_000
