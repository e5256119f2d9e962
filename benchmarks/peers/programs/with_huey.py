"""Huey: two processes, or threads for handlers that wait; results not kept."""

from __future__ import annotations

import time

from huey import RedisHuey
from program import URL, as_async, board, main

huey = RedisHuey("peer", url=URL, results=False, store_none=False)


@huey.task(name="sync")
def noop_sync(x):
    board.count()


@huey.task(name="sleep-sync")
def sleep_sync(x):
    time.sleep(0.001)
    board.count()


@huey.task(name="probe")
def probe(x):
    board.stamp(x)
    board.count()


TASKS = {"sync": noop_sync, "sleep-sync": sleep_sync, "probe": probe}


def one(kind, argument):
    TASKS[kind](argument)


if __name__ == "__main__":
    import with_huey  # by its name: huey names a task by the module of its function

    main(as_async(with_huey.one))
