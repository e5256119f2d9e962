"""Who wakes whom among the threads: few for short work, all for long."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from bananas.job import Job
from bananas.registry import Definition, TaskOptions
from bananas.settings import Settings
from bananas.table import Table
from bananas.worker.attempt import Attempt, Lease
from bananas.worker.begun import BegunBoard
from bananas.worker.gate import Gate
from bananas.worker.outcomes import Outcomes, RedisTime
from bananas.worker.thread_lane import ThreadLane

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

THREADS = 4


class Yard:
    """A lane of four threads, and one lease for all its jobs."""

    def __init__(self) -> None:
        """Start nothing yet."""
        slot = Table.create(1, 64).slots[0]
        outcomes = Outcomes(Settings(), RedisTime(), lambda _: None)
        board = BegunBoard(slot, 64, THREADS)
        self.lane = ThreadLane(THREADS, 0, outcomes, board, Gate(), hard_grace_s=10.0)
        self.lease = Lease("e", "r", 0)
        self.rest = asyncio.Event()
        self.lane.on_rest = self.rest.set
        self.lane.start()

    def put(self, function: Callable[..., Any], count: int) -> None:
        """Buffer jobs and have them begun."""
        definition = Definition("t", function, "sync", TaskOptions())
        for number in range(count):
            self.lease.open += 1
            job = Job(f"{number}", "t", payload_json=b"{}", place="queue:normal")
            self.lane.waiting.put(Attempt(self.lease, job.id.encode(), job, definition, 60.0))
        self.lane.nudge()

    async def rested(self) -> None:
        """Wait until every job has ended and every thread rests."""
        async with asyncio.timeout(20):
            while self.lane.busy or self.lease.open:
                self.rest.clear()
                await self.rest.wait()


async def test_one_thread_is_woken_however_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has come nobody else is, whatever else arrives."""
    monkeypatch.setattr(ThreadLane, "_start_threads", lambda _: True)  # none comes
    yard = Yard()
    yard.put(print, 100)
    yard.put(print, 100)
    assert (yard.lane.busy, yard.lane._tokens.qsize()) == (1, 1)


async def test_each_wakes_the_next_while_something_waits() -> None:
    """Jobs that wait for each other all run at once, again and again."""
    yard = Yard()
    together = threading.Barrier(THREADS)
    for _ in range(20):
        yard.put(lambda: together.wait(20), THREADS)
        await yard.rested()
    assert not together.broken


async def test_no_more_are_woken_than_there_are() -> None:
    """A token without a thread would be one that comes to an empty buffer."""
    yard = Yard()
    most = 0
    running = threading.Semaphore(0)

    def look() -> None:
        nonlocal most
        most = max(most, yard.lane.busy)
        running.release()

    yard.put(look, 500)
    await yard.rested()
    assert all(running.acquire(blocking=False) for _ in range(500))
    assert 1 <= most <= THREADS
    assert yard.lane._tokens.empty()
