"""What is asked for: each lane by its own room, nothing behind a gate that is closed."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from bananas.clock import SYSTEM_CLOCK
from bananas.keys import place
from bananas.worker.thread_lane import ThreadLane
from workbench import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workbench import Bench, Running

NORMAL = place("normal")


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Return what slow handlers wait for; it comes at the latest when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def blocking(release: threading.Event) -> Callable[[], None]:
    """Return a `def` handler that lasts until the event."""

    def slow() -> None:
        assert release.wait(30)

    return slow


def buffered(worker: Running) -> int:
    """Return how many units wait within a worker."""
    return len(worker.worker._loop_lane.waiting) + len(worker.worker._thread_lane.waiting)


# --- threads --------------------------------------------------------------------------------------


async def test_threads_that_rest_late_are_room_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that says so after its outcome was settled: the next job is fetched all the same."""
    inner = ThreadLane._report

    def late(lane: ThreadLane, unit: Any, end: Any) -> None:  # noqa: ANN401 - as what it stands for
        if unit is None:
            time.sleep(0.05)  # as when another thread holds the interpreter
        inner(lane, unit, end)

    monkeypatch.setattr(ThreadLane, "_report", late)
    ran: list[int] = []
    task = bench.app.task(name="t")(lambda: ran.append(1))
    await bench.worker(sync_threads=1, worker_concurrency=1, poll_interval_s=30.0)
    await asyncio.sleep(0.5)  # so that one job makes no pace by which more would be fetched ahead
    for _ in range(6):
        await task.enqueue()
    await until(lambda: len(ran) == 6, within_s=5)


async def test_a_long_sync_job_leaves_the_other_threads_to_others(
    bench: Bench, release: threading.Event
) -> None:
    """One thread of four is busy for long: jobs that come one by one run beside it, at once."""
    ran: list[float] = []
    slow = bench.app.task(name="slow")(blocking(release))
    short = bench.app.task(name="short")(lambda: ran.append(time.monotonic()))
    worker = await bench.worker(sync_threads=4)
    await slow.enqueue()
    await until(lambda: len(worker.slot.begun()) == 1)
    assert worker.worker._thread_lane.busy == 1
    for n in range(8):
        began = time.monotonic()
        await short.enqueue()
        await until(lambda n=n: len(ran) == n + 1, within_s=5)  # type: ignore[misc]
        assert ran[-1] - began < 1
    release.set()


# --- lanes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["async", "batch"])
async def test_a_full_lane_takes_nothing_from_anothers_room(
    bench: Bench, release: threading.Event, other: str
) -> None:
    """All threads are at long jobs, more of them wait: what runs on the loop goes on."""
    done: list[Any] = []

    async def on_loop() -> None:
        done.append(1)

    async def bunch(items: list[Any]) -> None:
        done.extend(items)

    slow = bench.app.task(name="slow")(blocking(release))
    if other == "async":
        quick: Any = bench.app.task(name="quick", priority="high")(on_loop)
    else:
        quick = bench.app.batch_task(name="quick", priority="high", max_size=5, linger_s=0.01)(
            bunch
        )
    for _ in range(12):
        await slow.enqueue()
    worker = await bench.worker(worker_concurrency=4, sync_threads=2, poll_interval_s=0.2)
    await until(lambda: len(worker.slot.begun()) == 2)
    for n in range(20):
        await (quick.enqueue(n) if other == "batch" else quick.enqueue())
    await until(lambda: len(done) == 20, within_s=5)

    async def left_to_others() -> bool:
        return (await bench.audit()).leased == 2 and buffered(worker) == 0

    await until(left_to_others)
    release.set()
    await bench.idle()


async def test_what_was_fetched_ahead_is_given_back_when_nothing_moves(
    bench: Bench, release: threading.Event
) -> None:
    """Quick jobs were fetched by the hundred, then every runner meets a long one."""
    gate = asyncio.Event()
    count: list[int] = []

    async def t() -> None:
        count.append(1)
        if len(count) > 300:
            await gate.wait()

    task = bench.app.task(name="t")(t)
    await bench.app.client.submit_many({"name": "t"} for _ in range(900))
    worker = await bench.worker(worker_concurrency=2)
    await until(lambda: len(count) == 302)
    assert buffered(worker) > 0, "nothing was fetched ahead: this test needs it"

    async def given_back() -> bool:
        return (await bench.audit()).leased == 2

    await until(given_back, within_s=5)
    await asyncio.sleep(0.3)
    assert await given_back(), "and not fetched again while nothing moves"
    gate.set()
    await task.enqueue()
    audit = await bench.idle()
    assert audit.counters["completed"] == 901
    del release


async def test_what_was_fetched_ahead_is_given_back_when_jobs_become_slow(bench: Bench) -> None:
    """Quick jobs were fetched by the hundred, then each takes its time: others may have some."""
    quick = asyncio.Event()
    count: list[int] = []

    async def t() -> None:
        count.append(1)
        if len(count) > 300:
            with suppress(TimeoutError):
                await asyncio.wait_for(quick.wait(), 0.1)

    bench.app.task(name="t")(t)
    await bench.app.client.submit_many({"name": "t"} for _ in range(2_000))
    worker = await bench.worker(worker_concurrency=2)
    worker.slot.lease_until_ns = SYSTEM_CLOCK.boot_ns() + 60_000_000_000
    await until(lambda: len(count) > 300)
    assert buffered(worker) > 100, "nothing was fetched ahead: this test needs it"

    async def given_back() -> bool:
        return (await bench.audit()).leased < 50

    await until(given_back, within_s=15)  # in which 300 more could be done
    quick.set()
    audit = await bench.idle()
    assert audit.counters["completed"] == 2_000


async def test_a_backlog_of_a_full_lane_is_not_fetched_to_be_given_back(bench: Bench) -> None:
    """The loop has nothing to do and would take jobs; all that wait are for threads."""
    release = threading.Event()
    slow = bench.app.task(name="slow")(lambda: release.wait(0.05))

    async def quick() -> None:
        """Never come."""

    bench.app.task(name="quick")(quick)
    await bench.app.client.submit_many({"name": "slow"} for _ in range(400))
    worker = await bench.worker(sync_threads=10)
    worker.slot.lease_until_ns = SYSTEM_CLOCK.boot_ns() + 60_000_000_000

    async def half() -> bool:
        return (await bench.counters()).get("completed", 0) >= 200

    await until(half, within_s=30)
    given_back = (await bench.counters()).get("released", 0)
    release.set()
    await bench.idle()
    assert given_back < 150
    del slow


async def test_items_of_bunches_make_no_room_for_single_jobs(bench: Bench) -> None:
    """Ten thousand items a second say nothing of jobs that take their time."""
    gate = asyncio.Event()

    async def single() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(gate.wait(), 0.2)

    async def many(items: list[Any]) -> None:
        """Be quick."""

    bench.app.task(name="single")(single)
    bench.app.batch_task(name="many", max_size=50, linger_s=0.0)(many)
    rows = [
        {"name": "single"} if n % 4 == 0 else {"name": "many", "payload": n} for n in range(4_000)
    ]
    await bench.app.client.submit_many(rows)
    worker = await bench.worker(worker_concurrency=4)
    worker.slot.lease_until_ns = SYSTEM_CLOCK.boot_ns() + 60_000_000_000
    most = 0

    async def some_done() -> bool:
        nonlocal most
        most = max(most, len(worker.worker._loop_lane.waiting))
        return worker.worker._outcomes.completed >= 500

    await until(some_done, within_s=30)
    gate.set()
    await bench.idle()
    assert most < 100


# --- the gate -------------------------------------------------------------------------------------


async def test_nothing_is_fetched_behind_a_suspect(bench: Bench) -> None:
    """While it runs alone the rest is left to others, what had been fetched and gathered too."""
    gate, begun, ran = asyncio.Event(), asyncio.Event(), []

    async def sus() -> None:
        begun.set()
        await gate.wait()

    async def t() -> None:
        ran.append("t")

    async def many(items: list[Any]) -> None:
        ran.extend(items)

    bench.app.task(name="sus")(sus)
    task = bench.app.task(name="t")(t)
    batch = bench.app.batch_task(name="b", max_size=50, linger_s=20.0)(many)
    worker = await bench.worker()
    for n in range(3):
        await batch.enqueue(n)
    await until(lambda: sum(side.gathered() for side in worker.worker._room.sides) == 3)
    bench.redis.hset(bench.keys.crashes, "s", 2)
    bench.push(b'{"id":"s","name":"sus","payload":{}}', "s")
    bench.redis.lpush(bench.keys.wake(NORMAL), 1)
    await asyncio.wait_for(begun.wait(), 5)

    async def alone() -> bool:
        return (await bench.audit()).leased == 1

    await until(alone)
    for _ in range(5):
        await task.enqueue()
    await asyncio.sleep(0.3)
    assert await alone()
    assert ran == []
    gate.set()
    await until(lambda: ran.count("t") == 5)
    await worker.stop()  # gives back what lingers
    assert (await bench.audit()).waiting == 3


async def test_nothing_is_fetched_on_a_lease_that_has_ended(bench: Bench) -> None:
    """Without a beat the jobs are for those who have one; with it, work goes on."""
    ran: list[int] = []

    async def t() -> None:
        ran.append(1)

    task = bench.app.task(name="t")(t)
    worker = await bench.worker()
    worker.slot.lease_until_ns = SYSTEM_CLOCK.boot_ns() - 1
    await until(lambda: worker.worker._gate.held)
    for _ in range(20):
        await task.enqueue()
    # one call may have been under way when the lease ended: what it brings goes back

    async def untouched() -> bool:
        audit = await bench.audit()
        return (audit.waiting, audit.leased) == (20, 0)

    await until(untouched)
    await asyncio.sleep(0.2)
    assert await untouched()
    assert ran == []
    worker.slot.lease_until_ns = SYSTEM_CLOCK.boot_ns() + 60_000_000_000
    await until(lambda: len(ran) == 20)


@pytest.mark.parametrize("kind", ["async", "sync", "gathered", "bunch"])
async def test_what_expires_while_it_waits_here_does_not_begin(
    bench: Bench, release: threading.Event, kind: str
) -> None:
    """It was in time when it was fetched and is not when a runner has room: it is dropped."""
    ran: list[Any] = []
    slow: Any = bench.app.task(name="slow")(blocking(release))
    if kind in {"async", "sync"}:

        async def on_loop() -> None:
            ran.append("t")

        task: Any = bench.app.task(name="t")(
            on_loop if kind == "async" else (lambda: ran.append("t"))
        )
    else:

        def many(items: list[Any]) -> None:
            ran.extend(items)

        linger_s = 20.0 if kind == "gathered" else 0.0
        task = bench.app.batch_task(name="t", max_size=2, linger_s=linger_s)(many)
    worker = await bench.worker(sync_threads=1, worker_concurrency=1)
    if kind in {"sync", "bunch"}:
        await slow.enqueue()
        await until(lambda: len(worker.slot.begun()) == 1)
    elif kind == "async":
        worker.worker._loop_lane.hold()
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=0.4)
    args: list[Any] = [7] if kind in {"gathered", "bunch"} else []
    side = worker.worker._room.ways["t"].side
    side.take_hoard = side.take_items = list  # type: ignore[method-assign] # it stays where it came
    worker.worker._room.wanted = lambda: 5  # type: ignore[method-assign]
    job = await task.options(expires_at=soon).enqueue(*args)
    await until(lambda: bool(worker.worker._intake.expiring))

    async def expired() -> bool:
        return (await bench.counters()).get("expired") == 1

    await until(expired, within_s=3)
    assert (await bench.job(job.id)).status == "cancelled"
    release.set()
    worker.worker._loop_lane.unhold()
    await bench.idle()
    assert ran == []
