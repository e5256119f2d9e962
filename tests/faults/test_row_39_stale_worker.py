"""Rows 39, 44: a worker, or a whole fleet, that stood still."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from fleets import session_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene


def test_a_fleet_that_stood_still_changes_nothing_of_its_successors(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """Stopped longer than its lease, then let go: its late outcomes are refused (rows 39, 44)."""
    other = fleet(LEASE_TTL="1500ms", PROCS="1").start()
    other_worker = set(other.children("worker"))
    one = fleet(LEASE_TTL="1500ms", PROCS="1").start()
    for _ in range(8):
        submit("slow", {"seconds": 1})
    wait_for(lambda: len({line.pid for line in ledger.lines("start")} - other_worker) == 1)
    wait_for(lambda: len(ledger.lines("start")) == 8)
    frozen = session_of(one.pid)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    held = {line.job_id for line in ledger.lines("start") if line.pid in frozen}

    def taken_over() -> bool:
        lines = ledger.lines("effect")
        return held <= {line.job_id for line in lines if line.pid not in frozen}

    wait_for(taken_over)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: one.said("fenced"))
    after = submit("quick")
    wait_for(lambda: scene.status(after) == "completed")
    wait_for(scene.drained)
    scene.judge().check(again=len(held))
    assert one.stop() == 0
    assert other.stop() == 0


def test_a_worker_that_stood_still_keeps_its_jobs(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """Its warden beats for it: SIGSTOP of one worker beyond the lease re-delivers nothing (G5)."""
    one = fleet(LEASE_TTL="1500ms", PROCS="2").start()
    for _ in range(8):
        submit("slow", {"seconds": 0.5})
    wait_for(lambda: len(ledger.lines("start")) == 8)
    victim = ledger.lines("start")[0].pid
    os.kill(victim, signal.SIGSTOP)
    time.sleep(3.0)
    os.kill(victim, signal.SIGCONT)
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0
