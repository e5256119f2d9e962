"""Rows 24, 39, 44: a worker, or a whole fleet, that stood still, or whose clock is wrong."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

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


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs faketime (apt: faketime)")
@pytest.mark.parametrize("offset", ["+3600s", "-3600s"])
def test_the_clock_of_a_fleet_decides_nothing(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    offset: str,
) -> None:
    """An hour ahead or behind: due jobs come when Redis says, leases hold (row 24)."""
    library = next(
        (
            path
            for path in (
                "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
                "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
                "/usr/lib/faketime/libfaketime.so.1",
            )
            if os.path.exists(path)  # noqa: PTH110 - a string for the loader
        ),
        None,
    )
    if library is None:
        pytest.skip("faketime has no library here")
    one = fleet(PROCS="1")
    one.environment.update(LD_PRELOAD=library, FAKETIME=offset, FAKETIME_DONT_FAKE_MONOTONIC="1")
    one.start()
    began = time.time()
    due = submit("quick", delay_s=1.0)
    retried = submit("deadly", {"how": "sys.exit"}, max_retries=2)
    submit("quick")
    wait_for(scene.drained)
    starts = {line.job_id: 0 for line in ledger.lines("start")}
    assert due in starts
    assert scene.status(retried) == "failed"
    assert 0.9 < time.time() - began < 10
    scene.judge().check(again=1)
    assert one.stop() == 0
