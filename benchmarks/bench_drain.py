"""What does a no-op job cost one worker in this process, by kind of handler?

Without supervisor: for comparisons of two versions of the worker.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from bananas.settings import Settings
from benchmarks.inner_worker import completed, working
from benchmarks.workload import app, noop_async, noop_batch, noop_inline, noop_sync

if TYPE_CHECKING:
    from asyncio import Runner

    from benchmarks.rounds import Rounds
    from servers import Server

JOBS = 5_000
ROUNDS = 5
TASKS: dict[str, Any] = {
    "async": noop_async,
    "inline": noop_inline,
    "sync": noop_sync,
    "batch": noop_batch,
}


@pytest.mark.parametrize("kind", TASKS)
def bench_drain(rounds: Rounds, runner: Runner, server: Server, kind: str) -> None:
    """5,000 waiting jobs are run by a worker that starts and stops."""
    app.configure(Settings(redis_url=server.url, retention_completed_s=0))
    used_s = 0.0

    async def empty() -> None:
        nonlocal used_s
        cpu_s = time.process_time()
        async with working(app) as slot:
            await completed(slot, JOBS)
        used_s += time.process_time() - cpu_s

    def fill() -> None:
        runner.run(TASKS[kind].enqueue_many([{"x": "x" * 191}] * JOBS))

    rounds.time(lambda: runner.run(empty()), ROUNDS, before=fill)
    runner.run(app.aclose())
    rounds.note(worker_us_per_job=used_s / rounds.count(ROUNDS) / JOBS * 1e6)
