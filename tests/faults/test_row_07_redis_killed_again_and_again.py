"""Rows 6 and 7: Redis is killed again and again under load, with either way of writing its file.

A kill costs no write that the kernel has, so both ways keep all that was acknowledged; what a
loss of power costs is shown by row 8.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene
    from servers import Server


@pytest.fixture
def own_server(request: pytest.FixtureRequest, make_server: Callable[..., Server]) -> Server:
    """Return a server with an append-only file; the test's parameter is its `appendfsync`."""
    return make_server(aof=True, arguments=("--appendfsync", request.param))


def kill_under_load(  # noqa: PLR0913, PLR0917 - a fleet and all that looks at it
    kills: int,
    one: Fleet,
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    server: Server,
) -> None:
    """Kill the server `kills` times while jobs run and come; then look at every one of them."""
    before = one.children()
    for n in range(kills):
        for m in range(20):
            submit("quick", delay_s=0.2 if m % 5 == 0 else None)
        submit("slow", {"seconds": 0.3})
        if n % 2:  # in the middle of it, else when it is nearly done
            seen = len(ledger.lines("effect"))
            wait_for(lambda seen=seen: len(ledger.lines("effect")) > seen or scene.drained())
        server.restart()
        back_s = time.monotonic()
        probe = submit("quick")
        wait_for(lambda probe=probe: scene.status(probe) == "completed")
        # two seconds is the longest pause between two attempts to connect
        assert time.monotonic() - back_s < 6
    wait_for(scene.drained)
    scene.judge().check(again=0)
    assert one.children() == before
    assert one.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("own_server", ["everysec"], indirect=True)
def test_killed_three_times(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    own_server: Server,
) -> None:
    """Nothing acknowledged is lost, nothing runs twice, nobody is restarted."""
    kill_under_load(3, fleet(PROCS="1").start(), submit, scene, ledger, own_server)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("own_server", ["everysec", "always"], indirect=True)
def test_killed_fifty_times(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    own_server: Server,
) -> None:
    """The same, fifty times."""
    kill_under_load(50, fleet().start(), submit, scene, ledger, own_server)
