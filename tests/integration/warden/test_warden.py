"""The warden's services on a real server: due jobs, the dead's jobs, retention, lists given up."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from bananas.clock import SYSTEM_CLOCK
from bananas.errors import Snooze
from bananas.ids import request_id
from bananas.keys import place
from bananas.table import SlotState
from bananas.warden.culprits import REASON, Culprits
from bananas.warden.promoter import REST_S, Promoter
from bananas.warden.pruner import Pruner
from workbench import until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from servers import Server
    from workbench import Bench


async def lease(bench: Bench, epoch: str, limit: int = 100) -> list[str]:
    """Lease what waits in the normal list under an epoch of a made-up process."""
    await bench.broker.register(epoch, 60.0, {}, ["queue:normal"])
    batch: Any = await bench.broker.dequeue(
        request_id(), epoch, ["queue:normal"], limit=limit, room_bytes=1 << 20
    )
    return [leased.job_id.decode() for leased in batch.jobs]


async def test_due_jobs_are_promoted_in_order_and_none_early(bench: Bench) -> None:
    """A thousand due at once, and one that is not: order by due time, then by id."""
    client = bench.app.client
    ids = [(await client.submit("t", delay_s=1)).id for _ in range(20)]
    many = await client.submit_many({"name": "t", "delay_s": 0.01} for _ in range(1500))
    later = await client.submit("t", delay_s=60)
    bench.warden()
    await until(lambda: bench.redis.llen(bench.keys.waiting(place("normal"))) == 1520)
    assert many.accepted == 1500
    assert bench.redis.zrange(bench.keys.scheduled, 0, -1) == [later.id.encode()]
    waiting = bench.redis.lrange(bench.keys.waiting(place("normal")), 0, -1)
    assert [i.decode() for i in waiting][:20] == ids[::-1]  # type: ignore[union-attr]
    assert (await bench.counters())["promoted"] == 1520


async def test_the_promoter_rests_while_there_is_nothing_to_find(bench: Bench) -> None:
    """Until a foreign push or a due job; and no pause outlasts the time until the next is due."""
    promoter = Promoter(bench.broker, [place("normal")], interval_s=0.1)
    await until(lambda: _has_paused(promoter, REST_S))
    bench.push(b'{"id":"f","name":"t","payload":{}}', "f")
    assert await promoter.promote() == 0.1
    await bench.app.client.submit("t", delay_s=30)
    assert await Promoter(bench.broker, (), interval_s=60.0).promote() <= 30
    await bench.app.client.submit("t", delay_s=0.01)
    await until(lambda: bench.redis.zcount(bench.keys.scheduled, 0, time.time()) == 1)
    assert await promoter.promote() == 0.1
    bench.drift_allowed = 1  # the foreign one


async def _has_paused(promoter: Promoter, pause_s: float) -> bool:
    return await promoter.promote() == pause_s


async def test_an_idle_warden_asks_little(
    make_bench: Callable[..., Coroutine[Any, Any, Bench]], make_server: Callable[..., Server]
) -> None:
    """Fewer than five calls a second, at the default rhythms, all its services together."""
    bench = await make_bench(make_server().url)
    warden = bench.warden(lease_ttl_s=15.0, beat_interval_s=3.0)
    rests = asyncio.Event()
    inner = warden.promoter.promote

    async def promote() -> float:
        wait_s = await inner()
        if wait_s == REST_S:
            rests.set()
        return wait_s

    warden.promoter.promote = promote  # type: ignore[method-assign]  # the real one, looked at
    await asyncio.wait_for(rests.wait(), 30)

    def calls() -> int:
        return int(bench.redis.info("commandstats")["cmdstat_evalsha"]["calls"])

    before = calls()
    await asyncio.sleep(4)  # what is looked at is how little happens in it
    assert calls() - before < 5 * 4


async def test_an_earlier_job_wakes_a_promoter_that_sleeps(bench: Bench) -> None:
    """It would look again in a minute; a job scheduled meanwhile, or again, is promoted in time."""
    runs = 0

    async def t() -> None:
        nonlocal runs
        runs += 1
        if runs % 2:
            raise Snooze(0.05)

    task = bench.app.task(name="t")(t)
    await bench.worker()
    bench.warden(promote_interval_s=60.0)
    await task.options(delay_s=3600).enqueue()
    for n in range(3):
        await task.options(delay_s=0.05).enqueue()
        await until(lambda n=n: runs == 2 * n + 2)  # type: ignore[misc]


async def test_the_dead_of_the_table_are_reclaimed_at_once(bench: Bench) -> None:
    """A slot that ended: its jobs wait again, those begun are charged, the slot is free."""
    jobs = [await bench.app.client.submit("t") for _ in range(3)]
    slot = bench.free_slot()
    slot.claim("worker", now_ns=time.monotonic_ns())
    slot.epoch = "e" * 32
    assert await lease(bench, slot.epoch) == [job.id for job in jobs]
    slot.begin(0, jobs[1].id.encode(), 0)
    warden = bench.warden(scheduler=False)
    slot.state = SlotState.EXITED
    warden.notice_death()
    await until(lambda: slot.state is SlotState.FREE)
    audit = await bench.audit()
    assert (audit.waiting, audit.leased) == (3, 0)
    crashes = {job.id: bench.redis.hget(bench.keys.crashes, job.id) for job in jobs}
    assert list(crashes.values()) == [None, b"1", None]


@pytest.mark.parametrize("runs_left", [True, False])
async def test_a_culprit_has_failed_a_run(bench: Bench, runs_left: bool) -> None:
    """Past its hard limit: retried by the settings' policy while runs are left, else failed."""
    client = bench.app.client
    bad = await client.submit("t", max_retries=2 if runs_left else 1, result=True)
    good = await client.submit("t")
    epoch = "e" * 32
    await lease(bench, epoch)
    culprits = Culprits(bench.broker, bench.settings, SYSTEM_CLOCK)
    assert await culprits.settle(epoch, [bad.id.encode(), b"unknown"]) == 1
    job = await bench.job(bad.id)
    assert (job.status, job.attempts, job.error) == (
        "scheduled" if runs_left else "failed",
        1,
        REASON,
    )
    assert bool(bench.result(bad.id)) is not runs_left
    assert (await bench.job(good.id)).status == "processing"
    assert await culprits.settle(epoch, [bad.id.encode()]) == 0, "once is enough"
    await bench.broker.reclaim(epoch, proven=True)


async def test_failed_jobs_are_dropped_after_their_retention(bench: Bench) -> None:
    """The dead-letter queue keeps a job for as long as the setting says, records included."""

    async def bad() -> None:
        raise ValueError

    task = bench.app.task(name="t", max_retries=1)(bad)
    await bench.worker()
    jobs = [await task.enqueue() for _ in range(3)]
    for job in jobs:
        await bench.status(job.id, "failed")
    warden = bench.warden()
    assert await warden.pruner.prune() == 0
    warden.pruner._retention_s = 0.0
    await asyncio.sleep(0.01)  # a failure of this very millisecond is not older than 0 s
    assert await warden.pruner.prune() == 3
    assert (await bench.audit()).dead == 0
    assert not bench.redis.exists(*(bench.keys.job(job.id) for job in jobs))


async def test_empty_places_that_nobody_serves_are_forgotten(bench: Bench) -> None:
    """A routing key a customer: what is used up goes, what is served or holds jobs stays."""
    from_now = Pruner(bench.broker, retention_failed_s=60.0)
    await bench.worker(worker_routing_keys=("default", "acme"))
    served = set(bench.redis.smembers(bench.keys.places()))
    used_up = [place("normal", f"customer-{number}") for number in range(5_000)]
    bench.redis.sadd(bench.keys.places(), *used_up)
    await bench.app.client.submit("t", routing_key="bravo")

    rounds = 0
    while bench.redis.scard(bench.keys.places()) > len(served) + 1:
        assert await from_now.forget_places() > 0 or rounds
        rounds += 1
        assert rounds < 50
    left = set(bench.redis.smembers(bench.keys.places()))
    assert left == {*served, place("normal", "bravo").encode()}
    assert rounds > 1, "no round looks at all of them"


@pytest.mark.parametrize("info", [b"{", b"[]", b'{"host":"old"}', b'{"routing_keys":5}'])
async def test_no_place_is_forgotten_while_a_worker_does_not_tell_what_it_serves(
    bench: Bench, info: bytes
) -> None:
    """Another version, or somebody's hand: it may serve any of them."""
    bench.redis.sadd(bench.keys.places(), place("normal", "acme"))
    bench.redis.hset(bench.keys.workers, "other", info)
    pruner = Pruner(bench.broker, retention_failed_s=60.0)
    assert await pruner.forget_places() == 0
    bench.redis.hdel(bench.keys.workers, "other")
    assert await pruner.forget_places() == 1


async def test_a_place_whose_name_is_no_text_keeps_no_other_from_its_turn(bench: Bench) -> None:
    """Somebody's hand again: lists are given up, places forgotten and learned beside it."""
    own, common = place("normal", "default", "alone"), place("normal")
    bench.redis.sadd(bench.keys.places(), b"\xff", own, place("normal", "acme"))
    bench.redis.lpush(bench.keys.waiting(own), "left")
    warden = bench.warden(scheduler=False)
    assert await warden.pruner.give_up_lists() == 1
    assert bench.redis.lrange(bench.keys.waiting(common), 0, -1) == [b"left"]
    assert await warden.pruner.forget_places() == 1
    await warden.promoter.learn_places()
    assert common in warden.promoter._served
    bench.drift_allowed = 1  # what another program pushed, before a worker settles it


async def test_lapsed_epochs_are_swept_after_one_lease(bench: Bench) -> None:
    """A host that nobody beats for: its jobs come back uncharged, one lease after our start."""
    jobs = [await bench.app.client.submit("t") for _ in range(3)]
    epoch = "e" * 32
    await bench.broker.register(epoch, 0.05, {}, ["queue:normal"])
    batch: Any = await bench.broker.dequeue(
        request_id(), epoch, ["queue:normal"], limit=10, room_bytes=1 << 20
    )
    assert len(batch.jobs) == 3
    began = time.monotonic()
    bench.warden(lease_ttl_s=1.2)

    async def back() -> bool:
        return (await bench.audit()).waiting == 3

    await until(back)
    assert time.monotonic() - began >= 1.2
    assert not bench.redis.hgetall(bench.keys.crashes)
    assert bench.redis.zscore(bench.keys.epochs, epoch) is None
    del jobs


async def test_a_culprit_whose_count_is_full_is_failed_like_any(bench: Bench) -> None:
    """A record may say any number of runs: it strands neither itself nor the next dead child."""
    record = b'{"id":"x","name":"t","payload":{},"attempts":9007199254740991,"max_retries":3}'
    bench.push(record, "x")
    slot = bench.free_slot()
    slot.claim("worker", now_ns=time.monotonic_ns())
    slot.epoch = "e" * 32
    assert await lease(bench, slot.epoch) == ["x"]
    slot.culprits = [b"x"]
    slot.exited_ns = slot.tick_ns = time.monotonic_ns()
    slot.state = SlotState.EXITED
    bench.warden(scheduler=False)
    dead = await bench.status("x", "failed")
    assert (dead.attempts, dead.error) == (9007199254740991, REASON)
    await until(lambda: slot.state is SlotState.FREE)


async def test_a_rhythm_outlives_a_defect(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody thought of costs one round; what is due later is still promoted."""
    warden = bench.warden()
    inner, raised = warden.promoter.promote, asyncio.Event()

    async def broken() -> float:
        if not raised.is_set():
            raised.set()
            raise RuntimeError("a defect")
        return await inner()

    monkeypatch.setattr(warden.promoter, "promote", broken)
    await asyncio.wait_for(raised.wait(), 5)
    await bench.app.client.submit("t", delay_s=0.01)
    await until(lambda: bench.redis.llen(bench.keys.waiting(place("normal"))) == 1)
    assert not warden.broken.is_set()


async def test_a_rhythm_that_ends_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of its rhythms a warden is of no use: the process is to be replaced."""

    class Odd(BaseException):
        """It passes by every `except Exception`."""

    async def broken() -> int:
        raise Odd

    warden = bench.warden()
    monkeypatch.setattr(warden.reclaimer, "reclaim_dead", broken)
    warden.notice_death()
    await asyncio.wait_for(warden.broken.wait(), 5)
    monkeypatch.undo()
