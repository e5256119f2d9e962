"""arq: 100 jobs at once, results not kept, polled every 10 ms."""

from __future__ import annotations

import asyncio

from arq import create_pool, func
from arq.connections import RedisSettings
from program import PORT, board, main

SETTINGS = RedisSettings(host="127.0.0.1", port=PORT)
pool = None


async def noop_async(ctx, x):
    board.count()


async def sleep(ctx, x):
    await asyncio.sleep(0.001)
    board.count()


async def probe(ctx, x):
    board.stamp(x)
    board.count()


class WorkerSettings:
    """What `arq` reads."""

    functions = [
        func(noop_async, name="async", keep_result=0),
        func(sleep, name="sleep", keep_result=0),
        func(probe, name="probe", keep_result=0),
    ]
    redis_settings = SETTINGS
    max_jobs = 100
    poll_delay = 0.01
    keep_result = 0


async def begin():
    global pool
    pool = await create_pool(SETTINGS)


async def one(kind, argument):
    await pool.enqueue_job(kind, argument)


async def end():
    await pool.aclose()


if __name__ == "__main__":
    main(one, begin=begin, end=end)
