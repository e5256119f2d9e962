"""RQ: SimpleWorker, which does not fork for each job."""

from __future__ import annotations

import sys
import time

from program import URL, as_async, board, main
from redis import Redis
from rq import Queue, SimpleWorker

redis = Redis.from_url(URL)
queue = Queue(connection=redis)


def noop_sync(x):
    board.count()


def sleep_sync(x):
    time.sleep(0.001)
    board.count()


def probe(x):
    board.stamp(x)
    board.count()


TASKS = {"sync": "noop_sync", "sleep-sync": "sleep_sync", "probe": "probe"}


def one(kind, argument):
    queue.enqueue(f"with_rq.{TASKS[kind]}", argument, result_ttl=0)


def many(kind, arguments):
    name = f"with_rq.{TASKS[kind]}"
    queue.enqueue_many(
        [Queue.prepare_data(name, (argument,), result_ttl=0) for argument in arguments]
    )


if __name__ == "__main__":
    if sys.argv[1] == "work":
        SimpleWorker([queue], connection=redis).work(logging_level="ERROR")
    else:
        main(as_async(one), as_async(many))
