"""What does a job cost the server, by batch size, and what do native commands cost for the same?

`server_us_per_job` is the server's whole CPU (INFO cpu), sockets included;
`commands_us_per_job` what it spent inside scripts or commands (INFO commandstats).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from bananas.broker import Batch, Broker, Retention, Settlement
from bananas.ids import request_id
from bananas.transport import Transport
from benchmarks.records import PLACE, entries

if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Iterator

    from redis import Redis

    from benchmarks.rounds import Rounds
    from servers import Server

Life = Callable[[Broker, int], Coroutine[Any, Any, None]]

ROUNDS = 20
EPOCH = request_id()
COMMANDS = ("evalsha", "mset", "lpush", "rpop", "sadd", "mget", "srem", "del")


async def scripted(broker: Broker, batch: int) -> None:
    """Enqueue, lease and complete `batch` jobs, a call each."""
    await broker.enqueue(request_id(), entries(batch))
    leased = await broker.dequeue(request_id(), EPOCH, [PLACE], limit=batch, room_bytes=1 << 20)
    assert isinstance(leased, Batch)
    done = Settlement(leased.request, dropped=[job.job_id for job in leased.jobs])
    assert await broker.settle(EPOCH, done, Retention()) == []


async def native(broker: Broker, batch: int) -> None:
    """Move the same data by the fewest plain commands: no lease to speak of, nothing fenced."""
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


def server_us(redis: Redis) -> float:
    """Return the server's CPU so far."""
    info: Any = redis.info("cpu")
    return (float(info["used_cpu_user"]) + float(info["used_cpu_sys"])) * 1e6


def inside_us(redis: Redis, life: Life) -> float:
    """Return what the server spent inside commands, calls by scripts not counted twice."""
    stats: Any = redis.info("commandstats")
    names = COMMANDS[:1] if life is scripted else COMMANDS[1:]
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


@pytest.mark.parametrize("batch", [1, 10, 100, 500])
@pytest.mark.parametrize("life", [scripted, native], ids=["scripts", "native"])
def bench_life(  # noqa: PLR0913, PLR0917 - fixtures
    rounds: Rounds, redis: Redis, runner: Runner, broker: Broker, life: Life, batch: int
) -> None:
    """The whole life of `batch` jobs; the time is the client's and the server's together."""
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
        commands_us_per_job=inside_us(redis, life) / jobs,
    )
