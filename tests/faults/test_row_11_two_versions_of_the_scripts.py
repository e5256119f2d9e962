"""Row 11: two versions of the scripts at once, as in a rolling deploy.

Scripts are called by their content (EVALSHA), so each version brings its own and none replaces
another's; there is no library on the server to get out of step.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from bananas.broker import Broker
from bananas.context import current_job
from bananas.scripts import Scripts, load_all
from bananas.transport import Transport
from bananas.warden.warden import Warden
from workbench import Bench, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from servers import Server


def another_version() -> Scripts:
    """Return all scripts with other contents, and so other names, that do the same."""
    folder = files("bananas") / "lua"
    names = [f"{name}.lua" for name in Scripts.__slots__]
    return load_all(
        {name: (folder / name).read_text() + "\n-- as it was before\n" for name in names}
    )


@pytest.fixture
async def bench(first_server: Server, prefix: str) -> AsyncIterator[Bench]:
    """Return a bench, audited at the end."""
    async with Bench(first_server.url, prefix, worker_concurrency=2) as made:
        yield made


async def test_old_and_new_work_side_by_side(bench: Bench) -> None:
    """Producers, workers and wardens of both versions share a queue; the server forgets scripts."""
    ours, theirs = load_all(), another_version()
    shas = {script.sha for scripts in (ours, theirs) for script in _all(scripts)}
    assert len(shas) == 2 * len(Scripts.__slots__)
    ran: Counter[str] = Counter()

    @bench.app.task(max_retries=2)
    async def work(n: int) -> None:
        ran[current_job().id] += 1
        await asyncio.sleep(0.002)
        if n % 10 == 0 and current_job().attempt == 1:
            raise ValueError(n)

    # who is given another version is at the other end of a rolling deploy
    older = Broker(Transport(str(bench.settings.redis_url)), bench.keys, theirs)
    workers = [await bench.worker(retry_base_s=0.01), await bench.worker(scripts=theirs)]
    wardens = [bench.warden(), bench.warden(scripts=theirs)]
    assert all(isinstance(warden, Warden) for warden in wardens)
    accepted = 0
    for n in range(300):
        await work.options(delay_s=0.05 if n % 7 == 0 else None).enqueue(n=n)
        accepted += 1
        if n % 50 == 25:
            bench.redis.script_flush()
    try:
        await bench.idle()
        assert (await older.audit()).drift == 0
        took = [running.slot.completed for running in workers]
        await until(lambda: sum(running.slot.completed for running in workers) == accepted)
        assert all(running.slot.completed > 0 for running in workers), took
        known: Any = bench.redis.script_exists(ours.dequeue.sha, theirs.dequeue.sha)
        assert known == [True, True]
    finally:
        await older.transport.close()
    assert len(ran) == accepted
    assert ran.total() == accepted + 30


async def test_the_new_takes_over_what_the_old_held(bench: Bench) -> None:
    """A lease of one version is given back by the other, and then refused to the first."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    ends: list[int] = []

    @bench.app.task
    async def work() -> None:
        begun.set()
        await go_on.wait()
        ends.append(current_job().attempt)

    old = await bench.worker(scripts=another_version())
    job = await work.enqueue()
    await asyncio.wait_for(begun.wait(), 10)
    state = "more"
    while state == "more":
        state = (await bench.broker.reclaim(old.epoch, proven=True)).state
    new = await bench.worker()
    go_on.set()
    await bench.status(job.id, "completed")
    await bench.idle()
    counters = await bench.counters()
    assert (counters["completed"], counters["reclaimed"]) == (1, 1)
    await old.stop()
    await new.stop()


def _all(scripts: Scripts) -> list[Any]:
    return [getattr(scripts, name) for name in Scripts.__slots__]
