"""Celery: prefork, a prefetch of 100, results off."""

from __future__ import annotations

import time

from celery import Celery
from program import URL, as_async, board, main

app = Celery("peer", broker=URL)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=100,
    worker_send_task_events=False,
    worker_disable_rate_limits=True,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    task_serializer="json",
)


@app.task(name="sync")
def noop_sync(x):
    board.count()


@app.task(name="sleep-sync")
def sleep_sync(x):
    time.sleep(0.001)
    board.count()


@app.task(name="probe")
def probe(x):
    board.stamp(x)
    board.count()


def one(kind, argument):
    app.tasks[kind].apply_async((argument,), ignore_result=True)


if __name__ == "__main__":
    main(as_async(one))
