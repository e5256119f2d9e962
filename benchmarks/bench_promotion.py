"""How fast do due jobs move to their queues, and how long does one call of the script take?

`promoted_per_s` is by the server's time inside the script (INFO commandstats), so that the
client's share and a busy machine's waits do not count; `slowest_ms` is the longest call that
SLOWLOG saw, waits included.
"""

from __future__ import annotations

from asyncio import gather
from typing import TYPE_CHECKING, Any

from bananas.broker import Broker, Entry
from bananas.ids import request_id
from bananas.transport import Transport
from benchmarks.records import entries

if TYPE_CHECKING:
    from asyncio import Runner

    from redis import Redis

    from benchmarks.rounds import Rounds
    from servers import Server

BATCH = 500
CALLS = 40
ROUNDS = 5


def bench_promotion(rounds: Rounds, redis: Redis, runner: Runner, server: Server) -> None:
    """20,000 jobs that are due, 500 a call."""
    redis.config_set("slowlog-log-slower-than", 0)
    redis.config_set("slowlog-max-len", CALLS)
    spent_us: list[float] = []
    slowest_us: list[int] = []

    async def made() -> Broker:
        return Broker(Transport(server.url))

    async def schedule() -> None:
        due = [Entry(*entry[:3], "1.0") for entry in entries(BATCH * CALLS)]
        await gather(
            *(
                broker.enqueue(request_id(), due[at : at + BATCH])
                for at in range(0, len(due), BATCH)
            )
        )
        await broker.promote(limit=1)  # the script is loaded before it is timed
        redis.config_resetstat()
        redis.slowlog_reset()

    async def promote() -> None:
        while (await broker.promote(limit=BATCH)).moved:
            pass

    def promoted() -> None:
        runner.run(promote())
        calls: Any = redis.slowlog_get(CALLS)
        stats: Any = redis.info("commandstats")
        spent_us.append(float(stats["cmdstat_evalsha"]["usec"]))
        slowest_us.append(max(call["duration"] for call in calls if b"EVALSHA" in call["command"]))

    broker = runner.run(made())
    try:
        rounds.time(promoted, ROUNDS, lambda: runner.run(schedule()))
    finally:
        runner.run(broker.transport.close())
        redis.config_set("slowlog-log-slower-than", 10_000)
    rounds.note(
        promoted_per_s=len(spent_us) * BATCH * CALLS / sum(spent_us) * 1e6,
        slowest_ms=max(slowest_us) / 1_000,
    )
