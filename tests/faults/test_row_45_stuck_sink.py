"""Row 45: nobody reads the log, its disk is full, the standard streams are closed: jobs go on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Scene


def drain(one: Fleet, submit: Callable[..., str], scene: Scene) -> None:
    """Have a fleet work off what makes many lines in its log, and stop it."""
    jobs = [submit("quick") for _ in range(50)]
    jobs += [submit("loud", {"lines": 100}) for _ in range(20)]
    failing = [submit("deadly", {"how": "sys.exit"}, max_retries=2) for _ in range(20)]
    wait_for(scene.drained)
    scene.judge().check(again=len(failing))
    assert all(scene.status(job_id) == "completed" for job_id in jobs)
    assert one.stop() == 0


def test_a_pipe_that_nobody_reads(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene
) -> None:
    """Full after 64 KiB: lines are dropped and counted, and nobody waits."""
    reading, writing = os.pipe()
    try:
        one = fleet(PROCS="2").start(sink=writing)
        os.close(writing)
        drain(one, submit, scene)
    finally:
        os.close(reading)


def test_a_full_disk(fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene) -> None:
    """Each write fails with ENOSPC."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        drain(fleet(PROCS="2").start(sink=full), submit, scene)
    finally:
        os.close(full)


def close_all() -> None:
    """Close the standard streams, as `<&- >&- 2>&-` does."""
    for fd in range(3):
        os.close(fd)


def test_closed_streams(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene
) -> None:
    """What is meant for the log does not go to the connection that got its number."""
    one = fleet(PROCS="2").start(sink=1, before=close_all)
    wait_for(lambda: scene.redis.zcard(scene.keys.epochs) == 2, what="workers")
    for pid in (one.pid, *one.children()):
        for fd in range(3):
            assert str(Path(f"/proc/{pid}/fd/{fd}").readlink()) == os.devnull
    drain(one, submit, scene)
