"""The whole at a glance, against real servers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from bananas.client import Client
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


async def test_queues_are_listed_in_order(client: Client) -> None:
    """Every list shows its depth; those of the default key also when nothing was ever there."""
    empty = [(q.routing_key, q.priority, q.task, q.waiting) for q in await client.queues()]
    assert empty == [
        ("default", "high", None, 0),
        ("default", "normal", None, 0),
        ("default", "low", None, 0),
    ]
    await client.submit("t", priority="low")
    await client.submit("t", routing_key="gpu")
    await client.submit("t", routing_key="gpu")
    await (await client.session()).broker.specialise(60, ["a:queue:b"])
    await client.submit("a:queue:b", routing_key="gpu", priority="high")
    full = [(q.routing_key, q.priority, q.task, q.waiting) for q in await client.queues()]
    assert full == [
        ("default", "high", None, 0),
        ("default", "normal", None, 0),
        ("default", "low", None, 1),
        ("gpu", "high", "a:queue:b", 1),
        ("gpu", "normal", None, 2),
    ]


async def test_the_oldest_age_is_told_by_ids_and_records(
    client: Client, redis: Redis, prefix: str
) -> None:
    """A time-ordered id tells its age; a foreign id's record does, if it can."""
    await client.submit("t", priority="high")
    record = {"id": "theirs", "name": "t", "created_at": "2020-01-01T00:00:00Z"}
    redis.set(f"{prefix}:job:theirs", json.dumps(record))
    redis.lpush(f"{prefix}:queue:normal", "theirs")
    redis.lpush(f"{prefix}:queue:low", "gone")
    high, normal, low = await client.queues()
    assert high.oldest_age_s is not None
    assert 0 <= high.oldest_age_s < 60
    assert normal.oldest_age_s is not None
    assert abs(normal.oldest_age_s - (time.time() - 1_577_836_800)) < 60
    assert (low.waiting, low.oldest_age_s) == (1, None)


async def test_sorted_ids_are_older(client: Client, redis: Redis, prefix: str) -> None:
    """Ids that a worker looked through already are the ones next in turn."""
    redis.set(f"{prefix}:job:old", '{"id":"old","name":"t","created_at":"2020-01-01T00:00:00Z"}')
    redis.rpush(f"{prefix}:sorted:queue:normal", "old")
    await client.submit("t")
    normal = (await client.queues())[1]
    assert normal.oldest_age_s is not None
    assert normal.oldest_age_s > 1e8


async def test_stats_say_where_jobs_are(client: Client) -> None:
    """Counters and present numbers stand together, and they agree."""
    worker = ScriptedWorker((await client.session()).broker)
    for _ in range(3):
        await client.submit("t")
    await client.submit("t", delay_s=60)
    done, failed, _ = await worker.take()
    await worker.complete(done)
    await worker.fail(failed, "no")
    stats = await client.stats()
    expected = {
        "accepted": 4,
        "completed": 1,
        "failed": 1,
        "waiting": 0,
        "scheduled": 1,
        "leased": 1,
        "dead": 1,
        "drift": 0,
    }
    assert expected.items() <= stats.items()
    audit = await client.audit()
    assert (audit.scheduled, audit.leased, audit.dead) == (1, 1, 1)


async def test_workers_are_listed_with_their_leases(client: Client) -> None:
    """Each process epoch shows what it said of itself and how long its lease still holds."""
    broker = (await client.session()).broker
    assert await client.workers() == []
    await broker.register("a" * 32, 30.0, {"host": "here", "pid": 7})
    await broker.register("b" * 32, 0.0, {"host": "there", "pid": 8})
    workers = {worker["epoch"]: worker for worker in await client.workers()}
    assert workers["a" * 32]["alive"]
    assert 0 < workers["a" * 32]["lease_left_s"] <= 30
    assert (workers["a" * 32]["host"], workers["a" * 32]["pid"]) == ("here", 7)
    assert not workers["b" * 32]["alive"]
    assert workers["b" * 32]["lease_left_s"] == 0
