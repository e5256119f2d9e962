"""Dramatiq: processes of threads; messages without the middleware that nobody uses here."""

from __future__ import annotations

import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from program import URL, as_async, board, main

broker = RedisBroker(url=URL)
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="sync", max_retries=3)
def noop_sync(x):
    board.count()


@dramatiq.actor(actor_name="sleep-sync")
def sleep_sync(x):
    time.sleep(0.001)
    board.count()


@dramatiq.actor(actor_name="probe")
def probe(x):
    board.stamp(x)
    board.count()


ACTORS = {actor.actor_name: actor for actor in (noop_sync, sleep_sync, probe)}


def one(kind, argument):
    ACTORS[kind].send(argument)


if __name__ == "__main__":
    main(as_async(one))
