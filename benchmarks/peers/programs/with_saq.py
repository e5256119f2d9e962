"""SAQ: 100 jobs at once, results not kept."""

from __future__ import annotations

import asyncio

import orjson
from program import URL, board, main
from saq import Queue

queue = Queue.from_url(URL, dump=orjson.dumps, load=orjson.loads, max_concurrent_ops=100)


async def noop_async(ctx, *, x):
    board.count()


async def sleep(ctx, *, x):
    await asyncio.sleep(0.001)
    board.count()


async def probe(ctx, *, x):
    board.stamp(x)
    board.count()


settings = {
    "queue": queue,
    "functions": [("async", noop_async), ("sleep", sleep), ("probe", probe)],
    "concurrency": 100,
    "dequeue_timeout": 1,
}


async def one(kind, argument):
    await queue.enqueue(kind, x=argument, ttl=-1)


async def end():
    await queue.disconnect()


if __name__ == "__main__":
    main(one, begin=queue.connect, end=end)
