"""How a worker leaves: in order, at once, quietly, or to be replaced (row 5)."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bananas.context import current_job
from bananas.keys import place
from bananas.table import SlotState
from workbench import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from workbench import Bench


def waiting(bench: Bench, where: str = place("normal")) -> list[str]:
    """Return the ids that wait, the next one first."""
    ids = bench.redis.lrange(bench.keys.waiting(where), 0, -1)
    return [job_id.decode() for job_id in reversed(ids)]  # type: ignore[arg-type]


async def test_what_has_not_begun_goes_back_at_once_and_in_order(bench: Bench) -> None:
    """On the way out the unstarted jobs lie at the front again while the others still run."""
    gate = asyncio.Event()
    begun: list[str] = []

    async def t() -> None:
        begun.append(current_job().id)
        if len(begun) > 200:
            await gate.wait()

    task = bench.app.task(name="t")(t)
    ids = [(await task.enqueue()).id for _ in range(600)]
    worker = await bench.worker(worker_concurrency=2)
    await until(lambda: len(begun) == 202)

    async def settled() -> bool:
        return (await bench.counters()).get("completed") == 200

    await until(settled)
    held = (await bench.audit()).leased
    assert held > 2, "nothing was fetched ahead: this test needs it"
    stopping = asyncio.ensure_future(worker.stop(10.0))
    began = time.monotonic()

    async def only_running_ones() -> bool:
        return (await bench.audit()).leased == 2

    await until(only_running_ones)
    assert time.monotonic() - began < 1
    assert not stopping.done()
    assert waiting(bench) == ids[202:]
    gate.set()
    await stopping
    counters = await bench.counters()
    assert counters["completed"] == 202
    assert counters["released"] == held - 2
    assert worker.slot.epoch == ""
    for job in await bench.app.client.get_jobs(ids[202:210]):
        assert job is not None
        assert (job.status, job.attempts) == ("pending", 0)


async def test_what_still_runs_after_the_grace_goes_back_uncharged(bench: Bench) -> None:
    """Async handlers are cancelled, the job waits as it was, at the front."""
    cancelled: list[bool] = []
    started = asyncio.Event()

    async def t() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(current_job().cancelled)
            raise

    task = bench.app.task(name="t")(t)
    job = await task.enqueue()
    worker = await bench.worker()
    await asyncio.wait_for(started.wait(), 5)
    began = time.monotonic()
    await worker.stop(0.2)
    assert 0.2 <= time.monotonic() - began < 2
    assert cancelled == [True]
    back = await bench.job(job.id)
    assert (back.status, back.attempts, waiting(bench)) == ("pending", 0, [job.id])


async def test_a_second_stop_cuts_the_grace(bench: Bench) -> None:
    """Asked to leave now while it drains, a worker gives back what runs and goes."""
    started = asyncio.Event()

    async def t() -> None:
        started.set()
        await asyncio.sleep(60)

    task = bench.app.task(name="t")(t)
    job = await task.enqueue()
    worker = await bench.worker()
    await asyncio.wait_for(started.wait(), 5)
    first = asyncio.ensure_future(worker.worker.stop(30.0))
    await asyncio.sleep(0.05)
    assert not first.done()
    await asyncio.wait_for(worker.worker.stop(0.0), 3)
    await asyncio.wait_for(first, 1)
    assert waiting(bench) == [job.id]


async def test_a_thread_that_goes_on_is_left_behind_with_its_mark(bench: Bench) -> None:
    """A `def` handler cannot be cancelled: it may ask, and its job goes back when it is gone.

    While the thread lives nobody else may run it; then the warden gives it back, uncharged.
    """
    release = threading.Event()
    started = threading.Event()
    marks: list[bool] = []

    def t() -> None:
        job = current_job()
        started.set()
        while not release.is_set():
            if job.cancelled and not marks:
                marks.append(True)
            time.sleep(0.005)

    task = bench.app.task(name="t")(t)
    job = await task.enqueue()
    worker = await bench.worker()
    await until(started.is_set)
    try:
        await asyncio.wait_for(worker.stop(0.1), 5)
        assert marks == [True]
        assert waiting(bench) == []
        assert worker.slot.epoch == worker.epoch
        assert worker.slot.begun() == []
        worker.slot.state = SlotState.EXITED  # first: a free slot may be taken by the warden
        warden = bench.warden(scheduler=False)
        warden.notice_death()
        await until(lambda: waiting(bench) == [job.id])
        assert not bench.redis.hgetall(bench.keys.crashes)
    finally:
        release.set()


async def test_a_handler_that_refuses_cancellation_does_not_hold_up_the_end(
    bench: Bench,
) -> None:
    """Its job goes back all the same, and the worker leaves."""
    release = asyncio.Event()
    started = asyncio.Event()

    async def t() -> None:
        started.set()
        while not release.is_set():
            try:
                await asyncio.wait_for(release.wait(), 0.05)
            except (asyncio.CancelledError, TimeoutError):
                continue

    task = bench.app.task(name="t")(t)
    job = await task.enqueue()
    worker = await bench.worker()
    await asyncio.wait_for(started.wait(), 5)
    await asyncio.wait_for(worker.stop(0.1), 6)
    assert waiting(bench) == [job.id]
    release.set()
    await asyncio.sleep(0.1)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_jobs_that_end_as_the_worker_leaves_are_settled_once(bench: Bench, kind: str) -> None:
    """Stopped and replaced at any moment: every job completes, and each runs once."""
    runs: list[str] = []

    async def on_loop() -> None:
        runs.append(current_job().id)
        await asyncio.sleep(0.002)

    def in_thread() -> None:
        runs.append(current_job().id)
        time.sleep(0.002)

    task: Any = bench.app.task(name="t")(on_loop if kind == "async" else in_thread)
    for _ in range(400):
        await task.enqueue()
    for n in range(12):
        worker = await bench.worker(worker_concurrency=4)
        await asyncio.sleep(0.003 * n)
        await worker.stop(10.0)
    await bench.worker()
    audit = await bench.idle()
    assert audit.counters["completed"] == 400
    assert len(runs) == len(set(runs)) == 400


async def test_gathered_items_go_back_too(bench: Bench) -> None:
    """Items that waited for company are given back when the worker leaves."""

    async def load(items: list[int]) -> None:
        raise AssertionError(items)

    task = bench.app.batch_task(name="b", max_size=100, linger_s=30.0)(load)
    ids = [(await task.enqueue(n)).id for n in range(7)]
    worker = await bench.worker()

    async def all_leased() -> bool:
        return (await bench.audit()).leased == 7

    await until(all_leased)
    await worker.stop(5.0)
    assert waiting(bench) == ids


async def test_a_quiet_worker_takes_no_more_and_ends_what_it_has(bench: Bench) -> None:
    """The quiet flag in the table closes the fetcher; running jobs complete."""
    gate = asyncio.Event()
    started = asyncio.Event()

    async def t() -> None:
        started.set()
        await gate.wait()

    task = bench.app.task(name="t")(t)
    first = await task.enqueue()
    worker = await bench.worker(worker_concurrency=1)
    await asyncio.wait_for(started.wait(), 5)
    worker.slot.quiet = True
    await until(lambda: worker.slot.state is SlotState.QUIET)
    second = await task.enqueue()
    gate.set()
    await bench.status(first.id, "completed")
    await asyncio.sleep(0.2)  # it would have taken the second one by now
    assert (await bench.job(second.id)).status == "pending"
    await bench.worker()
    await bench.status(second.id, "completed")


async def test_a_worker_asks_to_be_replaced_after_so_many_jobs(bench: Bench) -> None:
    """`recycle_jobs` sets the flag that the supervisor looks at; nothing is lost by it."""

    async def t() -> None:
        """Do nothing."""

    task = bench.app.task(name="t")(t)
    worker = await bench.worker(recycle_jobs=5)
    for _ in range(4):
        await task.enqueue()
    await bench.idle()
    await asyncio.sleep(1.2)  # it looks once a second
    assert not worker.slot.recycle
    await task.enqueue()
    await until(lambda: worker.slot.recycle)


async def test_a_limit_of_memory_below_a_fresh_process_does_not_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process needs from the beginning is no reason to replace it (row 27)."""

    async def t() -> None:
        """Do nothing."""

    monkeypatch.setattr("bananas.worker.worker._RECYCLE_AGE_S", 0.0)
    task = bench.app.task(name="t")(t)
    worker = await bench.worker(recycle_rss_bytes=16 << 20)
    await task.enqueue()
    await bench.idle()
    await until(lambda: worker.slot.rss_bytes > 16 << 20)
    await asyncio.sleep(1.2)  # it looks once a second
    assert not worker.slot.recycle


async def test_a_process_that_grows_asks_to_be_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between jobs, at the limit; a young one waits, or a greedy start would loop (row 27)."""
    hoard: list[bytes] = []

    async def leak(size: int) -> None:
        hoard.append(b"x" * size)

    task = bench.app.task(name="leak")(leak)
    worker = await bench.worker(recycle_rss_bytes=16 << 20)
    await until(lambda: worker.slot.rss_bytes > 0)
    await task.enqueue(size=worker.slot.rss_bytes)
    await bench.idle()
    await asyncio.sleep(1.2)  # it looks once a second
    assert not worker.slot.recycle, "it is young"
    monkeypatch.setattr("bananas.worker.worker._RECYCLE_AGE_S", 0.0)
    await until(lambda: worker.slot.recycle)


@pytest.mark.slow
async def test_leaving_while_redis_is_away_ends_in_time(bench: Bench, make_server: Any) -> None:  # noqa: ANN401
    """Without a server nothing can be given back; the lease will lapse, the process ends."""
    from workbench import Bench as Another  # noqa: PLC0415 - a second one, with a server of its own

    server = make_server(aof=True)
    started = asyncio.Event()
    async with Another(server.url, "x") as other:

        async def t() -> None:
            started.set()
            await asyncio.sleep(60)

        task = other.app.task(name="t")(t)
        await task.enqueue()
        worker = await other.worker()
        await asyncio.wait_for(started.wait(), 5)
        with server.frozen():
            await asyncio.wait_for(worker.worker.stop(0.1), 15)
        assert worker.slot.epoch == worker.epoch, "the warden still has to look after its jobs"
        # what was on its way may have been carried out since; the warden does the rest
        await other.broker.reclaim(worker.epoch, proven=True)
        audit = await other.audit()
        assert (audit.waiting, audit.leased) == (1, 0)
        await worker.stop()  # its connections, too: a loop with open ones does not close
    del bench


async def test_leaving_now_waits_for_no_server(
    bench: Bench,
    make_server: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call is under way to a server that hangs, then it is asked to leave, and to leave now."""
    from workbench import Bench as Another  # noqa: PLC0415 - a second one, with a server of its own

    server = make_server()
    asked = asyncio.Event()

    async def unanswered(*_args: Any, **_options: Any) -> None:  # noqa: ANN401 - as what it stands for
        asked.set()
        await asyncio.sleep(60)

    async with Another(server.url, "x", poll_interval_s=0.1) as other:
        other.app.task(name="t")(lambda: None)
        worker = await other.worker()
        monkeypatch.setattr(worker.broker, "dequeue", unanswered)
        other.redis.lpush(other.keys.wake(place("normal")), 1)
        await asyncio.wait_for(asked.wait(), 5)
        with server.frozen():
            first = asyncio.ensure_future(worker.worker.stop(30.0))
            await asyncio.sleep(0.05)
            began = time.monotonic()
            await asyncio.wait_for(worker.worker.stop(0.0), 5)
            assert time.monotonic() - began < 2
            await first
        worker._stopped = True
        await worker.transport.close()
        await worker.wake_transport.close()
        await other.broker.reclaim(worker.epoch, proven=True)
    del bench


async def test_nothing_begins_once_it_is_asked_to_leave(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has not begun goes back before anything is waited for, and nothing else begins."""
    gate = asyncio.Event()
    begun: list[str] = []

    async def t() -> None:
        begun.append(current_job().id)
        if len(begun) > 200:
            await gate.wait()

    task = bench.app.task(name="t")(t)
    await bench.app.client.submit_many({"name": "t"} for _ in range(600))
    worker = await bench.worker(worker_concurrency=2)
    await until(lambda: len(begun) == 202)
    hangs = asyncio.Event()

    async def never(_within_s: float) -> None:
        await hangs.wait()

    monkeypatch.setattr(worker.worker._fetcher, "stop", never)
    stopping = asyncio.ensure_future(worker.stop(10.0))

    async def back() -> bool:
        return (await bench.audit()).leased == 2

    await until(back)
    gate.set()
    await until(lambda: not worker.worker._loop_lane.running())
    assert len(begun) == 202
    hangs.set()
    await stopping
    del task


async def test_the_lifespan_ends_before_the_jobs_are_given_back(bench: Bench) -> None:
    """What it closes may still be in use by them; one that never ends does not hold up the end."""
    seen: list[int] = []
    started = threading.Event()
    release = threading.Event()

    def t() -> None:
        started.set()
        assert release.wait(30)

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        yield
        seen.append((await bench.audit()).leased)
        release.set()
        await asyncio.sleep(60)

    task = bench.app.task(name="t")(t)
    await task.enqueue()
    worker = await bench.worker()
    await worker.worker._stack.enter_async_context(life())
    await until(started.is_set)
    began = time.monotonic()
    stopping = asyncio.ensure_future(worker.worker.stop(0.1))
    await until(lambda: seen == [1])
    await asyncio.wait_for(worker.worker.stop(0.0), 5)
    assert time.monotonic() - began < 5
    await stopping
