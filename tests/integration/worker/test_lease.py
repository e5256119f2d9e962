"""A lease that is lost, late or not known of: what was another's stays another's (I3, I5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from bananas.clock import SYSTEM_CLOCK
from bananas.context import current_job
from faults.proxy import Fault, FaultProxy
from workbench import until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from servers import Server
    from workbench import Bench


async def test_a_fenced_worker_takes_a_new_epoch_and_its_late_outcome_is_refused(
    bench: Bench,
) -> None:
    """The job runs again elsewhere; the first run's outcome is stale, counted, without effect."""
    gate = asyncio.Event()
    starts: list[int] = []

    async def t() -> int:
        starts.append(current_job().attempt)
        if len(starts) == 1:
            await gate.wait()
            return 1
        return 2

    task = bench.app.task(name="t", result=True)(t)
    first = await bench.worker()
    job = await task.enqueue()
    await until(lambda: starts == [1])
    old = first.epoch
    step = await bench.broker.reclaim(old, proven=True)
    assert step.moved == 1
    assert await job.result(timeout_s=10) == 2
    await until(lambda: first.epoch not in ("", old))
    gate.set()
    await until(lambda: first.slot.stale == 1)
    done = await bench.job(job.id)
    assert (done.status, done.attempts) == ("completed", 1)
    assert bench.result(job.id)[b"result"] == b"2"
    assert (await bench.counters())["completed"] == 1
    after = await task.enqueue()
    assert await after.result(timeout_s=5) == 2


async def test_waiting_jobs_of_a_lost_lease_are_forgotten(bench: Bench) -> None:
    """What a fenced worker had fetched and not begun is not begun by it under that lease."""
    gate = asyncio.Event()
    runs: list[str] = []

    async def t() -> None:
        runs.append(current_job().id)
        if len(runs) > 300:
            await gate.wait()

    task = bench.app.task(name="t")(t)
    for _ in range(1000):
        await task.enqueue()
    worker = await bench.worker(worker_concurrency=2)
    await until(lambda: len(runs) == 302)
    running = set(runs[300:])
    old = worker.epoch
    await bench.broker.reclaim(old, proven=True, limit=1000)
    await until(lambda: worker.epoch not in ("", old))
    gate.set()
    audit = await bench.idle()
    assert audit.counters["completed"] == 1000
    twice = {job_id for job_id in runs if runs.count(job_id) > 1}
    assert twice <= running, "only what ran when the lease was lost may have run twice"
    assert worker.slot.stale <= len(running)


@pytest.mark.parametrize("kind", ["async", "sync", "batch"])
async def test_nothing_begins_on_a_lease_that_has_ended_by_our_own_clock(
    bench: Bench, kind: str
) -> None:
    """While the table says that the lease is over, jobs wait; they begin when it is renewed."""
    runs: list[str] = []

    async def on_loop() -> None:
        runs.append(current_job().id)

    def in_thread() -> None:
        runs.append(current_job().id)

    def batched(items: list[Any]) -> None:
        runs.extend(map(str, items))

    if kind == "batch":
        task: Any = bench.app.batch_task(name="t", linger_s=0)(batched)
    else:
        task = bench.app.task(name="t")(on_loop if kind == "async" else in_thread)
    worker = await bench.worker()
    worker.slot.lease_until_ns = SYSTEM_CLOCK.boot_ns() - 1
    await asyncio.sleep(0.12)  # two ticks
    for n in range(5):
        await (task.enqueue(n) if kind == "batch" else task.enqueue())
    await asyncio.sleep(0.3)
    assert runs == []
    worker.slot.lease_until_ns = SYSTEM_CLOCK.boot_ns() + 60_000_000_000
    await until(lambda: len(runs) == 5)
    if kind != "batch":
        assert runs == sorted(runs)


async def test_a_worker_without_a_beat_stops_beginning_and_goes_on_when_it_comes(
    make_bench: Callable[..., Coroutine[Any, Any, Bench]],
) -> None:
    """No warden: the lease ends in the table; with one, work goes on under the same epoch."""
    bench = await make_bench(lease_ttl_s=1.1)
    runs: list[str] = []

    async def t() -> None:
        runs.append(current_job().id)

    task = bench.app.task(name="t")(t)
    worker = await bench.worker()
    epoch = worker.epoch
    await asyncio.sleep(1.3)
    await task.enqueue()
    await asyncio.sleep(0.3)
    assert runs == []
    bench.warden(scheduler=False)
    await until(lambda: len(runs) == 1)
    assert worker.epoch == epoch


async def test_a_lost_dequeue_answer_strands_nothing(
    first_server: Server, make_bench: Callable[..., Coroutine[Any, Any, Bench]]
) -> None:
    """The same request gives the same batch again: each job runs once, nothing stays leased."""
    runs: list[str] = []
    async with FaultProxy(first_server.socket) as proxy:
        bench = await make_bench()

        async def t() -> None:
            runs.append(current_job().id)

        task = bench.app.task(name="t")(t)
        await bench.worker(url=proxy.url, poll_interval_s=0.2)
        await bench.idle()
        for nth in range(1, 6):
            proxy.plan(Fault.CUT_AFTER, nth=nth, command=b"EVALSHA")
        ids = [(await task.enqueue()).id for _ in range(20)]
        await bench.idle()
        assert sorted(runs) == sorted(ids)


async def test_what_redis_holds_beyond_what_we_know_is_given_back(bench: Bench) -> None:
    """A batch whose answer was lost for good goes back to its queue at the next comparison."""
    runs: list[str] = []

    async def t() -> None:
        runs.append(current_job().id)

    task = bench.app.task(name="t")(t)
    jobs = [await task.enqueue() for _ in range(3)]
    worker = await bench.worker(worker_concurrency=1)
    await bench.idle()
    runs.clear()
    worker.worker.quiet()
    again = [await task.enqueue() for _ in range(3)]
    stolen = await bench.broker.dequeue(
        "f" * 32, worker.epoch, ["queue:normal"], limit=10, room_bytes=1 << 20
    )
    assert len(stolen.jobs) == 3  # type: ignore[union-attr]

    async def back() -> bool:
        audit = await bench.audit()
        return (audit.leased, audit.waiting) == (0, 3)

    await until(back)
    assert (await bench.counters())["reconciled"] == 3
    worker.worker._fetcher.closed = False
    worker.worker._fetcher.stir()
    await until(lambda: len(runs) == 3)
    assert runs == [job.id for job in again]
    del jobs


# --- suspects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync", "batch"])
async def test_a_suspect_runs_alone(bench: Bench, kind: str) -> None:
    """A job one death short of poison has no neighbour while it runs; then work goes on."""
    running: set[str] = set()
    beside: dict[str, set[str]] = {}
    gate = asyncio.Event()

    async def t(name: str = "") -> None:
        running.add(name)
        beside[name] = set(running)
        if name == "first":
            await gate.wait()
        await asyncio.sleep(0.02)
        beside[name] |= running
        running.discard(name)

    def plain(name: str = "") -> None:
        running.add(name)
        beside[name] = set(running)
        SYSTEM_CLOCK.mono_s()
        running.discard(name)

    def batched(items: list[str]) -> None:
        for item in items:
            plain(item)

    usual = bench.app.task(name="t")(t)
    if kind == "batch":
        task: Any = bench.app.batch_task(name="s", linger_s=0)(batched)
    else:
        task = bench.app.task(name="s")(t if kind == "async" else plain)
    bench.redis.hset(bench.keys.crashes, "suspect", 2)
    await bench.worker()
    first = await usual.enqueue(name="first")
    await until(lambda: "first" in running)
    task = task.options(id="suspect")
    suspect = await (task.enqueue("suspect") if kind == "batch" else task.enqueue(name="suspect"))
    others = [await usual.enqueue(name=str(n)) for n in range(5)]
    await asyncio.sleep(0.2)
    assert "suspect" not in beside
    gate.set()
    for job in (suspect, first, *others):
        await bench.status(job.id, "completed")
    assert beside["suspect"] == {"suspect"}
    assert not bench.redis.hexists(bench.keys.crashes, suspect.id)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_suspect_begins_when_what_ended_before_it_is_settled(
    bench: Bench, kind: str
) -> None:
    """Each suspect sees the outcome of the one before it in Redis: its death cannot undo it."""
    ids = [f"suspect-{n}" for n in range(8)]
    completed: dict[str, int] = {}

    def look(name: str) -> None:
        records = [bench.redis.get(bench.keys.job(job_id)) for job_id in ids]
        completed[name] = sum(b'"completed"' in record for record in records if record)

    async def look_async(name: str) -> None:
        look(name)

    task: Any = bench.app.task(name="t")(look if kind == "sync" else look_async)
    bench.redis.hset(bench.keys.crashes, mapping=dict.fromkeys(ids, 2))
    for job_id in ids:
        await task.options(id=job_id).enqueue(name=job_id)
    await bench.worker()
    for job_id in ids:
        await bench.status(job_id, "completed")
    assert sorted(completed.values()) == list(range(8))


async def test_a_long_neighbour_holds_up_a_suspect_only_so_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its patience a suspect runs beside it, and when it ends the others go on at once."""
    monkeypatch.setattr("bananas.worker.gate.PATIENCE_S", 0.2)
    gate = asyncio.Event()
    ended: list[str] = []

    async def t(name: str) -> None:
        if name == "long":
            await gate.wait()
        ended.append(name)

    task = bench.app.task(name="t")(t)
    await bench.worker()
    await task.enqueue(name="long")
    suspect = await bench.app.client.submit("t", {"name": "suspect"}, delay_s=0.3)
    bench.redis.hset(bench.keys.crashes, suspect.id, 2)
    bench.warden()
    await until(lambda: ended == ["suspect"])
    other = await task.enqueue(name="other")
    await bench.status(other.id, "completed")
    gate.set()
    await bench.idle()


async def test_poison_is_failed_without_a_run(bench: Bench) -> None:
    """A job that has taken down its process three times is not begun again."""
    ran: list[str] = []

    async def t() -> None:
        ran.append("t")

    task = bench.app.task(name="t")(t)
    job = await task.enqueue()
    bench.redis.hset(bench.keys.crashes, job.id, 3)
    await bench.worker()
    dead = await bench.status(job.id, "failed")
    assert dead.error == "poison: it took down its process 3 times"
    assert (ran, dead.attempts, dead.crashes) == ([], 0, 3)


async def test_a_suspect_waits_while_the_lease_is_over(bench: Bench) -> None:
    """A lease that ends between the look and the start of a suspect costs it nothing."""
    ran: list[str] = []

    async def t() -> None:
        ran.append("loop")

    def plain() -> None:
        ran.append("thread")

    tasks: list[Any] = [bench.app.task(name="a")(t), bench.app.task(name="s")(plain)]
    worker = await bench.worker()
    lanes = (worker.worker._loop_lane, worker.worker._thread_lane)
    worker.slot.lease_until_ns = SYSTEM_CLOCK.boot_ns() - 1
    for lane in lanes:
        lane.lease_until_s = 0.0
    jobs = [await task.options(delay_s=0.001).enqueue() for task in tasks]
    for job in jobs:
        bench.redis.hset(bench.keys.crashes, job.id, 2)
    bench.warden(scheduler=True).beat._ttl_s = 0.0
    await asyncio.sleep(0.3)
    assert ran == []
    worker.slot.lease_until_ns = SYSTEM_CLOCK.boot_ns() + 10**11
    await until(lambda: sorted(ran) == ["loop", "thread"])


async def test_a_death_is_no_failed_run(bench: Bench) -> None:
    """A neighbour of two crashes still has all its runs; each run has a number of its own."""
    seen: list[int] = []

    async def t() -> None:
        seen.append(current_job().attempt)
        raise ValueError

    task = bench.app.task(name="t", max_retries=2)(t)
    job = await task.enqueue()
    bench.redis.hset(bench.keys.crashes, job.id, 2)
    await bench.worker(retry_base_s=0.001, retry_jitter=0.0)
    bench.warden()
    dead = await bench.status(job.id, "failed")
    assert seen == [3, 4]
    assert (dead.attempts, dead.crashes) == (2, 2)


async def test_with_a_limit_of_one_death_nobody_is_a_suspect(bench: Bench) -> None:
    """Jobs without a crash run beside one another, whatever the limit."""
    together = asyncio.Barrier(4)

    async def t() -> None:
        await asyncio.wait_for(together.wait(), 5)

    task = bench.app.task(name="t", max_retries=1)(t)
    jobs = [await task.enqueue() for _ in range(4)]
    await bench.worker(poison_deaths=1, worker_concurrency=4)
    for job in jobs:
        assert (await bench.status(job.id, "completed", "failed")).status == "completed"


async def test_a_fenced_worker_stops_what_others_run(bench: Bench) -> None:
    """Its async handlers are cancelled and those in threads may ask; their outcome is refused."""
    told: list[str] = []
    started: list[str] = []

    async def on_loop() -> None:
        started.append("loop")
        if started.count("loop") > 1:
            return
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append(f"loop {current_job().cancelled}")
            raise

    def in_thread() -> None:
        started.append("thread")
        first = started.count("thread") == 1  # of a run's own: the second may have begun
        deadline_s = SYSTEM_CLOCK.mono_s() + 20
        while first or not told:
            if current_job().cancelled:
                told.append("thread True")
                return
            if SYSTEM_CLOCK.mono_s() > deadline_s:
                return

    tasks: list[Any] = [bench.app.task(name="a")(on_loop), bench.app.task(name="s")(in_thread)]
    worker = await bench.worker(sync_threads=2)
    jobs = [await task.enqueue() for task in tasks]
    await until(lambda: sorted(started) == ["loop", "thread"])
    await bench.broker.reclaim(worker.epoch, proven=True)
    await until(lambda: sorted(told) == ["loop True", "thread True"])
    for job in jobs:
        done = await bench.status(job.id, "completed")
        assert done.attempts == 1
    await until(lambda: worker.slot.stale == 2)
    assert (await bench.counters())["completed"] == 2


async def test_a_new_epoch_that_cannot_be_taken_is_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker without an epoch does nothing for ever: the process is to be replaced."""

    async def broken() -> None:
        raise RuntimeError("a defect")

    worker = await bench.worker()
    monkeypatch.setattr(worker.worker, "_take_epoch", broken)
    await bench.broker.reclaim(worker.epoch, proven=True)
    await asyncio.wait_for(worker.worker.broken.wait(), 5)


async def test_a_part_that_somebody_cancels_is_noticed(bench: Bench) -> None:
    """A job may cancel whatever task it finds: a process without its ticker is to be replaced."""
    worker = await bench.worker()
    (ticker,) = (task for task in asyncio.all_tasks() if task.get_name() == "ticker")
    ticker.cancel()
    await asyncio.wait_for(worker.worker.broken.wait(), 5)
