"""Whom a worker serves and in which order: priorities, routing keys, modes, prefetch, wake-up."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from bananas.app import Bananas
from bananas.clock import SYSTEM_CLOCK
from bananas.ids import IdMaker
from bananas.keys import place
from workbench import until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from workbench import Bench

_ids = IdMaker(SYSTEM_CLOCK)


@pytest.fixture
def order(bench: Bench) -> list[Any]:
    """Return the marks of the jobs of task `t` in the order of their starts."""
    marks: list[Any] = []

    async def t(mark: Any) -> None:  # noqa: ANN401
        marks.append(mark)
        await asyncio.sleep(0)

    bench.app.task(name="t")(t)
    return marks


async def submit(bench: Bench, mark: object, **options: Any) -> None:  # noqa: ANN401
    """Enqueue a job of task `t`."""
    await bench.app.client.submit("t", {"mark": mark}, **options)


async def test_priorities_are_strict_and_each_is_first_in_first_out(
    bench: Bench, order: list[Any]
) -> None:
    """All of high, then all of normal, then all of low, each in the order of submission."""
    for n in range(40):
        for priority in ("low", "normal", "high"):
            await submit(bench, [priority, n], priority=priority)
    await bench.worker(worker_concurrency=1)
    await bench.idle()
    assert order == [[p, n] for p in ("high", "normal", "low") for n in range(40)]


@pytest.mark.parametrize("by", ["key", "priority"])
async def test_several_routing_keys_have_an_order(bench: Bench, order: list[Any], by: str) -> None:
    """Keys in the worker's order and priorities within; or priority first, across keys."""
    for key in ("default", "gpu"):
        for priority in ("normal", "high"):
            await submit(bench, [key, priority], priority=priority, routing_key=key)
    await bench.worker(
        worker_concurrency=1, worker_routing_keys=("gpu", "default"), routing_order=by
    )
    await bench.idle()
    wanted = [["gpu", "high"], ["gpu", "normal"], ["default", "high"], ["default", "normal"]]
    if by == "priority":
        wanted[1], wanted[2] = wanted[2], wanted[1]
    assert order == wanted


async def test_a_key_that_nobody_serves_waits(bench: Bench, order: list[Any]) -> None:
    """A worker touches no list of another routing key."""
    await submit(bench, "other", routing_key="other")
    await submit(bench, "mine")
    await bench.worker()
    await until(lambda: order == ["mine"])
    await asyncio.sleep(0.2)  # it would have been taken by now
    assert order == ["mine"]
    assert (await bench.audit()).waiting == 1


async def test_a_specialized_worker_takes_its_priorities_alone(
    bench: Bench, order: list[Any]
) -> None:
    """`worker_priorities=high,low` leaves the normal ones to others."""
    for priority in ("low", "normal", "high"):
        await submit(bench, priority, priority=priority)
    worker = await bench.worker(
        worker_mode="specialized", worker_priorities=("low", "high"), worker_concurrency=1
    )
    await until(lambda: len(order) == 2)
    assert order == ["high", "low"]
    assert (await bench.audit()).waiting == 1
    await worker.stop()


async def test_a_high_job_is_begun_before_what_is_fetched_later(
    bench: Bench, order: list[Any]
) -> None:
    """Each fetch begins at the highest priority: a late high job passes waiting low ones."""
    for n in range(300):
        await submit(bench, n, priority="low")
    await bench.worker(worker_concurrency=1, dequeue_batch=10)
    await until(lambda: len(order) >= 5)
    await submit(bench, "now", priority="high")
    await until(lambda: "now" in order)
    assert order.index("now") < 300
    await bench.idle()


# --- prefetch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_slow_jobs_are_not_hoarded(bench: Bench, kind: str) -> None:
    """A worker of slow jobs leases what it runs and no more: a neighbour gets the rest."""
    gate = asyncio.Event()
    held = SYSTEM_CLOCK.mono_s() + 30

    async def slow() -> None:
        await gate.wait()

    def slow_sync() -> None:
        while not gate.is_set() and SYSTEM_CLOCK.mono_s() < held:
            time.sleep(0.005)

    task: Any = bench.app.task(name="t")(slow if kind == "async" else slow_sync)
    for _ in range(20):
        await task.enqueue()
    first = await bench.worker(worker_concurrency=4)
    await until(lambda: len(first.slot.begun()) == 4)
    await asyncio.sleep(0.3)
    assert (await bench.audit()).leased == 4
    second = await bench.worker(worker_concurrency=4)
    await until(lambda: len(second.slot.begun()) == 4)
    gate.set()
    await bench.idle()


async def test_a_full_lane_hoards_nothing_because_another_is_idle(bench: Bench) -> None:
    """With tasks of every kind: jobs that wait for runners are left to a worker that has some."""
    gate = asyncio.Event()
    started: list[str] = []

    async def slow() -> None:
        started.append("slow")
        await gate.wait()

    def plain() -> None:
        started.append("plain")

    async def many(_items: list[Any]) -> None:
        started.append("many")

    task = bench.app.task(name="t")(slow)
    thread = bench.app.task(name="s", priority="low")(plain)
    batch = bench.app.batch_task(name="b", priority="low")(many)
    ids = [(await task.enqueue()).id for _ in range(12)]
    first = await bench.worker(worker_concurrency=4)
    await until(lambda: len(first.slot.begun()) == 4)

    key = bench.keys.waiting(place("normal"))
    for _ in range(3):  # it looks again now and then, and leaves them as they were
        await until(lambda: [i.decode() for i in bench.redis.lrange(key, 0, -1)] == ids[:3:-1])
        await asyncio.sleep(0.12)
    second = await bench.worker(worker_concurrency=4)
    third = await bench.worker(worker_concurrency=4)
    await until(lambda: len(started) == 12)
    assert len(second.slot.begun()) == len(third.slot.begun()) == 4
    await thread.enqueue()
    await until(lambda: "plain" in started)
    gate.set()
    await batch.enqueue(1)
    await bench.idle()


async def test_fast_jobs_are_fetched_ahead(bench: Bench, order: list[Any]) -> None:
    """No-op jobs come in batches: far fewer fetches than jobs."""
    await bench.app.client.submit_many({"name": "t", "payload": {"mark": n}} for n in range(3000))
    worker = await bench.worker()
    before = worker.transport.counters
    await bench.idle()
    assert len(order) == 3000
    assert order == sorted(order)
    del before


async def test_a_worker_of_batch_tasks_fetches_whole_bunches(bench: Bench) -> None:
    """A batch handler gets full bunches when there is enough."""
    sizes: list[int] = []

    async def load(items: list[int]) -> None:
        sizes.append(len(items))

    task = bench.app.batch_task(name="b", max_size=100, linger_s=0.2)(load)
    await task.enqueue_many(range(1000))
    await bench.worker()
    await bench.idle()
    assert sum(sizes) == 1000
    assert len(sizes) <= 14


# --- waking up --------------------------------------------------------------------------------


async def test_an_idle_worker_begins_a_job_at_once(bench: Bench) -> None:
    """No polling lies between a submission and its start; the median is far below one poll."""
    starts: list[float] = []

    async def t() -> None:
        starts.append(time.perf_counter())

    task = bench.app.task(name="t", retention_s=0)(t)
    await bench.worker(poll_interval_s=5.0)
    waits: list[float] = []
    for n in range(50):
        await bench.idle()
        began = time.perf_counter()
        await task.enqueue()
        await until(lambda n=n: len(starts) == n + 1)  # type: ignore[misc]
        waits.append(starts[-1] - began)
    assert sorted(waits)[25] < 0.02


async def test_a_foreign_push_is_noticed_when_the_promoter_looks(bench: Bench) -> None:
    """Others leave no marker; the promoter does it for them, after half a second at most."""
    starts: list[float] = []

    async def t() -> None:
        starts.append(time.monotonic())

    bench.app.task(name="t")(t)
    bench.warden()
    await bench.worker(poll_interval_s=10.0)
    await asyncio.sleep(0.3)  # so that the worker blocks
    for n in range(5):
        job_id = _ids.new_id()
        began = time.monotonic()
        bench.push(json.dumps({"id": job_id, "name": "t", "payload": {}}).encode(), job_id)
        await until(lambda n=n: len(starts) == n + 1)  # type: ignore[misc]
        assert starts[-1] - began < 1.0
    await bench.idle()


async def test_a_lost_wake_up_costs_one_poll_interval(bench: Bench) -> None:
    """A marker that somebody took away delays a job by the poll interval, nothing else (row 46)."""
    started = asyncio.Event()

    async def t() -> None:
        started.set()

    task = bench.app.task(name="t")(t)
    await bench.worker(poll_interval_s=0.3)
    await asyncio.sleep(0.1)
    key = bench.keys.wake(place("normal"))
    with bench.redis.pipeline(transaction=True) as pipe:
        job_id = _ids.new_id()
        pipe.set(bench.keys.job(job_id), json.dumps({"id": job_id, "name": "t", "payload": {}}))
        pipe.lpush(bench.keys.waiting(place("normal")), job_id)
        pipe.delete(key)
        pipe.execute()
    await asyncio.wait_for(started.wait(), 3)
    await bench.idle()
    del task


async def test_a_burst_wakes_every_worker_that_it_can_feed(bench: Bench) -> None:
    """Whoever takes less than everything leaves the marker for the next idle worker."""
    gate = asyncio.Event()

    async def t() -> None:
        await gate.wait()

    bench.app.task(name="t")(t)
    workers = [await bench.worker(worker_concurrency=2, poll_interval_s=10.0) for _ in range(3)]
    await asyncio.sleep(0.2)
    await bench.app.client.submit_many({"name": "t", "payload": {}} for _ in range(6))
    await until(lambda: all(len(w.slot.begun()) == 2 for w in workers), within_s=5)
    gate.set()
    await bench.idle()


# --- job-specialized -----------------------------------------------------------------------------


def special(bench: Bench) -> tuple[Bananas, list[Any]]:
    """Return an application that knows the task `mine`, and the marks of its runs."""
    app, marks = Bananas(settings=bench.settings), []

    async def mine(mark: Any) -> None:  # noqa: ANN401
        marks.append(mark)

    app.task(name="mine")(mine)
    return app, marks


SPECIAL: dict[str, Any] = {"worker_mode": "job-specialized", "worker_job_types": ("mine",)}


async def test_a_specialist_takes_its_tasks_and_nothing_else(bench: Bench) -> None:
    """Own and foreign jobs of its tasks are found among others; those stay as they were."""
    app, marks = special(bench)
    others: list[str] = []
    for n in range(20):
        others.append((await bench.app.client.submit("other", {"n": n})).id)
        await bench.app.client.submit("mine", {"mark": n})
    job_id = _ids.new_id()
    record = {"id": job_id, "name": "mine", "payload": {"mark": "foreign"}}
    bench.push(json.dumps(record).encode(), job_id)
    worker = await bench.worker(app, **SPECIAL)
    await bench.app.client.submit("mine", {"mark": "late"})
    await until(lambda: len(marks) == 22)
    assert [m for m in marks if isinstance(m, int)] == list(range(20))
    await worker.stop()
    normal = place("normal")
    waiting = [
        *bench.redis.lrange(bench.keys.waiting(normal), 0, -1),  # type: ignore[misc]
        *bench.redis.lrange(bench.keys.sorted(normal), 0, -1),  # type: ignore[misc]
    ]
    assert [job_id.decode() for job_id in reversed(waiting)] == others
    for job in await bench.app.client.get_jobs(others):
        assert job is not None
        assert (job.status, job.attempts, job.unclaimed) == ("pending", 0, 0)


async def test_a_specialist_behind_a_hundred_thousand_foreign_jobs(bench: Bench) -> None:
    """Its job is found in bounded time and calls; the foreign ones keep order and status."""
    app, marks = special(bench)
    count = 100_000
    ids = _ids.new_ids(count)
    key, prefix = bench.keys.waiting(place("normal")), bench.keys.job_prefix
    with bench.redis.pipeline(transaction=False) as pipe:
        for begin in range(0, count, 5000):
            part = ids[begin : begin + 5000]
            records = {
                f"{prefix}{i}": f'{{"id":"{i}","name":"other","payload":{{}}}}' for i in part
            }
            pipe.mset(records)
            pipe.lpush(key, *part)
        pipe.execute()
    mine = _ids.new_id()
    bench.push(json.dumps({"id": mine, "name": "mine", "payload": {"mark": 1}}).encode(), mine)
    calls_before = int(bench.redis.info("stats")["total_commands_processed"])
    began = time.monotonic()
    worker = await bench.worker(app, **SPECIAL)
    await until(lambda: marks == [1], within_s=20)
    took_s = time.monotonic() - began
    # once sorted, the next one is found at once
    calls = int(bench.redis.info("stats")["total_commands_processed"]) - calls_before
    assert calls < 40 * (count // 500)
    assert took_s < 15
    began = time.monotonic()
    await bench.app.client.submit("mine", {"mark": 2})
    await until(lambda: marks == [1, 2])
    assert time.monotonic() - began < 1
    await worker.stop()
    left = [
        *bench.redis.lrange(key, 0, -1),  # type: ignore[misc]
        *bench.redis.lrange(bench.keys.sorted(place("normal")), 0, -1),  # type: ignore[misc]
    ]
    assert [i.decode() for i in reversed(left)] == ids
    bench.drift_allowed = count


async def test_general_workers_serve_the_special_lists_too(bench: Bench) -> None:
    """A general worker that knows the task helps the specialist."""
    app, marks = special(bench)
    general: list[Any] = []

    async def mine(mark: Any) -> None:  # noqa: ANN401
        general.append(mark)

    bench.app.task(name="mine")(mine)
    specialist = await bench.worker(app, **SPECIAL)
    await specialist.stop()
    await bench.broker.specialise(60, ["mine"])
    for n in range(10):
        await bench.app.client.submit("mine", {"mark": n})
    assert bench.redis.llen(bench.keys.waiting(place("normal", task="mine"))) == 10
    await bench.worker()
    await until(lambda: general == list(range(10)))
    assert marks == []


async def test_jobs_come_back_when_no_specialist_is_left(bench: Bench) -> None:
    """When its claim lapses, what waits in a task's own lists is common again, in order."""
    app, _ = special(bench)
    general: list[Any] = []

    async def other(n: int) -> None:
        general.append(n)

    async def mine(mark: Any) -> None:  # noqa: ANN401
        general.append(mark)

    bench.app.task(name="other")(other)
    specialist = await bench.worker(app, lease_ttl_s=1.1, beat_interval_s=0.5, **SPECIAL)
    await specialist.stop()
    for n in range(5):
        await bench.app.client.submit("mine", {"mark": n})
    own = bench.keys.waiting(place("normal", task="mine"))
    assert bench.redis.llen(own) == 5
    warden = bench.warden()

    async def given_up() -> bool:
        await warden.pruner.give_up_lists()
        return bench.redis.llen(own) == 0

    await until(given_up, within_s=5)
    bench.app.task(name="mine")(mine)
    await bench.worker(worker_concurrency=1)
    await until(lambda: general == list(range(5)))


async def test_thin_mode_is_one_worker_with_its_warden(
    make_bench: Callable[..., Coroutine[Any, Any, Bench]],
) -> None:
    """A worker and a warden in one loop: due jobs are promoted and run."""
    bench = await make_bench(worker_mode="thin")
    done = asyncio.Event()

    async def t() -> None:
        done.set()

    task = bench.app.task(name="t")(t)
    await bench.worker()
    bench.warden()
    await task.options(delay_s=0.2).enqueue()
    await asyncio.wait_for(done.wait(), 5)
    await bench.idle()
