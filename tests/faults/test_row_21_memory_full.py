"""Row 21: maxmemory is reached while everything runs; new jobs are refused, all else goes on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from bananas.errors import BrokerFullError
from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene
    from servers import Server


@pytest.mark.slow
def test_leases_outlive_full_memory_and_deaths_are_seen(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    own_server: Server,
) -> None:
    """Beats go on at maxmemory, longer than a lease; what a dead worker held runs again there."""
    one = fleet(LEASE_TTL="1500ms", RETENTION_COMPLETED="0").start()
    for _ in range(8):
        submit("slow", {"seconds": 3})
    retried = submit("deadly", {"how": "sys.exit"}, max_retries=2)
    wait_for(lambda: len(ledger.lines("start")) >= 8)
    waiting = [submit("slow", {"seconds": 0.1}) for _ in range(60)]
    with own_server.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) - 1000)
        with pytest.raises(BrokerFullError):
            submit("quick", {"padding": "x" * 100_000})
        # three seconds of running jobs: twice a lease
        wait_for(lambda: len(ledger.lines("effect")) >= 8)
        assert {line.attempt for line in ledger.lines("start")} <= {1, 2}
        held = [line for line in ledger.lines("start") if line.job_id not in {retried, *waiting}]
        assert len(held) == 8, "a lease was lost for want of memory"
        victim = one.children("worker")[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(scene.drained)
        client.config_set("maxmemory", 0)
    counters = scene.counters()
    assert counters["completed"] + counters["failed"] == counters["accepted"] == 69
    assert scene.judge().drift == 0
    submit("quick")
    wait_for(scene.drained)
    assert one.stop() == 0
