"""bananas itself, submitted and worked as all the others."""

from __future__ import annotations

import asyncio
import time

from program import URL, board, main

from bananas import Bananas
from bananas.settings import Settings

app = Bananas(settings=Settings(redis_url=URL, retention_completed_s=0))


@app.task(name="async")
async def noop_async(x: str) -> None:
    board.count()


@app.task(name="sync")
def noop_sync(x: str) -> None:
    board.count()


@app.task(name="sleep")
async def sleep(x: str) -> None:
    await asyncio.sleep(0.001)
    board.count()


@app.task(name="sleep-sync")
def sleep_sync(x: str) -> None:
    time.sleep(0.001)
    board.count()


@app.task(name="probe")
async def probe(x: int) -> None:
    board.stamp(x)
    board.count()


TASKS = {task.name: task for task in (noop_async, noop_sync, sleep, sleep_sync, probe)}


async def one(kind, argument):
    await TASKS[kind].enqueue(x=argument)


async def many(kind, arguments):
    await TASKS[kind].enqueue_many([{"x": argument} for argument in arguments])


if __name__ == "__main__":
    # all at once: `enqueue_many` makes chunks itself
    main(one, many, end=app.aclose, chunk=10_000_000)
