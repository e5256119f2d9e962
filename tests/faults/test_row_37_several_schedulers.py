"""Row 37: five schedulers at once, one of which stands still for a while: each job once.

There is no leader and no lock: what moves a due job is one script that any number may call.
Periodic tasks do not exist yet; when they do, a slot's job id makes it unique.
"""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene

SCHEDULERS = 5


def test_five_schedulers_promote_each_job_once(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """None early, none twice, none lost; also what was due while one of them stood still."""
    fleet(PROCS="1", ENABLE_SCHEDULER="false").start()
    schedulers = [
        fleet(WORKER_MODE="scheduler-only", PROCS="1").start(ready=0) for _ in range(SCHEDULERS)
    ]
    for one in schedulers:
        wait_for(lambda one=one: one.said("child-ready", "warden"))
    chance = random.Random(37)
    began_s = time.time()
    due: dict[str, float] = {}
    for _ in range(300):
        delay_s = 1.0 + chance.random() * 2
        asked_s = time.time()
        due[submit("quick", delay_s=delay_s)] = asked_s + delay_s
    together = int(time.time()) + 3  # and many in the very same instant
    instant = datetime.fromtimestamp(together, UTC)
    for _ in range(100):
        due[submit("quick", scheduled_for=instant)] = together
    frozen = schedulers[0].children("warden")[0]
    os.kill(frozen, signal.SIGSTOP)
    wait_for(lambda: len(ledger.lines("start")) >= 200)
    os.kill(frozen, signal.SIGCONT)
    wait_for(scene.drained)
    assert time.time() - began_s >= 2
    scene.judge().check()
    # the same clock here and at the server; a due time has milliseconds
    early = [line for line in ledger.lines("start") if line.at_s < due[line.job_id] - 0.001]
    assert early == []
    assert scene.counters()["promoted"] == len(due)
    assert [one.stop() for one in schedulers] == [0] * SCHEDULERS
