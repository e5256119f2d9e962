"""A record, an option, a defect may be anything: it costs one job, no process, no neighbour."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from bananas.context import current_job
from bananas.errors import FieldError
from bananas.keys import place
from bananas.worker.thread_lane import ThreadLane
from workbench import until

if TYPE_CHECKING:
    from workbench import Bench

KINDS = ["async", "sync", "inline"]
MOST = 2**53 - 1


def record(job_id: str, name: str = "t", **members: Any) -> bytes:  # noqa: ANN401 - hostile means any
    """Return a record as a foreign producer may write it."""
    return json.dumps({"id": job_id, "name": name, "payload": {}, **members}).encode()


def register(bench: Bench, kind: str, ran: list[str]) -> Any:  # noqa: ANN401 - a task of any kind
    """Register task "t" of a kind, which notes its runs."""

    async def on_loop() -> None:
        ran.append(current_job().id)

    def plain() -> None:
        ran.append(current_job().id)

    if kind == "async":
        return bench.app.task(name="t")(on_loop)
    return bench.app.task(name="t", inline=kind == "inline")(plain)


async def test_a_creation_date_of_year_one_is_only_a_long_wait(bench: Bench) -> None:
    """Go's zero time, again and again: each job runs, and the sums of waiting do not overflow."""
    ran: list[str] = []
    register(bench, "async", ran)
    worker = await bench.worker()
    for n in range(160):  # 6.3e10 s each: two thousand years were too much for 64 bits of us
        bench.push(record(f"j{n}", created_at="0001-01-01T00:00:00Z"), f"j{n}")
        bench.redis.lpush(bench.keys.wake(place("normal")), 1)
        await until(lambda n=n: len(ran) == n + 1)  # type: ignore[misc]
    assert not worker.worker.broken.is_set()
    assert worker.slot.wait_time.sum_s <= 160 * 1e7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "members",
    [
        {"timeout_s": 1e12},
        {"timeout_s": 1e308},
        {"attempts": MOST, "max_retries": MOST},
        {"unclaimed": MOST, "crashes": MOST},
    ],
)
async def test_numbers_beyond_reason_end_no_process(
    bench: Bench, kind: str, members: dict[str, Any]
) -> None:
    """The job runs, its end is written, and so does the next one."""
    ran: list[str] = []
    task = register(bench, kind, ran)
    worker = await bench.worker()
    bench.push(record("x", **members), "x")
    bench.redis.lpush(bench.keys.wake(place("normal")), 1)
    await bench.status("x", "completed")
    after = await task.enqueue()
    await bench.status(after.id, "completed")
    assert ran == ["x", after.id]
    assert not worker.worker.broken.is_set()


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 367 * 86_400.0, 0.0, -1.0])
async def test_a_limit_of_no_length_is_refused(bench: Bench, bad: float) -> None:
    """A soft limit lies above 0 and within a year."""
    with pytest.raises(FieldError, match="timeout_s"):
        bench.app.task(name="t", timeout_s=bad)(print)


@pytest.mark.parametrize("bad", [0.5, 3600.0, 10**17, -1, True])
async def test_a_retention_that_no_server_takes_is_refused(bench: Bench, bad: Any) -> None:  # noqa: ANN401
    """Whole seconds within ten years; anything else would be refused when the job is done."""
    with pytest.raises(FieldError, match="retention_s"):
        bench.app.task(name="t", retention_s=bad)(print)


@dataclass
class Row:
    """An item whose class raises what nobody expects of it."""

    a: int

    def __post_init__(self) -> None:
        """Refuse one value in an odd way."""
        if self.a == 13:
            raise LookupError("thirteen")


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_item_that_raises_when_it_is_made_is_dead_alone(bench: Bench, kind: str) -> None:
    """Its bunch goes on without it, whatever its class raises and however long its id is."""
    seen: list[int] = []

    async def on_loop(rows: list[Row]) -> None:
        seen.extend(row.a for row in rows)

    def plain(rows: list[Row]) -> None:
        seen.extend(row.a for row in rows)

    handler: Any = on_loop if kind == "async" else plain
    handler.__annotations__["rows"] = list[Row]
    task = bench.app.batch_task(name="t", max_size=4, linger_s=0.2)(handler)
    first, second = await task.enqueue(Row(1)), await task.enqueue(Row(2))
    bench.push(record("bad", payload={"a": 13}), "bad")
    # looks like one of ours, so that nobody checks its id but the board of runs
    long = "i" * 200
    bench.push(record(long, payload={"a": 3}, list="queue:normal"), long)
    bench.drift_allowed = 1  # it pretends to have been accepted
    worker = await bench.worker()
    for job in (first, second):
        await bench.status(job.id, "completed")
    await bench.status("bad", "failed")
    await bench.status(long, "failed")
    assert sorted(seen) == [1, 2]
    assert worker.slot.begun() == []
    assert not worker.worker.broken.is_set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["complete", "begin"])
async def test_a_defect_of_ours_fails_that_job_alone(
    bench: Bench, kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error where none may be: the runner goes on, nothing stays leased or noted as begun."""
    ran: list[str] = []
    task = register(bench, kind, ran)
    worker = await bench.worker(worker_concurrency=1, sync_threads=1)
    owner: Any = worker.worker._outcomes if where == "complete" else worker.worker._loop_lane._board
    inner, hit = getattr(owner, where), []

    def broken(*args: Any) -> Any:  # noqa: ANN401 - as what it stands for
        if not hit:
            hit.append(args)
            raise RuntimeError("a defect")
        return inner(*args)

    monkeypatch.setattr(owner, where, broken)
    first, second = await task.enqueue(), await task.enqueue()
    dead = await bench.status(first.id, "failed")
    assert "a defect" in str(dead.error)
    await bench.status(second.id, "completed")
    assert worker.slot.begun() == []
    assert not worker.worker.broken.is_set()
    await bench.idle()


async def test_a_defect_before_a_run_fails_that_job_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch goes on without the job that the first look fell over; its bytes are kept."""
    ran: list[str] = []
    task = register(bench, "async", ran)
    good = await task.enqueue()
    raw = record("x", expires_at="2100-01-01T00:00:00Z", color="blue")
    bench.push(raw, "x")
    worker = await bench.worker()

    def broken(_job: object) -> bool:
        raise RuntimeError("a defect")

    monkeypatch.setattr(worker.worker._intake, "too_late", broken)
    dead = await bench.status("x", "failed")
    assert dead.name == "t"
    assert bench.redis.get(bench.keys.job("x")) == raw
    await bench.status(good.id, "completed")
    assert not worker.worker.broken.is_set()


async def test_a_thread_that_ends_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread less would be work that waits for ever, unseen: the process is to be replaced."""
    ran: list[str] = []
    task = register(bench, "sync", ran)
    worker = await bench.worker(sync_threads=1)

    def broken(_lane: ThreadLane) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(ThreadLane, "_next", broken)
        await task.enqueue()
        await asyncio.wait_for(worker.worker.broken.wait(), 5)


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_an_id_that_is_pushed_again_after_its_end_stays_ended(
    bench: Bench, status: str
) -> None:
    """A producer's second LPUSH: no second run, no second count, the record as it was."""
    ran: list[str] = []

    async def once() -> None:
        ran.append(current_job().id)
        if status == "failed" and len(ran) == 1:
            raise ValueError("the first time")

    bench.app.task(name="t", retention_s=60, max_retries=1)(once)
    await bench.worker()
    bench.push(record("x", max_retries=1), "x")
    bench.redis.lpush(bench.keys.wake(place("normal")), 1)
    await bench.status("x", status)
    before = bench.redis.get(bench.keys.job("x"))
    bench.push(None, "x")
    bench.redis.lpush(bench.keys.wake(place("normal")), 1)
    audit = await bench.idle()
    assert ran == ["x"]
    assert audit.counters[status] == 1
    assert bench.redis.get(bench.keys.job("x")) == before


@pytest.mark.parametrize("started", [1, 0])
async def test_as_many_threads_as_there_is_room_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    """One thread does the work of four; where there is none, it is tried again (row 47)."""
    start = threading.Thread.start
    tries: list[str] = []

    def cramped(thread: threading.Thread) -> None:
        if thread.name.startswith("handler"):
            tries.append(thread.name)
            if started < len(tries) <= started + 1:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", cramped)
    names: set[str] = set()

    @bench.app.task(name="t")
    def t() -> None:
        names.add(threading.current_thread().name)

    jobs = [await t.enqueue() for _ in range(20)]
    await bench.worker(sync_threads=4)
    for job in jobs:
        await bench.status(job.id, "completed")
    assert names == {"handler 0"}
    assert tries == (["handler 0", "handler 1"] if started else ["handler 0", "handler 0"])
