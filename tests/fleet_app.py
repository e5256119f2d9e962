"""The application of the tests' fleets: every handler writes its start and its effect."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import logging
import multiprocessing
import os
import re
import signal
import sys
import time
from typing import Any

from bananas.app import Bananas
from bananas.context import current_job

app = Bananas()
_ledger = os.open(os.environ.get("LEDGER", os.devnull), os.O_APPEND | os.O_WRONLY | os.O_CREAT)


def note(what: str) -> None:
    """Write a line in one call; no process can write half of one."""
    job = current_job()
    line = f"{what} {job.id} {os.getpid()} {job.attempt} {time.time():.6f}\n"
    os.write(_ledger, line.encode())


@app.task
async def quick() -> None:
    """Start and end."""
    note("start")
    note("effect")


@app.task
async def slow(seconds: float) -> None:
    """Take a while."""
    note("start")
    await asyncio.sleep(seconds)
    note("effect")


@app.task
async def loud(lines: int) -> None:
    """Have much to tell."""
    note("start")
    for _ in range(lines):
        logging.getLogger("bananas.app").warning("%s", "x" * 200)
    note("effect")


_hoard: list[bytes] = []


@app.task
async def leak(mb: int) -> None:
    """Keep more with each run."""
    note("start")
    _hoard.append(b"x" * (mb << 20))
    await asyncio.sleep(0.05)
    note("effect")


@app.task
def slow_sync(seconds: float) -> None:
    """Take a while in a thread."""
    note("start")
    time.sleep(seconds)
    note("effect")


@app.task(max_retries=1)
async def block(seconds: float, how: str = "sleep", after_s: float = 0.0) -> None:
    """Hold up the whole loop, at once or after a while."""
    note("start")
    await asyncio.sleep(after_s)
    if how == "sleep":
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    elif how == "re":  # catastrophic: years
        re.match(r"(a+)+$", "a" * 64 + "b")
    elif how == "task":

        async def inner() -> None:
            time.sleep(seconds)  # noqa: ASYNC251 - as above

        await asyncio.create_task(inner())
    elif how == "C":  # and keep the interpreter's lock
        sum(itertools.repeat(1, 10**15))
    note("effect")


@app.task(max_retries=1)
def stubborn() -> None:
    """Heed no limit, in a thread."""
    note("start")
    while True:
        try:
            time.sleep(0.05)
        except BaseException:  # noqa: BLE001, S112 - that is the point
            continue


@app.task(max_retries=1)
async def shielded() -> None:
    """Heed no cancellation."""
    note("start")
    while True:
        try:
            await asyncio.sleep(0.05)
        except BaseException:  # noqa: BLE001, S112 - that is the point
            continue


@app.task(max_retries=50)
async def deadly(how: str) -> None:
    """Take the process down, or try to."""
    note("start")
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(0)
    elif how == "abort":
        os.abort()
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "group":
        os.kill(0, signal.SIGKILL)
    elif how == "sys.exit":
        sys.exit(3)
    elif how == "fds":
        os.closerange(3, 256)
    elif how == "fork" and os.fork() == 0:
        return  # the child goes on in our code: it must not run our loop
    await asyncio.sleep(30)


@app.task
async def forks(how: str) -> None:
    """Fork, and let the copy come back to us."""
    note("start")
    if os.fork() == 0:
        if how == "await":
            await asyncio.sleep(0.01)
            note("effect")  # never: the copy has no loop
        return
    await asyncio.sleep(0.1)
    note("effect")


@app.task
def forks_sync() -> None:
    """As above, from a thread."""
    note("start")
    if os.fork() == 0:
        return
    time.sleep(0.1)
    note("effect")


@app.task
def multiprocesses() -> None:
    """Have the work done by a process of its own, as it is meant to be."""
    note("start")
    process = multiprocessing.get_context("fork").Process(target=note, args=("effect",))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit code {process.exitcode}")


@app.batch_task(max_size=50, linger_s=0.02)
async def bunch(items: list[Any]) -> None:
    """Take many at once."""
    await asyncio.sleep(0.01)
    del items
