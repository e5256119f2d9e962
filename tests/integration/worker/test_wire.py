"""A worker, a client and a warden on a line that fails all the time (once: see the cut)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from bananas.app import Bananas
from bananas.context import current_job
from bananas.errors import Retry
from faults.proxy import Fault, FaultProxy
from workbench import until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from servers import Server
    from workbench import Bench

QUICK = (Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.RESET_MID_REPLY, Fault.DUPLICATE)
JOBS = 12


async def run_scenario(bench: Bench, proxy: FaultProxy) -> tuple[list[str], list[str], int]:
    """Submit, run, retry and settle a few jobs, all through the proxy.

    Returns:
        The ids, the runs, and how many outcomes a repeated call found in effect already.
    """
    app = Bananas(proxy.url, settings=bench.settings)
    runs: list[str] = []

    async def t(fails: bool) -> None:
        job = current_job()
        runs.append(f"{job.id} {job.attempt}")
        if fails and job.attempt == 1:
            raise Retry(0.01)

    task = app.task(name="t")(t)
    worker = await bench.worker(app, url=proxy.url, poll_interval_s=0.1)
    handles = [await task.enqueue(fails=n % 4 == 0) for n in range(JOBS)]

    async def all_ended() -> bool:
        return (await bench.counters()).get("completed", 0) >= JOBS

    await until(all_ended, within_s=30)
    audit = await bench.idle()
    assert audit.counters["completed"] == audit.counters["accepted"] == JOBS
    assert audit.counters["retried"] == JOBS // 4
    assert audit.drift == 0
    await worker.stop()
    await app.aclose()
    settler = worker.worker._settler
    assert settler.stale == 0, "no lease was lost: nothing was refused"
    return [handle.id for handle in handles], runs, settler.repeated


async def test_every_command_of_all_arrives_twice(
    make_bench: Callable[..., Coroutine[Any, Any, Bench]], make_server: Callable[..., Server]
) -> None:
    """A library that re-sends each command: one acceptance, one run, one end a job (fact 1)."""
    server = make_server()
    bench = await make_bench(server.url)
    async with FaultProxy(server.socket) as proxy:
        proxy.chaos(1.0, (Fault.DUPLICATE,))
        bench.warden(url=proxy.url)
        ids, runs, _ = await run_scenario(bench, proxy)
        assert len(runs) == len(set(runs)) == len(ids) + len(ids[::4])


@pytest.mark.parametrize("seed", range(3))
async def test_chaos_on_every_connection(
    make_bench: Callable[..., Coroutine[Any, Any, Bench]],
    make_server: Callable[..., Server],
    seed: int,
) -> None:
    """Cuts and doubles at random, wardens included: nothing is lost, nothing runs twice."""
    server = make_server()
    bench = await make_bench(server.url)
    async with FaultProxy(server.socket, seed=seed) as proxy:
        proxy.chaos(0.05, QUICK)
        bench.warden(url=proxy.url)
        ids, runs, _ = await run_scenario(bench, proxy)
        assert len(runs) == len(set(runs)) == len(ids) + len(ids[::4])
        await asyncio.sleep(0)
