"""Rows 6, 7, 10, 12, 13: Redis dies, forgets its scripts, stands still, under a real fleet."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from bananas.errors import BrokerFullError
from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene
    from servers import Server


def test_killed_and_restarted_under_load(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, own_server: Server
) -> None:
    """Nothing acknowledged is lost; the fleet goes on without a restart (rows 6, 7)."""
    one = fleet(LEASE_TTL="5s", BEAT_INTERVAL="1s").start()
    before = one.children()
    for n in range(200):
        submit("quick")
        if n % 70 == 50:
            own_server.restart()
    back = time.monotonic()
    late = submit("quick")
    wait_for(lambda: scene.status(late) == "completed")
    assert time.monotonic() - back < 4
    wait_for(scene.drained)
    # what was running when the server died is settled again, not run again
    scene.judge().check(again=0)
    assert one.children() == before
    assert one.stop() == 0


@pytest.mark.slow
def test_down_for_longer_than_the_lease(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    own_server: Server,
    ledger: Ledger,
) -> None:
    """After an outage nobody is judged: no mass delivery, every job runs once (row 13)."""
    one = fleet(LEASE_TTL="2s").start()
    for _ in range(8):
        submit("slow", {"seconds": 4})
    wait_for(lambda: len(ledger.lines("start")) == 8)
    own_server.kill()
    time.sleep(3.0)
    own_server.start()
    wait_for(scene.drained)
    scene.judge().check()
    submit("quick")
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("frozen_s", [1.0, 3.0])
def test_frozen_for_a_while(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    own_server: Server,
    frozen_s: float,
) -> None:
    """SIGSTOP of the server, shorter and longer than the lease: no job starts twice."""
    one = fleet(LEASE_TTL="2s").start()
    for _ in range(30):
        submit("slow", {"seconds": 0.3})
    with own_server.frozen():
        time.sleep(frozen_s)
    for _ in range(30):
        submit("quick")
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0


def test_scripts_are_flushed_all_the_time(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, own_server: Server
) -> None:
    """SCRIPT FLUSH every 5 ms: nobody sees an error, nothing runs twice (row 10)."""
    stop = threading.Event()

    def flush() -> None:
        with own_server.client() as client:
            while not stop.wait(0.005):
                client.script_flush()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        one = fleet().start()
        for n in range(300):
            submit("quick", delay_s=0.001 * n if n % 3 == 0 else None)
        wait_for(scene.drained)
    finally:
        stop.set()
        thread.join()
    scene.judge().check()
    assert not one.said("ERROR")
    assert one.stop() == 0


def fill(submit: Callable[..., str]) -> None:
    """Submit until it is refused."""
    for _ in range(3000):
        submit("quick", {"padding": "x" * 1000})


def test_a_full_server_drains_to_nothing(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, own_server: Server
) -> None:
    """At maxmemory a submission is refused, and all that waits is worked off (row 21)."""
    for n in range(400):
        submit(
            ("quick", "quick", "deadly")[n % 3],
            {"how": "sys.exit"} if n % 3 == 2 else {},
            max_retries=2,
            **({"delay_s": 0.5} if n % 7 == 0 else {}),
        )
    one = fleet(RETENTION_COMPLETED="0").start(ready=0)
    with own_server.client() as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", used - 1000)
        with pytest.raises(BrokerFullError):
            fill(submit)
        wait_for(scene.drained)
        client.config_set("maxmemory", 0)
    counters = scene.counters()
    assert counters["completed"] + counters["failed"] == counters["accepted"]
    assert scene.judge().drift == 0
    wait_for(lambda: one.said("worker", "ready") >= 2)
    submit("quick")
    wait_for(scene.drained)
    assert one.stop() == 0
