"""The dead-letter queue: pages, filters, groups, retry and deletion, one and all."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from bananas.client import Client
from bananas.errors import DecodeError, FieldError, JobNotFoundError, PayloadError, StateError
from bananas.settings import Settings
from scripted_worker import ScriptedWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis import Redis

    from servers import Server


@pytest.fixture
async def client(server: Server, prefix: str) -> AsyncIterator[Client]:
    """Return a connected client under a prefix of its own."""
    async with Client(settings=Settings(redis_url=server.url, key_prefix=prefix)) as client:
        yield client


@pytest.fixture
async def worker(client: Client) -> ScriptedWorker:
    """Return a worker that ends jobs as the test says."""
    return ScriptedWorker((await client.session()).broker)


async def bury(
    client: Client, worker: ScriptedWorker, count: int, name: str, error: str
) -> list[str]:
    """Make failed jobs; returns their ids in the order they failed."""
    report = await client.submit_many({"name": name, "payload": {"n": n}} for n in range(count))
    while taken := await worker.take(500):
        for job in taken:
            await worker.fail(job, error)
    return [verdict.id or "" for verdict in report.verdicts or []]


async def test_pages_hold_every_job_once(client: Client, worker: ScriptedWorker) -> None:
    """Following the cursors shows every failed job once, newest first or oldest first."""
    ids = await bury(client, worker, 57, "t", "ValueError: no")
    for newest_first in (True, False):
        found: list[str] = []
        cursor = ""
        while True:
            page = await client.dead(cursor=cursor, limit=10, newest_first=newest_first)
            found += [job.id for job in page.jobs]
            assert {job.status for job in page.jobs} <= {"failed"}
            cursor = page.cursor
            if not cursor:
                break
        assert sorted(found) == sorted(ids)
        assert len(found) == len(set(found))
    assert await client.dead_count() == 57


async def test_jobs_that_failed_together_are_told_apart(
    client: Client, worker: ScriptedWorker, redis: Redis, prefix: str
) -> None:
    """Pages are whole though all jobs have one and the same time, more than are read at once."""
    ids = await bury(client, worker, 350, "t", "no")
    redis.zadd(f"{prefix}:queue:dead", dict.fromkeys(ids, 1_700_000_000.123456))
    for newest_first in (True, False):
        found: list[str] = []
        cursor = ""
        while True:
            page = await client.dead(cursor=cursor, limit=64, newest_first=newest_first)
            found += [job.id for job in page.jobs]
            cursor = page.cursor
            if not cursor:
                break
        assert found == sorted(ids, reverse=newest_first)


async def test_pages_survive_changes_in_between(client: Client, worker: ScriptedWorker) -> None:
    """Jobs deleted or added between two pages neither hide nor repeat the others."""
    ids = await bury(client, worker, 30, "t", "no")
    first = await client.dead(limit=10)
    shown = [job.id for job in first.jobs]
    for job_id in shown[-3:]:
        await client.delete_dead(job_id)
    await bury(client, worker, 5, "t", "later")
    rest = await client.dead(limit=100, cursor=first.cursor)
    assert sorted(shown + [job.id for job in rest.jobs]) == sorted(ids)


async def test_filters_choose_by_task_and_error(client: Client, worker: ScriptedWorker) -> None:
    """Name and error narrow pages, counts, retries and deletions alike."""
    await bury(client, worker, 5, "a", "ValueError: one")
    await bury(client, worker, 7, "a", "KeyError: two\n  at line 3")
    await bury(client, worker, 2, "b", "ValueError: three")
    assert len((await client.dead(name="a")).jobs) == 12
    assert len((await client.dead(error="ValueError")).jobs) == 7
    assert len((await client.dead(name="b", error="one")).jobs) == 0
    assert await client.dead_count(name="a", error="two") == 7
    groups = [(group.name, group.error, group.count) for group in await client.dead_groups()]
    assert groups == [
        ("a", "KeyError: two", 7),
        ("a", "ValueError: one", 5),
        ("b", "ValueError: three", 2),
    ]
    assert await client.retry_dead(name="a", error="ValueError") == 5
    assert await client.delete_dead(error="three") == 2
    assert await client.dead_count() == 7
    assert (await client.stats())["drift"] == 0


async def test_a_wrong_cursor_or_limit_is_refused(client: Client) -> None:
    """A cursor that no page gave, and a limit out of range, are errors that name the field."""
    for cursor in ("nonsense", "1.5", "x:y", "nan:y", "1_0:y", " 1:y"):
        with pytest.raises(FieldError) as caught:
            await client.dead(cursor=cursor)
        assert caught.value.field == "cursor"
    for limit in (0, 1001):
        with pytest.raises(FieldError, match="limit"):
            await client.dead(limit=limit)


async def test_a_retried_job_starts_anew(client: Client, worker: ScriptedWorker) -> None:
    """Retrying puts the job back with all its runs before it, no error, no old result."""
    job = await client.submit("t", {"n": 1}, result=True, priority="high")
    (taken,) = await worker.take()
    await worker.fail(taken, "no")
    await client.retry(job.id)
    fresh = await client.get_job(job.id)
    assert (fresh.status, fresh.attempts, fresh.error) == ("pending", 0, None)
    assert await client.get_result(job.id) is None
    waiting = asyncio.ensure_future(job.result(timeout_s=10))
    (again,) = await worker.take()
    assert (again.id, again.place) == (job.id, "queue:high")
    await worker.complete(again, "well")
    assert await waiting == "well"
    assert (await client.stats())["drift"] == 0


async def test_a_retry_can_repair_the_payload(client: Client, worker: ScriptedWorker) -> None:
    """The payload can be replaced on the way, within the limits of any payload."""
    (job_id,) = await bury(client, worker, 1, "t", "no")
    with pytest.raises(PayloadError):
        await client.retry(job_id, payload={"n": float("nan")})
    await client.retry(job_id, payload={"n": 2})
    assert (await client.get_job(job_id)).payload == {"n": 2}


async def test_only_failed_jobs_are_retried(client: Client, worker: ScriptedWorker) -> None:
    """A job in any other state is left alone, and so is one that is not there."""
    job = await client.submit("t")
    with pytest.raises(StateError, match="is pending, not failed"):
        await client.retry(job.id)
    with pytest.raises(StateError, match="is not failed"):
        await client.delete_dead(job.id)
    with pytest.raises(JobNotFoundError):
        await client.retry("absent")
    await worker.take()
    with pytest.raises(StateError, match="is processing"):
        await client.retry(job.id)


async def test_a_retried_job_goes_where_it_belongs_now(
    client: Client, worker: ScriptedWorker, redis: Redis, prefix: str
) -> None:
    """If its task got lists of its own meanwhile, the job goes there."""
    (job_id,) = await bury(client, worker, 1, "t", "no")
    await worker.broker.specialise(60.0, ["t"])
    other = Client(settings=client.settings)  # knows nothing of it yet
    await other.retry(job_id)
    await other.aclose()
    assert redis.lrange(f"{prefix}:task:t:queue:normal", 0, -1) == [job_id.encode()]


async def test_an_expired_job_runs_all_the_same(client: Client, worker: ScriptedWorker) -> None:
    """A retry by hand is meant, though the job is past its expiry; a later expiry stands."""
    soon = await client.submit("t", expires_at="2020-01-01T00:00:00Z")
    late = await client.submit("t", expires_at="2999-01-01T00:00:00Z")
    for job in await worker.take():
        await worker.fail(job, "no")
    assert await client.retry_dead() == 2
    assert (await client.get_job(soon.id)).expires_at is None
    assert (await client.get_job(late.id)).expires_at == "2999-01-01T00:00:00.000000Z"


async def test_all_can_be_retried_and_deleted(client: Client, worker: ScriptedWorker) -> None:
    """All that match go back, oldest first, whatever their number; progress is told."""
    ids = await bury(client, worker, 1234, "t", "no")
    progress: list[int] = []
    assert await client.retry_dead(on_progress=progress.append) == 1234
    assert progress == [500, 1000, 1234]
    assert await client.dead_count() == 0
    taken = [job.id for job in await worker.take(1000)] + [
        job.id for job in await worker.take(1000)
    ]
    assert sorted(taken) == sorted(ids)
    await worker.broker.reclaim(worker.epoch, proven=True, limit=1000)
    assert (await client.stats())["drift"] == 0
    other = ScriptedWorker(worker.broker)
    await bury(client, other, 1234, "u", "no")
    progress.clear()
    count = await client.dead_count(name="u")
    assert await client.delete_dead(name="u", on_progress=progress.append) == count == 1234
    assert progress[-1] == 1234
    assert (await client.stats())["drift"] == 0


async def test_a_retry_can_be_slowed_down(client: Client, worker: ScriptedWorker) -> None:
    """At N a second, a retry of M jobs takes about M/N seconds."""
    await bury(client, worker, 60, "t", "no")
    began = time.perf_counter()
    assert await client.retry_dead(per_s=200) == 60
    assert 0.25 < time.perf_counter() - began < 5
    with pytest.raises(FieldError, match="per_s"):
        await client.retry_dead(per_s=0)


async def test_unreadable_jobs_are_shown_and_deleted_only(
    client: Client, redis: Redis, prefix: str
) -> None:
    """A dead id with a broken or missing record is listed; it cannot be retried, only deleted."""
    redis.set(f"{prefix}:job:broken", "nonsense")
    redis.zadd(f"{prefix}:queue:dead", {"broken": 1.0, "gone": 2.0})
    jobs = {job.id: job for job in (await client.dead()).jobs}
    assert "broken job record" in (jobs["broken"].error or "")
    assert jobs["gone"].error == "the record is missing"
    assert await client.retry_dead() == 0
    with pytest.raises(StateError, match="cannot be read"):
        await client.retry("broken")
    assert await client.delete_dead() == 2


async def test_an_id_that_is_no_text_hides_no_others(
    client: Client, worker: ScriptedWorker, redis: Redis, prefix: str
) -> None:
    """What a foreign producer called its job is shown as it can be, paged over, and deleted."""
    (ours,) = await bury(client, worker, 1, "t", "boom")
    odd = [b"", b"\xff\xfe", b"a b%", b"x\r\ny"]
    redis.zadd(f"{prefix}:queue:dead", dict.fromkeys(odd, 5.0))
    found: list[str] = []
    cursor = ""
    while True:
        page = await client.dead(cursor=cursor, limit=1, newest_first=False)
        found += [job.id for job in page.jobs]
        cursor = page.cursor
        if not cursor:
            break
    assert found == ["", "a b%", "x\r\ny", "\\xff\\xfe", ours]
    assert await client.delete_dead(error="missing") == len(odd)
    assert redis.zrange(f"{prefix}:queue:dead", 0, -1) == [ours.encode()]


LONG_IDS = [
    *(b"x" * size for size in (128, 160, 161, 300, 10_000, 1_000_000)),
    *(b"x" * 300 + end for end in (b"\0", b"*", b"\xff", b"\xff" * 300)),
    *(b"\xff" * size for size in (53, 54, 300, 10_000)),
]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_ids_of_any_length_are_paged_over(
    client: Client, redis: Redis, prefix: str, newest_first: bool
) -> None:
    """Each is shown once, whatever begins alike; a cursor fits into a query."""
    redis.zadd(f"{prefix}:queue:dead", dict.fromkeys(LONG_IDS, 1732454400.123456))
    found: list[str] = []
    cursor = ""
    while True:
        page = await client.dead(cursor=cursor, limit=1, newest_first=newest_first)
        found += [job.id for job in page.jobs]
        cursor = page.cursor
        assert len(cursor) <= 256
        if not cursor:
            break
    shown = [raw_id.decode("utf-8", "backslashreplace") for raw_id in sorted(LONG_IDS)]
    assert found == (shown[::-1] if newest_first else shown)


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_long_id_that_has_left_hides_no_others(
    client: Client, redis: Redis, prefix: str, newest_first: bool
) -> None:
    """A cursor that ends at one begins anew at the jobs that failed with it."""
    dead = f"{prefix}:queue:dead"
    ids = [bytes([letter]) * 300 for letter in b"abc"]
    redis.zadd(dead, {**dict.fromkeys(ids, 5.0), "before": 4.0, "after": 6.0})
    page = await client.dead(limit=3, newest_first=newest_first)
    last = "b" * 300
    assert page.jobs[-1].id == last
    redis.zrem(dead, last)
    rest = await client.dead(cursor=page.cursor, newest_first=newest_first)
    end = "before" if newest_first else "after"
    assert {job.id for job in rest.jobs} == {"a" * 300, "c" * 300, end}


async def test_an_order_for_one_job_is_not_carried_out_on_another(
    client: Client, worker: ScriptedWorker, redis: Redis, prefix: str
) -> None:
    """A record that carries another's id is a broken one: nothing is done to that other."""
    (ours,) = await bury(client, worker, 1, "t", "boom")
    record = redis.get(f"{prefix}:job:{ours}") or b""
    redis.set(f"{prefix}:job:evil", record.replace(b'"name":"t"', b'"name":"other"'))
    redis.zadd(f"{prefix}:queue:dead", {"evil": 5.0})
    assert await client.retry_dead(name="other") == 0
    assert await client.delete_dead(name="other") == 0
    assert (await client.get_job("evil")).name == ""
    assert await client.delete_dead(error="carries the id") == 1
    assert (await client.get_job(ours)).status == "failed"


async def test_a_result_that_is_none_is_told_so(
    client: Client, worker: ScriptedWorker, redis: Redis, prefix: str
) -> None:
    """What a stranger wrote in place of a result is an error that says so."""
    (job_id,) = await bury(client, worker, 1, "t", "boom")
    wrong = [("status", b"\xff"), ("status", b"sold"), ("duration_ms", b"x"), ("result", b"{")]
    for field, value in wrong:
        key = f"{prefix}:result:{job_id}"
        redis.delete(key)
        redis.hset(key, mapping={"status": b"completed", field: value})
        with pytest.raises(DecodeError):
            await client.get_result(job_id)
