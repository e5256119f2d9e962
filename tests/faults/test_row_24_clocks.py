"""Row 24: the clocks of workers, schedulers and APIs are an hour off, or step all the time.

No due time and no lease goes by them: what is due, what has expired and what has lapsed is
said by Redis's clock, and spans are measured by one that cannot be set.
"""

from __future__ import annotations

import json
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import faketime
from fleets import wait_for
from servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fleets import Fleet, Ledger, Scene

pytestmark = pytest.mark.skipif(
    faketime.preload() is None, reason="needs libfaketime (apt: faketime)"
)
HOUR_S = 3600


def post(port: int, **members: object) -> str:
    """Submit a job through the API; returns its id."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/jobs",
        json.dumps(members).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - ours
        record: dict[str, Any] = json.loads(answer.read())
    return str(record["id"])


def in_minutes(minutes: int) -> str:
    """Return a time as a producer writes it, by the true clock."""
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


@pytest.mark.parametrize("workers_s", [HOUR_S, -HOUR_S])
def test_clocks_that_are_hours_apart_decide_nothing(
    fleet: Callable[..., Fleet], scene: Scene, ledger: Ledger, tmp_path: Path, workers_s: int
) -> None:
    """Workers an hour off one way, scheduler and API the other way."""
    port = free_port()
    theirs, others = faketime.Clock(tmp_path / "theirs"), faketime.Clock(tmp_path / "others")
    theirs.set(workers_s)
    others.set(-workers_s)
    api = fleet(WORKER_MODE="scheduler-only", PROCS="1", API_PORT=str(port))
    api.environment |= {"FLEET_APIS": "1", **others.environment}
    api.start(ready=0)
    workers = fleet(ENABLE_SCHEDULER="false", PROCS="1")
    workers.environment |= theirs.environment
    workers.start()
    wait_for(lambda: api.said("child-ready", "api"))
    asked_s = time.monotonic()
    due = post(port, name="quick", delay_s=2)
    at = post(port, name="quick", scheduled_for=in_minutes(-1))
    inside = post(port, name="quick", expires_at=in_minutes(30))
    late = post(port, name="quick", expires_at=in_minutes(-30))
    again = post(port, name="deadly", payload={"how": "sys.exit"}, max_retries=2)
    scene.accepted |= {due, at, inside, late, again}
    started = wait_for(lambda: due in {line.job_id for line in ledger.lines("start")})
    assert started
    assert time.monotonic() - asked_s >= 2.0, "not before it is due"
    wait_for(scene.drained)
    assert scene.status(at) == scene.status(inside) == "completed"
    assert (scene.status(late), scene.counters()["expired"]) == ("cancelled", 1)
    assert scene.status(again) == "failed"
    scene.judge().check(again=1)
    assert (workers.stop(), api.stop()) == (0, 0)


def test_a_clock_that_steps_all_the_time_costs_nothing(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    """An hour forth and two back, several times a second: nothing is lost, early or repeated."""
    clock = faketime.Clock(tmp_path / "clock")
    one = fleet(PROCS="1", LEASE_TTL="1500ms")
    one.environment |= clock.environment
    one.start()
    asked_s = time.monotonic()
    due = [submit("quick", delay_s=2 + n / 10) for n in range(10)]
    for _ in range(6):
        submit("slow", {"seconds": 1})
    for step in range(24):
        clock.set((HOUR_S, -HOUR_S, 0)[step % 3])
        submit("quick")
        time.sleep(0.15)  # the rhythm of the fault itself
        if time.monotonic() - asked_s < 2:
            assert not set(due) & {line.job_id for line in ledger.lines("start")}
    wait_for(scene.drained)
    scene.judge().check()
    assert one.said("fenced") == 0
    assert one.stop() == 0
