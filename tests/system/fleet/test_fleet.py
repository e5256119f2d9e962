"""Real supervisors, workers and signals: what an operator does, and what a job does to them."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from fleets import session_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene


def test_a_fleet_drains_a_queue_and_leaves_with_status_0(
    fleet: Callable[..., Fleet], scene: Scene, submit: Callable[..., str]
) -> None:
    """Every job completes once; SIGTERM ends all processes in order."""
    for _ in range(200):
        submit("quick")
    one = fleet().start()
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0
    assert session_of(one.pid) == []


def test_sigterm_finishes_what_runs_and_gives_back_the_rest(
    fleet: Callable[..., Fleet], scene: Scene, submit: Callable[..., str], ledger: Ledger
) -> None:
    """A job shorter than the grace ends; one that is longer goes back uncharged (row 5)."""
    one = fleet(SHUTDOWN_GRACE="1s", PROCS="1").start()
    short = submit("slow", {"seconds": 0.6})
    long = submit("slow", {"seconds": 30})
    thread = submit("slow_sync", {"seconds": 30})
    wait_for(lambda: len(ledger.lines("start")) == 3)
    began = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - began < 4.5
    assert session_of(one.pid) == []
    assert scene.status(short) == "completed"
    assert [line.job_id for line in ledger.lines("effect")] == [short]
    assert scene.leased() == 0
    assert scene.waiting() == 2
    assert not scene.redis.hgetall(scene.keys.crashes)
    for job_id in (long, thread):
        assert scene.status(job_id) == "pending"


def test_a_second_sigterm_cuts_the_grace(
    fleet: Callable[..., Fleet], scene: Scene, submit: Callable[..., str], ledger: Ledger
) -> None:
    """Told twice, a fleet gives everything back and is gone in a moment."""
    one = fleet(SHUTDOWN_GRACE="30s", PROCS="1").start()
    submit("slow", {"seconds": 60})
    wait_for(lambda: ledger.lines("start"))
    one.signal(signal.SIGTERM)
    wait_for(lambda: one.said("stop") or one.said("TERM") or one.said("drain"))
    time.sleep(0.3)
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 4
    assert scene.leased() == 0
    assert scene.waiting() == 1


def test_sighup_rolls_the_workers_without_a_gap(
    fleet: Callable[..., Fleet], scene: Scene, submit: Callable[..., str], ledger: Ledger
) -> None:
    """All workers are new afterwards, and every job that came meanwhile ran once."""
    one = fleet().start()
    old = set(one.children("worker"))
    for _ in range(20):
        submit("slow", {"seconds": 0.1})
    one.signal(signal.SIGHUP)

    def replaced() -> bool:
        submit("quick")
        workers = one.children("worker")
        return len(workers) == 2 and not old & set(workers)

    wait_for(replaced)
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0
    del ledger


def test_quiet_and_counts_by_signal(
    fleet: Callable[..., Fleet], scene: Scene, submit: Callable[..., str], ledger: Ledger
) -> None:
    """USR1: nothing more is taken; TTIN, TTOU: one worker more, one fewer."""
    one = fleet(PROCS="1").start()
    one.signal(signal.SIGTTIN)
    wait_for(lambda: len(one.children("worker")) == 2)
    one.signal(signal.SIGTTOU)
    wait_for(lambda: len(one.children("worker")) == 1)
    one.signal(signal.SIGUSR1)
    time.sleep(0.5)
    job_id = submit("quick")
    time.sleep(0.7)
    assert ledger.lines() == []
    assert one.stop() == 0
    fleet(PROCS="1").start()
    wait_for(lambda: scene.status(job_id) == "completed")
    scene.judge().check()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["block", "stubborn", "shielded"])
def test_a_job_past_its_hard_limit_costs_its_process_and_nobody_else(
    fleet: Callable[..., Fleet],
    scene: Scene,
    submit: Callable[..., str],
    ledger: Ledger,
    task: str,
) -> None:
    """It is failed as timed out; its neighbours run again, uncharged (rows 26, 29)."""
    one = fleet(PROCS="1").start()
    before = one.children("worker")
    neighbours = [submit("slow", {"seconds": 2.5}) for _ in range(2)]
    wait_for(lambda: len(ledger.lines("start")) == 2)
    payload = {"seconds": 60} if task == "block" else {}
    bad = submit(task, payload, timeout_s=0.3, max_retries=1)
    wait_for(lambda: scene.status(bad) == "failed")
    wait_for(scene.drained)
    assert one.children("worker") != before
    judgement = scene.judge()
    judgement.check(again=2)
    for job_id in neighbours:
        assert scene.status(job_id) == "completed"
    record = str(scene.redis.get(scene.keys.job(bad)))
    assert "timed out" in record or "poison" in record
    assert one.stop() == 0


@pytest.mark.parametrize("how", ["segfault", "exit", "abort", "kill", "group"])
def test_poison_fails_after_three_deaths_and_its_neighbours_complete(
    fleet: Callable[..., Fleet],
    scene: Scene,
    submit: Callable[..., str],
    ledger: Ledger,
    how: str,
) -> None:
    """A job that takes its process down is failed after 3 deaths (row 28); innocents end well."""
    one = fleet(PROCS="2").start()
    innocent = [submit("slow", {"seconds": 0.3}) for _ in range(10)]
    bad = submit("deadly", {"how": how})
    innocent += [submit("slow", {"seconds": 0.3}) for _ in range(10)]
    wait_for(lambda: scene.status(bad) == "failed")
    wait_for(scene.drained)
    assert len([line for line in ledger.lines("start") if line.job_id == bad]) == 3
    assert all(scene.status(job_id) == "completed" for job_id in innocent)
    assert "poison" in str(scene.redis.get(scene.keys.job(bad)))
    scene.judge().check(again=2 + 12)
    assert not scene.redis.hgetall(scene.keys.crashes)
    assert one.stop() == 0


def test_a_handler_that_leaves_by_sys_exit_is_a_failed_job(
    fleet: Callable[..., Fleet], scene: Scene, submit: Callable[..., str]
) -> None:
    """`sys.exit` ends the job, not the process."""
    one = fleet(PROCS="1").start()
    before = one.children("worker")
    bad = submit("deadly", {"how": "sys.exit"}, max_retries=1)
    wait_for(lambda: scene.status(bad) == "failed")
    assert one.children("worker") == before
    scene.judge().check()


@pytest.mark.parametrize("how", ["fds", "fork"])
def test_a_handler_that_breaks_its_process_strands_nothing(
    fleet: Callable[..., Fleet], scene: Scene, submit: Callable[..., str], how: str
) -> None:
    """Closed descriptors, or a forked copy of the worker: the jobs around it complete."""
    one = fleet(PROCS="2").start()
    innocent = [submit("slow", {"seconds": 0.2}) for _ in range(6)]
    submit("deadly", {"how": how}, timeout_s=0.5, max_retries=1)
    innocent += [submit("slow", {"seconds": 0.2}) for _ in range(6)]
    wait_for(lambda: all(scene.status(job_id) == "completed" for job_id in innocent))
    wait_for(scene.drained)
    judgement = scene.judge()
    assert (judgement.lost, judgement.ghosts, judgement.drift) == (0, 0, 0), judgement
    one.stop()


def test_a_worker_is_replaced_after_so_many_jobs(
    fleet: Callable[..., Fleet], scene: Scene, submit: Callable[..., str]
) -> None:
    """Recycling by count, between jobs: nothing is run twice, and the fleet goes on."""
    one = fleet(PROCS="1", RECYCLE_JOBS="50").start()
    before = one.children("worker")
    for _ in range(60):
        submit("quick")
    wait_for(lambda: one.children("worker") not in (before, []))
    for _ in range(60):
        submit("quick")
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0


def test_a_thin_fleet_does_it_all_in_one_process(
    fleet: Callable[..., Fleet], scene: Scene, submit: Callable[..., str]
) -> None:
    """`WORKER_MODE=thin`: one process runs, promotes and gives back its own dead's jobs."""
    one = fleet(PROCS="1", WORKER_MODE="thin").start()
    assert len(one.children()) == 1
    submit("quick")
    submit("quick", delay_s=0.2)
    wait_for(scene.drained)
    submit("slow", {"seconds": 0.5})
    wait_for(lambda: len(scene.ledger.lines("start")) == 3)
    os.kill(one.children("worker")[0], signal.SIGKILL)
    wait_for(scene.drained)
    scene.judge().check(again=1)
    assert one.stop() == 0
