"""Row 27: a handler leaks; its process is replaced between jobs, and a low limit does not loop.

What an operating system ends for want of memory dies as by `kill -9`: rows 1 and 28.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Scene


@pytest.mark.long
def test_a_process_that_leaks_is_replaced_between_jobs(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene
) -> None:
    """Ten MB a job, a limit of 200: one replacement, and no job runs twice for it."""
    one = fleet(PROCS="1", RECYCLE_RSS="200MiB").start()
    before = one.children("worker")
    for _ in range(30):
        submit("leak", {"mb": 10})
    wait_for(lambda: before[0] not in one.children("worker"))
    for _ in range(5):
        submit("leak", {"mb": 10})
    wait_for(scene.drained)
    scene.judge().check()
    assert one.said("child-ended", "worker") == 1
    assert one.said("asking to be replaced") == 1
    assert one.stop() == 0


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_limit_below_a_fresh_process_does_not_loop(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene
) -> None:
    """It is said once, and nobody is replaced for what every process needs."""
    one = fleet(PROCS="1", RECYCLE_RSS="16MiB").start()
    before = one.children("worker")
    until_s = time.monotonic() + 25
    while time.monotonic() < until_s:
        submit("quick")
        time.sleep(0.2)
    wait_for(scene.drained)
    scene.judge().check()
    assert one.children("worker") == before
    assert one.said("more than the limit") == 1
    assert one.stop() == 0
