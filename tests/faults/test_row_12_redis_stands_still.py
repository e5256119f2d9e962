"""Rows 12, 13, 14: Redis stands still, for less and for more than a lease, or is blocked."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import RedisError

from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene
    from servers import Server


def still(  # noqa: PLR0913, PLR0917 - a fleet and all that looks at it
    times: int,
    seconds: float,
    one: Fleet,
    submit: Callable[..., str],
    scene: Scene,
    server: Server,
) -> None:
    """Hold the server still again and again while jobs come and run."""
    for n in range(times):
        for _ in range(10):
            submit("quick")
        submit("slow", {"seconds": seconds * 1.5})
        if n % 2:
            with server.frozen():
                time.sleep(seconds)
        else:
            with server.client() as client:
                # writes and scripts wait, and so does whoever sends them
                client.client_pause(int(seconds * 1000), all=True)
            time.sleep(seconds / 2)
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0


@pytest.mark.slow
def test_still_for_less_than_a_lease(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, own_server: Server
) -> None:
    """SIGSTOP and CLIENT PAUSE, one after the other: no job begins twice (row 12)."""
    still(6, 0.5, fleet(PROCS="1").start(), submit, scene, own_server)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_still_a_hundred_times(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, own_server: Server
) -> None:
    """The same, a hundred times for a second."""
    still(100, 1.0, fleet().start(), submit, scene, own_server)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_away_for_longer_than_calls_are_repeated(  # noqa: PLR0913, PLR0917 - a fleet and its judges
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    own_server: Server,
    how: str,
) -> None:
    """A minute: calls give up, outcomes do not; then all is settled, nothing runs again (13)."""
    one = fleet(LEASE_TTL="2s").start()
    before = one.children()
    for _ in range(8):
        submit("slow", {"seconds": 2})
    wait_for(lambda: len(ledger.lines("start")) == 8)
    if how == "killed":
        own_server.kill()
        time.sleep(60.0)
        own_server.start()
    else:
        with own_server.frozen():
            time.sleep(60.0)
    assert one.said("cannot settle")
    submit("quick")
    wait_for(scene.drained)
    scene.judge().check()
    assert one.children() == before
    assert one.stop() == 0


BUSY = """
local began = redis.call('TIME')[1]
local rounds = 0
while redis.call('TIME')[1] - began < tonumber(ARGV[1]) do rounds = rounds + 1 end
return rounds
"""


@pytest.mark.slow
def test_a_long_script_of_somebody_else(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, own_server: Server
) -> None:
    """While Redis answers BUSY, calls wait and repeat; nothing runs twice (row 14)."""
    one = fleet(PROCS="1").start()
    refused: list[str] = []

    def block() -> None:
        with own_server.client(timeout_s=30) as client:
            for _ in range(2):
                client.eval(BUSY, 0, 2)

    def watch(stop: threading.Event) -> None:
        with own_server.client() as client:
            while not stop.wait(0.05):
                try:
                    client.get("x")
                except RedisError as error:
                    refused.append(str(error))

    with own_server.client() as client:
        client.config_set("lua-time-limit", 100)
    stop = threading.Event()
    threads = [threading.Thread(target=block), threading.Thread(target=watch, args=(stop,))]
    for n in range(20):
        submit("slow", {"seconds": 0.3})
        if n == 10:
            for thread in threads:
                thread.start()
    for _ in range(20):
        submit("quick")
    threads[0].join()
    wait_for(scene.drained)
    stop.set()
    threads[1].join()
    assert any("BUSY" in text for text in refused), "the script was too short to be felt"
    scene.judge().check()
    assert not one.said("ERROR")
    assert one.stop() == 0
