"""What does a job cost the server, by batch size, and what do native commands cost for the same?

`server_us_per_job` is the server's whole CPU (INFO cpu), sockets included;
`commands_us_per_job` what it spent inside scripts or commands (INFO commandstats).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from bananas.broker import Batch, Broker, Retention, Settlement
from bananas.ids import request_id
from bananas.transport import Transport
from benchmarks.records import PLACE, entries

if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Iterable, Iterator

    from redis import Redis

    from benchmarks.rounds import Rounds
    from servers import Server

Life = Callable[[Broker, int], Coroutine[Any, Any, None]]

ROUNDS = 20
EPOCH = request_id()
COMMANDS = {
    "scripts": ("evalsha",),
    "pipelined": ("set", "lpush", "hincrby", "rpop", "sadd", "get", "srem", "del"),
    "fewest": ("mset", "lpush", "rpop", "sadd", "mget", "srem", "del"),
}
"""What is called from outside, by life: calls by scripts are not counted twice."""


async def scripted(broker: Broker, batch: int) -> None:
    """Enqueue, lease and complete `batch` jobs, a call each."""
    await broker.enqueue(request_id(), entries(batch))
    leased = await broker.dequeue(request_id(), EPOCH, [PLACE], limit=batch, room_bytes=1 << 20)
    assert isinstance(leased, Batch)
    done = Settlement(leased.request, dropped=[job.job_id for job in leased.jobs])
    assert await broker.settle(EPOCH, done, Retention()) == []


async def pipelined(broker: Broker, batch: int) -> None:
    """Move the same data by plain commands, one for each thing done to a job, in pipelines.

    A job is written, queued, taken, noted as leased, read, forgotten and deleted. A crash
    between two of them loses or doubles it; nothing is fenced, nothing may be repeated.
    """
    command = broker.transport.command
    fresh = entries(batch)
    keys = [f"native:job:{entry.job_id}" for entry in fresh]
    writes = [command("SET", key, entry.record) for key, entry in zip(keys, fresh, strict=True)]
    pushes = [command("LPUSH", "native:queue", entry.job_id) for entry in fresh]
    count = command("HINCRBY", "native:counters", "accepted", batch)
    await asyncio.gather(
        *(part for pair in zip(writes, pushes, strict=True) for part in pair), count
    )
    ids = await asyncio.gather(*(command("RPOP", "native:queue") for _ in range(batch)))
    notes = [command("SADD", "native:lease", job_id) for job_id in ids]
    await asyncio.gather(*notes, *(command("GET", key) for key in keys))
    forgets = [command("SREM", "native:lease", job_id) for job_id in ids]
    count = command("HINCRBY", "native:counters", "completed", batch)
    await asyncio.gather(*forgets, *(command("DEL", key) for key in keys), count)


async def fewest(broker: Broker, batch: int) -> None:
    """Move the same data by the fewest plain commands: many jobs each, and no more is held."""
    command = broker.transport.command
    fresh = entries(batch)
    keys = [f"native:job:{entry.job_id}" for entry in fresh]
    pairs = [part for key, entry in zip(keys, fresh, strict=True) for part in (key, entry.record)]
    await command("MSET", *pairs)
    await command("LPUSH", "native:queue", *(entry.job_id for entry in fresh))
    ids = await command("RPOP", "native:queue", batch)
    await command("SADD", "native:lease", *ids)
    await command("MGET", *keys)
    await command("SREM", "native:lease", *ids)
    await command("DEL", *keys)


LIVES: dict[str, Life] = {"scripts": scripted, "pipelined": pipelined, "fewest": fewest}


def server_us(redis: Redis) -> float:
    """Return the server's CPU so far."""
    info: Any = redis.info("cpu")
    return (float(info["used_cpu_user"]) + float(info["used_cpu_sys"])) * 1e6


def inside_us(redis: Redis, names: Iterable[str]) -> float:
    """Return what the server spent inside these commands."""
    stats: Any = redis.info("commandstats")
    return sum(float(stats[f"cmdstat_{name}"]["usec"]) for name in names)


@pytest.fixture
def broker(server: Server, runner: Runner) -> Iterator[Broker]:
    """Return a broker with an epoch that may lease."""

    async def made() -> Broker:
        broker = Broker(Transport(server.url))
        await broker.register(EPOCH, 600.0, {})
        return broker

    broker = runner.run(made())
    yield broker
    runner.run(broker.transport.close())


@pytest.mark.parametrize("batch", [1, 10, 100, 250, 500])
@pytest.mark.parametrize("name", LIVES)
def bench_life(  # noqa: PLR0913, PLR0917 - fixtures
    rounds: Rounds, redis: Redis, runner: Runner, broker: Broker, name: str, batch: int
) -> None:
    """The whole life of `batch` jobs; the time is the client's and the server's together."""
    life = LIVES[name]
    repeats = max(1, 500 // batch)

    async def lives() -> None:
        for _ in range(repeats):
            await life(broker, batch)

    runner.run(lives())
    redis.config_resetstat()
    before_us = server_us(redis)
    rounds.time(lambda: runner.run(lives()), ROUNDS)
    jobs = rounds.count(ROUNDS) * repeats * batch
    rounds.note(
        server_us_per_job=(server_us(redis) - before_us) / jobs,
        commands_us_per_job=inside_us(redis, COMMANDS[name]) / jobs,
    )
