"""How a run ends, without a server: what its lease has to send, and threads whose lease is over."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic
from typing import Any

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


def attempt(lease: Lease, function: Any = print, *, foreign: bool = False) -> Attempt:  # noqa: ANN401
    """Return a run of job `a`."""
    job = Job("a", "t", payload_json=b"{}", place="queue:normal")
    definition = Definition("t", function, "sync", TaskOptions())
    return Attempt(lease, b"a", job, definition, 60.0, foreign=foreign)


@pytest.mark.parametrize("wanted", [False, True])
def test_a_completed_run_is_over_and_closes_its_place_in_the_lease(wanted: bool) -> None:
    """It is sent once, counted, and no more open; its result is kept where the setting says so."""
    told: list[Lease] = []
    settings = Settings(result_backend_enabled=wanted)
    outcomes = Outcomes(settings, RedisTime(), told.append)
    lease = Lease("e", "r", 2)
    run = attempt(lease, foreign=True)
    outcomes.complete(run, 7)
    assert (run.finished, lease.open, told, outcomes.completed) == (True, 1, [lease], 1)
    assert [job_id for jobs in lease.settlement.kept.values() for job_id, _ in jobs] == [b"a"]
    assert lease.settlement.foreign == [b"a"]
    assert len(lease.settlement.results) == wanted


@pytest.mark.anyio
async def test_no_thread_begins_anything_once_the_lease_has_ended() -> None:
    """Neither what is buffered nor a suspect, which stays one."""
    slot = Table.create(1, 8).slots[0]
    gate, began = Gate(), threading.Event()
    outcomes = Outcomes(Settings(), RedisTime(), lambda _: None)
    lane = ThreadLane(1, 0, outcomes, BegunBoard(slot, 8, 1), gate, hard_grace_s=1.0)
    rested = asyncio.Event()
    lane.on_rest = rested.set
    lane.start()
    lane.lease_until_s = monotonic() - 0.001
    lease = Lease("e", "r", 2)
    lane.waiting.put(attempt(lease, began.set))
    lane.nudge()

    async def idle() -> None:
        async with asyncio.timeout(5):
            while lane.busy:
                await rested.wait()
                rested.clear()

    await rested.wait()
    lane.hold()
    await idle()
    suspect = attempt(lease, began.set)
    lane.run_alone(suspect)
    await idle()
    assert not began.is_set()
    assert gate.take_suspects() == [suspect]
    assert len(lane.waiting) == 1
