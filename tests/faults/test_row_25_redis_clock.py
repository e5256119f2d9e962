"""Row 25: the clock of Redis's host is set, an hour ahead and back, under a real fleet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import pytest

import faketime
from fleets import wait_for
from servers import available

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fleets import Fleet, Ledger, Scene
    from servers import Kind, Server

pytestmark = pytest.mark.skipif(
    faketime.preload() is None, reason="needs libfaketime (apt: faketime)"
)

HOUR_S = 3600


@pytest.fixture
def clock(tmp_path: Path) -> faketime.Clock:
    """Return the clock of the server."""
    return faketime.Clock(tmp_path / "clock")


@pytest.fixture
def own_server(
    first_kind: Kind, make_server: Callable[..., Server], clock: faketime.Clock
) -> Server:
    """Return a server whose clock the test sets."""
    # Debian's redis-server has an allocator that asks the time before the library is ready for it
    kind = "valkey" if first_kind == "redis" else first_kind
    if not available([kind]):
        pytest.skip("needs a server that runs with libfaketime, such as Valkey")
    return make_server(kind, aof=True, environment=clock.environment)


def offset_s(scene: Scene) -> float:
    """Return how far Redis's clock is ahead of ours."""
    seconds, microseconds = cast("Any", scene.redis.time())
    return float(seconds) + microseconds / 1e6 - time.time()


def running(scene: Scene, ledger: Ledger, ids: set[str]) -> bool:
    """Tell whether all of these have begun and none has ended."""
    begun = {line.job_id for line in ledger.lines("start")}
    return ids <= begun and not any(scene.status(job_id) == "completed" for job_id in ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    "by_s",
    [
        pytest.param(-HOUR_S, id="back and ahead"),
        pytest.param(HOUR_S, id="ahead and back", marks=pytest.mark.long),
    ],
)
def test_the_clock_of_redis_is_set(  # noqa: PLR0913, PLR0917 - a fleet and all that looks at it
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    clock: faketime.Clock,
    by_s: int,
) -> None:
    """Leases hold over a step and the step back: no job begins twice, and work goes on."""
    # sweeps come oftener than beats: without their own caution they would see the step first
    one = fleet(LEASE_TTL="1500ms", BEAT_INTERVAL="700ms", SCHEDULER_INTERVAL="50ms").start()
    due = submit("quick", delay_s=HOUR_S // 2)
    grace = submit("slow", {"seconds": 1.8})
    wait_for(lambda: scene.status(grace) == "completed")  # a new warden judges nobody so long
    for step_s in (by_s, 0):
        held = {submit("slow", {"seconds": 2.5}) for _ in range(8)}
        wait_for(lambda held=held: running(scene, ledger, held))
        clock.set(step_s)
        wait_for(lambda step_s=step_s: abs(offset_s(scene) - step_s) < 60)
        # what the deadlines say is an hour off by now; the runs outlast a lease
        wait_for(lambda held=held: all(scene.status(job_id) == "completed" for job_id in held))
        soon = submit("quick", delay_s=0.5)
        wait_for(lambda soon=soon: scene.status(soon) == "completed")
    # by Redis's clock it was due while that was an hour ahead, and not while it was behind
    assert (scene.status(due) == "completed") == (by_s > 0)
    if by_s < 0:
        scene.accepted.discard(due)
        scene.redis.zrem(scene.keys.scheduled, due)
        scene.redis.hincrby(scene.keys.counters, "accepted", -1)
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0


@pytest.mark.slow
def test_a_dead_host_is_still_found_after_the_clock_went_back(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    clock: faketime.Clock,
) -> None:
    """A deadline of the old time does not hold for an hour: living epochs beat it down."""
    one = fleet(LEASE_TTL="1500ms", PROCS="1").start()
    clock.set(-HOUR_S)
    wait_for(lambda: offset_s(scene) < -60)

    def deadlines_are_near() -> bool:
        now_ms = (time.time() - HOUR_S) * 1000
        scores = cast("Any", scene.redis.zrange(scene.keys.epochs, 0, -1, withscores=True))
        return bool(scores) and all(score < now_ms + 60_000 for _, score in scores)

    wait_for(deadlines_are_near)
    held = {submit("slow", {"seconds": 1}) for _ in range(4)}
    wait_for(lambda: running(scene, ledger, held))
    one.end()  # the whole host: nobody gives anything back
    fleet(LEASE_TTL="1500ms", PROCS="1").start()
    wait_for(scene.drained)
    scene.judge().check(again=4)
