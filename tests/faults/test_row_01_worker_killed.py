"""Row 1: a worker ends at any named point; nothing is lost, and duplicates only where they may be.

CI runs a slice of the passages; `-m slow` runs many.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene

#: Points, and how often a job that was started may be started again for each death there.
#: Everything else is a defect: a job in flight beside it is the only one that may run twice.
POINTS = {
    "before_dequeue": 0,
    "after_dequeue_sent": 0,
    "after_dequeue_reply": 0,
    "before_start": 0,
    "mid_job": 0,  # begun in the table, and its handler not yet called
    "before_settle": 2,
    "after_settle_sent": 1,
    "after_settle_reply": 1,
    "before_reconcile": 4,
    "after_register_sent": 0,
}


def die_at(  # noqa: PLR0913, PLR0917 - a scenario has its knobs and its fixtures
    point: str,
    nth: int,
    jobs: int,
    make: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
) -> int:
    """Let a fleet die at a point again and again, another do the rest; returns the deaths."""
    for _ in range(jobs):
        submit("slow", {"seconds": 0.01})
    # every generation of its workers ends at that passage; one job at a time
    dying = make(
        PROCS="1",
        FAIL=f"{point}:{nth}",
        WORKER_CONCURRENCY="1",
        DEQUEUE_BATCH="1",
        POISON_DEATHS="50",
    ).start(ready=0)
    least = 1 if nth == 1 else 0  # a later passage may never come; the first does, jobs or none

    def enough() -> bool:
        deaths = dying.said("child-ended", "worker")
        return deaths >= 2 or (deaths >= least and scene.drained())

    wait_for(enough, what=f"deaths at {point}")
    make(PROCS="1", POISON_DEATHS="50").start()
    wait_for(scene.drained, what="the queue to be drained")
    dying.end()
    wait_for(scene.drained)
    return dying.said("child-ended", "worker")


@pytest.mark.parametrize("point", POINTS)
def test_no_job_is_lost_or_ended_twice(
    point: str,
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
) -> None:
    """Wherever it ends, lost = ghost = double-terminal = drift = 0; reruns where they may be."""
    deaths = die_at(point, 1, 20, fleet, submit, scene)
    assert deaths >= 1
    scene.judge().check(again=POINTS[point] * deaths)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("nth", [3, 8])
@pytest.mark.parametrize("point", POINTS)
def test_at_later_passages_too(
    point: str, nth: int, fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene
) -> None:
    """The same at other passages, with more jobs."""
    deaths = die_at(point, nth, 60, fleet, submit, scene)
    # at a later passage another job is under way when it ends
    scene.judge().check(again=(POINTS[point] + 2) * deaths)


def test_its_jobs_run_again_within_about_a_second(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """The supervisor knows of the death: no lease has to lapse (I7, G4)."""
    fleet(PROCS="2", LEASE_TTL="60s", BEAT_INTERVAL="5s").start()
    for _ in range(8):
        submit("slow", {"seconds": 2})
    wait_for(lambda: len(ledger.lines("start")) == 8)
    victim = ledger.lines("start")[0].pid
    held = {line.job_id for line in ledger.lines("start") if line.pid == victim}
    # what runs elsewhere ends first, so that there is room for what comes back
    os.kill(victim, signal.SIGKILL)
    killed = time.time()

    def again() -> bool:
        lines = ledger.lines("start")
        return held == {line.job_id for line in lines if line.job_id in held and line.pid != victim}

    wait_for(again)
    last = max(line.at_s for line in ledger.lines("start") if line.job_id in held)
    assert last - killed < 1.5
    wait_for(scene.drained)
    scene.judge().check(again=len(held))
    assert all(line.attempt <= 2 for line in ledger.lines("start"))


def test_kills_at_random_under_load(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """Worker after worker is killed while the queue is filled and drained."""
    one = fleet(PROCS="2", POISON_DEATHS="50").start()
    kills = 0
    while kills < 5:
        for _ in range(40):
            submit("slow", {"seconds": 0.005})
        seen = len(ledger.lines("start"))
        wait_for(lambda seen=seen: len(ledger.lines("start")) > seen or scene.drained())
        workers = wait_for(lambda: one.children("worker"))
        os.kill(workers[kills % len(workers)], signal.SIGKILL)
        kills += 1
    wait_for(scene.drained)
    # what ran, and what had ended and was not settled yet
    scene.judge().check(again=kills * 12)
