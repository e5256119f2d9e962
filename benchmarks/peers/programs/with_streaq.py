"""streaQ: 100 tasks at once, results not kept."""

from __future__ import annotations

import asyncio

from program import URL, board, main
from streaq import Worker

worker = Worker(redis_url=URL, concurrency=100, prefetch=100, anyio_kwargs={"use_uvloop": True})


@worker.task(name="async", ttl=0)
async def noop_async(x):
    board.count()


@worker.task(name="sleep", ttl=0)
async def sleep(x):
    await asyncio.sleep(0.001)
    board.count()


@worker.task(name="probe", ttl=0)
async def probe(x):
    board.stamp(x)
    board.count()


TASKS = {"async": noop_async, "sleep": sleep, "probe": probe}


async def one(kind, argument):
    await TASKS[kind].enqueue(argument)


async def many(kind, arguments):
    await worker.enqueue_many([TASKS[kind].enqueue(argument) for argument in arguments])


async def begin():
    await worker.__aenter__()


async def end():
    await worker.__aexit__(None, None, None)


if __name__ == "__main__":
    main(one, many, begin=begin, end=end)
