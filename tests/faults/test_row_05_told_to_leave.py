"""Row 5: SIGTERM in mid-job, twice, during the start, as process 1; and the SIGKILL after it.

What a fleet does when it is told to leave in order stands in `tests/system/fleet`; here is
what is left when it cannot: the grace runs out under an orchestrator that does not wait.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fleets import session_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene


def test_what_has_not_begun_is_back_at_once(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """While one long job uses the grace, the rest waits for others already, uncharged."""
    one = fleet(PROCS="1", WORKER_CONCURRENCY="1", SHUTDOWN_GRACE="20s")
    for _ in range(40):  # quick ones first: their pace has the worker fetch ahead
        submit("quick")
    long = submit("slow", {"seconds": 4})
    rest = {submit("quick") for _ in range(20)}
    one.start()
    wait_for(lambda: long in {line.job_id for line in ledger.lines("start")})
    one.signal(signal.SIGTERM)
    began = time.monotonic()
    wait_for(lambda: scene.leased() == 1 and scene.waiting() == len(rest))
    took = time.monotonic() - began
    assert long not in {line.job_id for line in ledger.lines("effect")}, "the grace has run"
    assert took < 2
    assert one.stop() == 0
    fleet(PROCS="1").start()
    wait_for(scene.drained)
    judgement = scene.judge()
    judgement.check(again=1)  # `stop` was the second signal: the long one ran again
    assert judgement.again.keys() <= {long}
    assert not scene.redis.hgetall(scene.keys.crashes)


def test_a_kill_after_the_grace_loses_nothing(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """An orchestrator that kills every process in the middle of the drain: the lease does it."""
    one = fleet(PROCS="2", SHUTDOWN_GRACE="20s").start()
    for _ in range(8):
        submit("slow", {"seconds": 1.5})
    wait_for(lambda: len(ledger.lines("start")) == 8)
    more = [submit("quick") for _ in range(20)]
    one.signal(signal.SIGTERM)
    wait_for(lambda: one.said("draining"))
    for pid in session_of(one.pid):
        os.kill(pid, signal.SIGKILL)
    fleet().start()
    wait_for(scene.drained)
    scene.judge().check(again=8)
    assert all(scene.status(job_id) == "completed" for job_id in more)


@pytest.mark.parametrize("moment", ["at once", "booting"])
def test_during_the_start_it_leaves_in_order(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    moment: str,
) -> None:
    """Told before it is up, a fleet leaves with status 0 and has taken nothing along."""
    jobs = [submit("quick") for _ in range(20)]
    one = fleet(PROCS="2").start(ready=0)
    up = ("child-started", "worker") if moment == "booting" else ("supervisor-started",)
    wait_for(lambda: one.said(*up))
    assert one.stop() == 0
    assert session_of(one.pid) == []
    assert scene.leased() == 0
    fleet().start()
    wait_for(scene.drained)
    scene.judge().check()
    assert all(scene.status(job_id) == "completed" for job_id in jobs)


def may_unshare() -> bool:
    """Tell whether a process may be made the first of a namespace here."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    probe = [unshare, *UNSHARE, "true"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


UNSHARE = ("--pid", "--fork", "--mount-proc", "--kill-child")


def test_as_process_1_it_drains_and_strands_nothing(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """The first process of a container: short jobs end, long ones go back, status 0."""
    if not may_unshare():
        pytest.skip("no right to make a pid namespace")
    one = fleet(PROCS="1", SHUTDOWN_GRACE="1s")
    one.start(under=("unshare", *UNSHARE))
    short, long = submit("slow", {"seconds": 0.5}), submit("slow", {"seconds": 30})
    wait_for(lambda: len(ledger.lines("start")) == 2)
    assert one.said("supervisor-started", "child_pid=1 ")
    # `unshare` forwards nothing: its only child, seen from here, is told
    first = Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()
    os.kill(int(first[0]), signal.SIGTERM)
    assert one.wait() == 0
    assert scene.status(short) == "completed"
    assert scene.status(long) == "pending"
    assert (scene.leased(), scene.waiting()) == (0, 1)
