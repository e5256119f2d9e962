"""Row 15: the network between workers and Redis is cut, both ways, for a moment and for longer.

Real fleets in network namespaces; packets are dropped, nothing is closed or refused. Needs root,
`ip` and `iptables`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from fleets import session_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.cables import Cable, FarServer
    from fleets import Fleet, Ledger, Line, Scene

TTL_S = 2.0  # the fleets' LEASE_TTL, and how far a worker's own clock can be trusted
SLACK_S = 0.2  # a look at the lease comes twenty times a second

pytestmark = pytest.mark.slow


@pytest.fixture
def own_server(far_server: FarServer) -> FarServer:
    """Let fleets, scene and submissions be about the server at the far end."""
    return far_server


def test_a_cut_of_a_second_costs_nothing(  # noqa: PLR0913, PLR0917 - fixtures
    cable: Cable,
    own_server: FarServer,
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
) -> None:
    """Shorter than the lease: what runs goes on, what waits comes later, nothing runs twice."""
    near = fleet(own_server.far_url, LEASE_TTL="6s").start(under=cable.at_near_end)
    for _ in range(3):
        for _ in range(8):
            submit("slow", {"seconds": 0.2})
        wait_for(lambda: ledger.lines("start"))
        cable.cut()
        time.sleep(1.0)  # the cut itself
        cable.mend()
        wait_for(scene.drained)
    scene.judge().check()
    assert near.said("fenced") == 0
    assert near.stop() == 0


def test_a_cut_beyond_the_lease(  # noqa: PLR0913, PLR0917 - fixtures
    cable: Cable,
    own_server: FarServer,
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
) -> None:
    """Others take over; the one that is cut off begins nothing, is refused, and comes back."""
    options = {"PROCS": "1", "WORKER_CONCURRENCY": "2"}
    near = fleet(own_server.far_url, **options).start(under=cable.at_near_end)
    for _ in range(12):
        submit("slow", {"seconds": 0.05})
    wait_for(scene.drained)
    mine = set(session_of(near.pid))
    for _ in range(8):
        submit("slow", {"seconds": 4.0})
    wait_for(lambda: len(_running(ledger)) == 2)
    ends = _running(ledger)
    wait_for(lambda: scene.leased() > 2, what="jobs that wait in the worker")
    cable.cut()
    cut_at_s = time.time()
    held = scene.leased()
    other = fleet(own_server.url, **options).start()
    after = [submit("quick") for _ in range(4)]
    wait_for(
        lambda: scene.counters().get("reclaimed", 0) >= held, what="the jobs of the one cut off"
    )
    wait_for(lambda: all(scene.status(job_id) == "completed" for job_id in after))
    wait_for(lambda: not ends & _running(ledger, mine), what="the ends of its runs")
    time.sleep(SLACK_S)  # in which it would begin what waits
    assert max(line.at_s for line in _lines(ledger, "effect", mine)) > cut_at_s + TTL_S + SLACK_S
    late = [
        line for line in _lines(ledger, "start", mine) if line.at_s > cut_at_s + TTL_S + SLACK_S
    ]
    assert late == [], "begun on a lease that had ended"
    begun = {line.job_id for line in _lines(ledger, "start", mine)}
    assert len(begun) < 12 + held, "nothing waited there when the lease ended"
    assert near.said("ended by our own clock") >= 1
    cable.mend()
    wait_for(lambda: near.said("refused", "no longer ours"), what="its late outcomes")
    wait_for(lambda: near.said("fenced"))
    wait_for(scene.drained)
    assert other.stop() == 0
    last = [submit("quick") for _ in range(4)]
    wait_for(scene.drained)
    assert {line.pid for line in ledger.lines("start") if line.job_id in last} <= mine
    scene.judge().check(again=held)
    assert near.stop() == 0
    assert not os.path.exists(f"/proc/{near.pid}")  # noqa: PTH110 - a process, not a file


def _lines(ledger: Ledger, what: str, pids: set[int]) -> list[Line]:
    return [line for line in ledger.lines(what) if line.pid in pids]


def _running(ledger: Ledger, pids: set[int] | None = None) -> set[str]:
    lines = [line for line in ledger.lines() if pids is None or line.pid in pids]
    ended = {line.job_id for line in lines if line.what == "effect"}
    return {line.job_id for line in lines if line.what == "start"} - ended
