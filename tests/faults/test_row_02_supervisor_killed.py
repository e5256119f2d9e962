"""Row 2: the supervisor is killed; row 38: two of them at once; row 3: the warden is killed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from fleets import session_of, titles_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene


def test_no_process_is_left_and_another_fleet_takes_over(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """Workers drain and leave within the grace; what they could not end runs elsewhere."""
    one = fleet(SHUTDOWN_GRACE="1s").start()
    for _ in range(6):
        submit("slow", {"seconds": 4})
    wait_for(lambda: len(ledger.lines("start")) == 6)
    session = one.pid
    one.signal(signal.SIGKILL)
    fleet().start()
    wait_for(lambda: titles_of(session) == [], within_s=8, what="the end of the children")
    wait_for(scene.drained)
    scene.judge().check(again=6)


@pytest.mark.slow
def test_a_killed_fleet_is_taken_over_by_lease(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """A host that is gone at once: nobody gives anything back, the lease does it (I7)."""
    one = fleet().start()
    for _ in range(6):
        submit("slow", {"seconds": 1})
    wait_for(lambda: len(ledger.lines("start")) == 6)
    for pid in session_of(one.pid):
        os.kill(pid, signal.SIGKILL)
    fleet().start()
    wait_for(scene.drained)
    scene.judge().check(again=6)
    assert not scene.redis.hgetall(scene.keys.crashes), "nobody saw who was to blame"


def test_two_supervisors_share_a_queue(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene
) -> None:
    """The same configuration twice: two sets of epochs, no interference (row 38)."""
    fleets = [fleet().start(), fleet().start()]
    for _ in range(400):
        submit("quick")
    wait_for(scene.drained)
    scene.judge().check()
    for one in fleets:
        assert one.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_warden_is_replaced_at_once(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, how: signal.Signals
) -> None:
    """Its death costs its restart: due jobs go on, leases are kept, nothing runs twice (row 3)."""
    one = fleet().start()
    for n in range(60):
        submit("quick", delay_s=0.02 * n)
        if n % 15 == 5:
            for pid in one.children("warden"):
                os.kill(pid, how)
            wait_for(lambda: one.children("warden"))
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0


@pytest.mark.parametrize(
    "point",
    [
        "before_promote:3",
        "after_promote_sent:3",
        "after_promote_reply:3",
        "after_beat_sent:2",
        "after_lapsed_reply:2",
    ],
)
def test_a_warden_that_ends_between_any_two_steps_loses_nothing(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, point: str
) -> None:
    """Promotion, beat and sweep are one script each: there is no half of one."""
    for n in range(50):
        submit("quick", delay_s=0.01 * n)
    # only a warden reaches these points, and each of its generations ends there
    one = fleet(FAIL=point, WORKER_MODE="default").start(ready=1)
    wait_for(lambda: one.said("child-ended", "warden") >= 2 or scene.drained())
    one.end()
    fleet().start()
    wait_for(scene.drained)
    scene.judge().check(again=8)


@pytest.mark.parametrize("point", ["before_reclaim:1", "after_reclaim_sent:1"])
def test_a_warden_that_ends_while_it_gives_back_is_followed_by_one_that_does(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    point: str,
) -> None:
    """Slots of the dead stay until somebody has given back what they held."""
    one = fleet(FAIL=point, PROCS="1").start()
    for _ in range(4):
        submit("slow", {"seconds": 1})
    wait_for(lambda: len(ledger.lines("start")) >= 4)
    os.kill(one.children("worker")[0], signal.SIGKILL)
    wait_for(lambda: one.said("child-ended", "warden") >= 1)
    one.end()
    fleet().start()
    wait_for(scene.drained)
    scene.judge().check(again=12)
