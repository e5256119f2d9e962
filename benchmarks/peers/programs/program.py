"""The part that all programs share: what to submit, how it is timed, how a probe waits.

Runs in the interpreter of a peer: the standard library, uvloop, and the board.

    with_PEER.py enqueue KIND COUNT one|many    prints {"seconds": …, "cpu_s": …}
    with_PEER.py probe COUNT PAUSE_S            prints {"latencies_ms": […]}
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import board as boards
import uvloop

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # for every peer that lets it

PORT = int(os.environ["PEER_PORT"])
URL = f"redis://127.0.0.1:{PORT}/0"
PAYLOAD = "x" * 191
"""200 bytes of payload as JSON."""

board = boards.of_environment()

One = Callable[[str, Any], Awaitable[Any]]
Many = Callable[[str, Sequence[Any]], Awaitable[Any]]
_CHUNK = 1000


def as_async(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return a blocking call as one that can be awaited; nothing else runs beside it."""

    async def call(*args: Any) -> Any:
        return function(*args)

    return call


async def _nothing() -> None:
    """Do nothing."""


def main(
    one: One,
    many: Many | None = None,
    *,
    begin: Callable[[], Awaitable[Any]] = _nothing,
    end: Callable[[], Awaitable[Any]] = _nothing,
    chunk: int = _CHUNK,
) -> None:
    """Do what the command line says.

    Args:
        one: Submits a job of a kind with an argument.
        many: The peer's bulk call, for `chunk` jobs at once; None where it has none.
        begin: Opens what the peer needs.
        end: Closes it.
        chunk: As large as suits the peer best.
    """

    async def enqueue(kind: str, count: int, how: str) -> dict[str, Any]:
        argument = 0 if kind == "probe" else PAYLOAD
        began_s, cpu_s = time.perf_counter(), time.process_time()
        if how == "many":
            if many is None:
                raise SystemExit("there is no bulk call")
            for first in range(0, count, chunk):
                await many(kind, [argument] * min(chunk, count - first))
        else:
            for _ in range(count):
                await one(kind, argument)
        return {
            "seconds": time.perf_counter() - began_s,
            "cpu_s": time.process_time() - cpu_s,
        }

    async def probe(count: int, pause_s: float) -> dict[str, Any]:
        latencies_ms = []
        for index in range(count + 1):  # the first one connects, and does not count
            await asyncio.sleep(pause_s)
            sent_ns = time.monotonic_ns()
            await one("probe", index)
            deadline_s = time.monotonic() + 10
            while not board.stamped_ns(index):
                if time.monotonic() > deadline_s:
                    raise SystemExit("a probe never began")
                await asyncio.sleep(0.0005)
            latencies_ms.append((board.stamped_ns(index) - sent_ns) / 1e6)
        return {"latencies_ms": latencies_ms[1:]}

    async def run() -> None:
        verb, *rest = sys.argv[1:]
        await begin()
        if verb == "enqueue":
            answer = await enqueue(rest[0], int(rest[1]), rest[2])
        else:
            answer = await probe(int(rest[0]), float(rest[1]))
        await end()
        sys.stdout.write(json.dumps(answer))

    asyncio.run(run())
