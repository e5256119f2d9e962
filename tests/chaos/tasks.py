"""The application of the fleets under chaos: every run writes its start and how it ended."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from random import random
from typing import Any

from bananas.app import Bananas
from bananas.context import current_job
from bananas.errors import Discard, Snooze
from bananas.registry import Outcome
from chaos.ledger import Pen

app = Bananas()
_pen = Pen(os.environ.get("LEDGER", os.devnull))


def _run() -> dict[str, Any]:
    """Return what names this run: the job, the process, the attempt and the lease's token."""
    job: Any = current_job()
    return {"id": job.id, "pid": os.getpid(), "attempt": job.attempt, "token": job.lease.request}


def _start() -> dict[str, Any]:
    run = _run()
    _pen.note("start", **run)
    return run


def _effect(run: dict[str, Any]) -> str:
    """Write the effect; what the handler returns tells whose outcome was taken."""
    _pen.note("effect", **run)
    return str(run["token"])


def _end(run: dict[str, Any], how: str) -> None:
    """Write that the run ends otherwise."""
    _pen.note("end", how=how, **run)


def _hold_up(seconds: float) -> None:
    """Sleep as a blocking call does; `time.sleep` fails where a clock is set off by faketime."""
    select.select([], [], [], seconds)


@app.task
async def quick() -> str:
    """Start and end."""
    return _effect(_start())


@app.task
async def slow(seconds: float) -> str:
    """Take a while."""
    run = _start()
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        _end(run, "cut")
        raise
    return _effect(run)


@app.task
def threaded(seconds: float) -> str:
    """Take a while in a thread."""
    run = _start()
    _hold_up(seconds)
    return _effect(run)


@app.task(inline=True)
def inline() -> str:
    """Start and end on the loop."""
    return _effect(_start())


@app.batch_task(max_size=20, linger_s=0.02)
async def bunch(items: list[dict[str, str]]) -> list[Outcome]:
    """Take many at once, each with a verdict of its own."""
    runs = [{"id": item["id"], "pid": os.getpid(), "attempt": 0, "token": ""} for item in items]
    for run in runs:
        _pen.note("start", **run)
    await asyncio.sleep(0.01)
    verdicts = []
    for item, run in zip(items, runs, strict=True):
        if item["say"] == "dead":
            _end(run, "dead")
            verdicts.append(Outcome.dead("as it was told"))
        elif item["say"] == "retry" and random() < 0.5:
            _end(run, "retry")
            verdicts.append(Outcome.retry("as it was told", delay_s=0.2))
        else:
            _effect(run)
            verdicts.append(Outcome.ok())
    return verdicts


@app.task
async def flaky(times: int) -> str:
    """Fail the first times."""
    run = _start()
    if run["attempt"] <= times:
        _end(run, "retry")
        raise RuntimeError("as it was told")
    return _effect(run)


@app.task
async def hopeless() -> None:
    """Fail each time."""
    _end(_start(), "retry")
    raise RuntimeError("as it was told")


@app.task
async def snoozer() -> str:
    """Ask for a while, uncharged, about every other time."""
    run = _start()
    if random() < 0.5:
        _end(run, "retry")
        raise Snooze(0.3)
    return _effect(run)


@app.task
async def discarder() -> None:
    """Give up at once."""
    _end(_start(), "dead")
    raise Discard("as it was told")


@app.task
async def sleeper() -> None:
    """Outlive its soft limit."""
    run = _start()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        _end(run, "retry")
        raise


@app.task
async def blocker() -> None:
    """Hold up the loop past the hard limit."""
    _start()
    _hold_up(30.0)


@app.task
async def poison() -> None:
    """Take the process down."""
    run = _start()
    _end(run, "die")
    os.kill(os.getpid(), signal.SIGKILL)
