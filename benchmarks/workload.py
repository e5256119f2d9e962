"""The application under measurement: handlers that do nothing, and one that says when it began."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from struct import Struct
from typing import Any, Final

from bananas.app import Bananas

STARTS_VARIABLE: Final = "BENCH_STARTS"
"""Path of the datagram socket that hears of starts."""

START: Final = Struct("=qq")
"""Sent at, started at: CLOCK_MONOTONIC, ns; the clock is one for all processes of a machine."""

WAIT_S: Final = 0.01
"""How long the handler that waits does so."""

app = Bananas()
_starts: socket.socket | None = None


@app.task(name="noop.async")
async def noop_async(x: str) -> None:
    """Do nothing on the loop."""


@app.task(name="noop.sync")
def noop_sync(x: str) -> None:
    """Do nothing in a thread."""


@app.task(name="noop.inline", inline=True)
def noop_inline(x: str) -> None:
    """Do nothing on the loop, without `await`."""


@app.task(name="noop.wait")
async def noop_wait(x: str) -> None:  # noqa: ARG001 - the payload of all
    """Wait, as for another service."""
    await asyncio.sleep(WAIT_S)


@app.batch_task(name="noop.batch", max_size=250, linger_s=0.005)
async def noop_batch(items: list[dict[str, Any]]) -> None:
    """Do nothing for many at once."""


@app.task(name="probe")
async def probe(sent_ns: int) -> None:
    """Say when this began."""
    global _starts  # noqa: PLW0603 - one socket a process, made in the process that uses it
    started_ns = time.monotonic_ns()
    if _starts is None:
        _starts = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        _starts.connect(os.environ[STARTS_VARIABLE])
    _starts.send(START.pack(sent_ns, started_ns))
