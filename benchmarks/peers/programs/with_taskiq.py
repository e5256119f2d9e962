"""taskiq over Redis lists: 100 tasks at once in each worker, results off."""

from __future__ import annotations

import asyncio
import time

from program import URL, board, main
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker(url=URL).with_serializer(ORJSONSerializer())


@broker.task(task_name="async")
async def noop_async(x):
    board.count()


@broker.task(task_name="sync")
def noop_sync(x):
    board.count()


@broker.task(task_name="sleep")
async def sleep(x):
    await asyncio.sleep(0.001)
    board.count()


@broker.task(task_name="sleep-sync")
def sleep_sync(x):
    time.sleep(0.001)
    board.count()


@broker.task(task_name="probe")
async def probe(x):
    board.stamp(x)
    board.count()


TASKS = {task.task_name: task for task in (noop_async, noop_sync, sleep, sleep_sync, probe)}


async def one(kind, argument):
    await TASKS[kind].kiq(argument)


if __name__ == "__main__":
    main(one, begin=broker.startup, end=broker.shutdown)
