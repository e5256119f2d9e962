"""Row 43: keys are deleted by hand or overwritten with another type, one after the other, or all.

Worker and warden live through each; the doctor tells, and its repair brings back what the
records still tell.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from bananas.cli.checkup import examine
from bananas.keys import Keys, place
from whereabouts import look
from workbench import Bench, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from servers import Server
    from workbench import Running

NORMAL = place("normal")
WAITING = {f"waits{n}" for n in range(6)}  # more than a worker holds ahead by calls of one job

FIXED: dict[str, Callable[[Keys], str]] = {
    "waiting": lambda keys: keys.waiting(NORMAL),
    "wake": lambda keys: keys.wake(NORMAL),
    "scheduled": lambda keys: keys.scheduled,
    "dead": lambda keys: keys.dead,
    "epochs": lambda keys: keys.epochs,
    "counters": lambda keys: keys.counters,
    "places": lambda keys: keys.places(),
    "workers": lambda keys: keys.workers,
    "crashes": lambda keys: keys.crashes,
    "cancelled": lambda keys: keys.cancelled,
    "specials": lambda keys: keys.specials,
    "specials_version": lambda keys: keys.specials_version,
}


class Scenery:
    """A queue with a job in every state, a worker that holds one, and a warden."""

    def __init__(self, bench: Bench) -> None:
        """Prepare."""
        self.bench = bench
        self.go_on = asyncio.Event()
        self.ran: list[str] = []

    async def build(self) -> Running:
        """Fill the queue; returns the worker."""
        bench, app = self.bench, self.bench.app

        @app.task(result=True)
        async def good(name: str) -> str:
            self.ran.append(name)
            return name

        @app.task
        async def held() -> None:
            self.ran.append("held")
            await self.go_on.wait()

        @app.task(max_retries=1)
        async def bad() -> None:
            raise ValueError("no")

        self.good = good
        worker = await bench.worker(worker_concurrency=1, sync_threads=1, dequeue_batch=1)
        self.warden = bench.warden()
        await (await good.enqueue(name="first")).result(timeout_s=10)
        failed = await bad.enqueue()
        await bench.status(failed.id, "failed")
        await held.enqueue()
        await until(lambda: "held" in self.ran)
        for name in sorted(WAITING):
            await good.enqueue(name=name)
        gone = await good.enqueue(name="cancelled")
        await gone.cancel()
        await good.options(delay_s=600).enqueue(name="later")
        # beats and reconciliation have all that they hold in the keys
        await until(lambda: bool(bench.redis.exists(bench.keys.epoch_leases(worker.epoch))))
        return worker

    async def works(self) -> None:
        """Wait until a new job has run."""
        name = f"probe{len(self.ran)}"
        await self.good.options(priority="high").enqueue(name=name)
        await until(lambda: name in self.ran)


@pytest.fixture
async def scenery(make_server: Callable[..., Server]) -> AsyncIterator[Scenery]:
    """Return a scenery on a server of its own; the test says itself what must balance."""
    server = make_server()
    bench = Bench(server.url, "k", lease_ttl_s=1.2, beat_interval_s=0.3, scheduler_interval_s=0.1)
    async with bench:
        yield Scenery(bench)
        bench.drift_allowed = (await bench.audit()).drift


def doctor(bench: Bench, *, mend: bool = False) -> Any:  # noqa: ANN401 - a report
    """Run the doctor with its audit."""
    return examine(bench.settings, audit=True, mend=mend)


def wrong(report: Any) -> list[str]:  # noqa: ANN401 - a report
    """Return what the doctor found wrong about the jobs and keys."""
    return [finding.what for finding in report.findings if finding.grade == "wrong"]


async def rest(scenery: Scenery, worker: Running) -> None:
    """End what runs, so that nothing moves any more."""
    scenery.go_on.set()
    await worker.stop(5)
    await scenery.warden.stop()


# What is made anew, or was only a hint, without any repair.
HEALS = ("wake", "epochs", "workers", "crashes", "cancelled", "specials", "specials_version")
# What takes jobs along, or the count of them, is told by the audit.
FEWER = "fewer than the counters say"
TELLS = {"waiting": FEWER, "scheduled": FEWER, "dead": FEWER, "lease": FEWER, "counters": "more"}
DELETED = [
    *(pytest.param(name, marks=pytest.mark.long) for name in HEALS if name != "epochs"),
    *("waiting", "scheduled", "dead", "epochs", "counters", "places"),
    *("lease", "epoch_leases", "everything"),
]


@pytest.mark.slow
@pytest.mark.parametrize("which", DELETED)
async def test_a_deleted_key_stops_nobody_and_is_made_good(scenery: Scenery, which: str) -> None:
    """New jobs run on; afterwards the doctor's repair leaves nothing lost that has a record."""
    bench = scenery.bench
    worker = await scenery.build()
    keys, redis = bench.keys, bench.redis
    if which == "everything":
        redis.flushall()
    elif which == "lease":
        for request in redis.smembers(keys.epoch_leases(worker.epoch)):  # type: ignore[union-attr]
            redis.delete(keys.lease(request.decode()))
    elif which == "epoch_leases":
        redis.delete(keys.epoch_leases(worker.epoch))
    else:
        redis.delete(FIXED[which](keys))
    if which in HEALS:
        await asyncio.sleep(0.5)  # a beat sees it
    scenery.go_on.set()
    await scenery.works()
    if which in HEALS:
        await until(lambda: {*scenery.ran} >= WAITING)
    assert not worker.worker.broken.is_set()
    assert not scenery.warden.broken.is_set()
    await rest(scenery, worker)

    if which in TELLS:
        told = wrong(await asyncio.to_thread(doctor, bench))
        assert any(TELLS[which] in what for what in told), told
    repaired = await asyncio.to_thread(doctor, bench, mend=True)
    assert wrong(repaired) == [w for w in wrong(repaired) if "no worker runs" in w]
    worker = await bench.worker()
    scenery.warden = bench.warden()
    await until(lambda: drained(bench))
    await rest(scenery, worker)
    seen = look(redis, keys)
    assert seen.problems() == []
    if which != "everything":
        assert {*scenery.ran} >= WAITING
        by_status = sorted(record["status"] for record, _ in seen.records.values())
        assert by_status.count("failed") == 1
        assert seen.places[next(iter(later(seen)))] == ["scheduled"]


def later(seen: Any) -> list[str]:  # noqa: ANN401 - whereabouts
    """Return the ids of jobs that are scheduled by their records."""
    return [
        job_id for job_id, (record, _) in seen.records.items() if record["status"] == "scheduled"
    ]


async def drained(bench: Bench) -> bool:
    """Tell whether nothing waits and nothing is leased."""
    audit = await bench.audit()
    return audit.waiting + audit.leased == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "which",
    [
        pytest.param(list(FIXED), id="all"),
        *(pytest.param([name], id=name, marks=pytest.mark.long) for name in FIXED),
    ],
)
async def test_keys_of_the_wrong_type_are_told_and_set_aside(
    scenery: Scenery, which: list[str]
) -> None:
    """Nobody ends over it; the doctor names each; after its repair all goes on by itself."""
    bench = scenery.bench
    worker = await scenery.build()
    redis = bench.redis
    keys = [FIXED[name](bench.keys) for name in which]
    for key in keys:
        redis.delete(key)
        if key == bench.keys.specials_version:
            redis.rpush(key, "x")
        else:
            redis.set(key, "not ours")
    await asyncio.sleep(1.0)  # every rhythm has met it
    assert not worker.worker.broken.is_set()
    assert not scenery.warden.broken.is_set()
    told = wrong(await asyncio.to_thread(doctor, bench))
    known = [key for key in keys if bench.keys.places() not in keys or "queue:normal" not in key]
    for key in known:  # which lists there are, the set of places says
        assert any(what.startswith(f"{key} is a ") for what in told), (key, told)

    repaired = await asyncio.to_thread(doctor, bench, mend=True)
    for key in keys:
        assert any(deed.startswith(f"{key} was a ") for deed in repaired.repaired), key
    scenery.go_on.set()
    await scenery.works()
    await until(lambda: {*scenery.ran} >= WAITING)
    assert not worker.worker.broken.is_set()
    assert not scenery.warden.broken.is_set()
    await rest(scenery, worker)
    await asyncio.to_thread(doctor, bench, mend=True)
    assert look(redis, bench.keys).problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("which", ["lease", "epoch_leases"])
async def test_leases_of_the_wrong_type_are_named_and_set_aside(
    scenery: Scenery, which: str
) -> None:
    """Not "the server cannot be used": the doctor names the key, and its repair mends it."""
    bench = scenery.bench
    worker = await scenery.build()
    redis, holds = bench.redis, bench.keys.epoch_leases(worker.epoch)
    requests: set[bytes] = redis.smembers(holds)  # type: ignore[assignment]
    keys = [bench.keys.lease(request.decode()) for request in requests]
    if which == "epoch_leases":
        keys = [holds]
    for key in keys:
        redis.delete(key)
        redis.set(key, "not ours")
    told = wrong(await asyncio.to_thread(doctor, bench))
    for key in keys:
        assert any(what.startswith(f"{key} is a string") for what in told), (key, told)

    repaired = await asyncio.to_thread(doctor, bench, mend=True)
    for key in keys:
        assert any(deed.startswith(f"{key} was a ") for deed in repaired.repaired), key
    scenery.go_on.set()
    await scenery.works()
    await until(lambda: {*scenery.ran} >= WAITING)
    assert not worker.worker.broken.is_set()
    assert not scenery.warden.broken.is_set()
    await rest(scenery, worker)
    await asyncio.to_thread(doctor, bench, mend=True)
    assert look(redis, bench.keys).problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["x", str(2**63 - 1)])
async def test_counters_that_are_no_numbers_stop_nobody(scenery: Scenery, odd: str) -> None:
    """Jobs are accepted, run and end; the doctor names the counters, and sets them right."""
    bench = scenery.bench
    worker = await scenery.build()
    redis, counters = bench.redis, bench.keys.counters
    names: list[bytes] = redis.hkeys(counters)  # type: ignore[assignment]
    redis.hset(counters, mapping=dict.fromkeys(names, odd))
    redis.hset(bench.keys.crashes, mapping={"first": odd})
    scenery.go_on.set()
    await scenery.works()
    await until(lambda: {*scenery.ran} >= WAITING)
    assert not worker.worker.broken.is_set()
    assert not scenery.warden.broken.is_set()
    await rest(scenery, worker)
    told = wrong(await asyncio.to_thread(doctor, bench))
    for name in names:
        assert any(what.startswith(f"the counter {name!r} is") for what in told), (name, told)

    repaired = await asyncio.to_thread(doctor, bench, mend=True)
    assert [what for what in wrong(repaired) if "no worker runs" not in what] == []
    assert look(redis, bench.keys).problems() == []
