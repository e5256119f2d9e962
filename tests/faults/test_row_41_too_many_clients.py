"""Row 41: the server takes no more clients, and everybody comes back at once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import pytest

from bananas.transport import Transport
from fleets import wait_for
from workbench import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fleets import Fleet, Scene
    from servers import Server

MOST = 20


@pytest.fixture
def crowd(own_server: Server) -> Iterator[Callable[[], int]]:
    """Return a function that takes every place the server has left; returns how many it took."""
    plugs: list[socket.socket] = []

    def press() -> int:
        before = len(plugs)
        while True:
            plug = socket.socket(socket.AF_UNIX)
            plug.settimeout(5)
            plug.connect(str(own_server.socket))
            try:
                plug.sendall(b"PING\r\n")
                took = plug.recv(64).startswith(b"+PONG")
            except OSError:
                took = False
            if not took:
                plug.close()
                return len(plugs) - before
            plugs.append(plug)

    yield press
    for plug in plugs:
        plug.close()


def test_a_fleet_waits_for_places(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    own_server: Server,
    crowd: Callable[[], int],
) -> None:
    """Cut off and refused, processes ask again with growing pauses, and go on when let in."""
    one = fleet(LEASE_TTL="4s").start()
    for _ in range(8):
        submit("slow", {"seconds": 1})
    with own_server.client() as client:
        client.config_set("maxclients", MOST)
        assert crowd() > 0
        before = cast("Any", client.info("stats"))["rejected_connections"]
        cut = sum(
            client.client_kill_filter(_id=found["id"])
            for found in cast("Any", client.client_list())
            if found["name"].startswith("bananas:")
        )
        assert cut == 6, "two connections a worker, two a warden"
        crowd()
        wait_for(
            lambda: cast("Any", client.info("stats"))["rejected_connections"] > before + 6 * 3,
            what="refusals",
        )
        time.sleep(1.0)
        refused = cast("Any", client.info("stats"))["rejected_connections"] - before
        # six connections, pauses of 50 ms that double up to 2 s: not a hundred attempts
        assert refused < 60, refused
        client.config_set("maxclients", 1000)
        submit("quick")
        wait_for(scene.drained)
        names = Counter(found["name"] for found in cast("Any", client.client_list()))
        assert all(n == 1 for name, n in names.items() if name.startswith("bananas:")), names
    scene.judge().check()
    assert one.said("max number of clients") >= 1
    assert one.stop() == 0


def test_a_fleet_has_two_connections_a_process(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, own_server: Server
) -> None:
    """However much work there is."""
    one = fleet(PROCS="2", WORKER_CONCURRENCY="50").start()
    with own_server.client() as client:
        for n in range(400):
            submit("slow", {"seconds": 0.02})
            if n % 40 == 0:
                found = [c["name"] for c in cast("Any", client.client_list())]
                roles = Counter(name.split(":")[1] for name in found if name.startswith("bananas:"))
                assert roles == {"worker": 2, "wake": 2, "warden": 1, "watch": 1}
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.long)])
async def test_many_come_back_spread(make_server: Callable[..., Server], count: int) -> None:
    """After an outage longer than the longest pause, no tenth of it sees half of them."""
    server = make_server()
    transports = [Transport(server.url, retry_window_s=60) for _ in range(count)]
    back_s: list[float] = []
    try:
        await asyncio.gather(*(t.command("PING", repeat=True) for t in transports))
        server.kill()

        async def ask(transport: Transport) -> None:
            await transport.command("PING", repeat=True)
            back_s.append(time.monotonic())

        asking = [asyncio.ensure_future(ask(transport)) for transport in transports]
        # by the seventh attempt the pauses are two seconds long at most, and one at least
        await until(lambda: all(t.counters.failed_connects >= 7 for t in transports), within_s=40)
        server.start()
        await asyncio.gather(*asking)
        counters = [t.counters for t in transports]
    finally:
        await asyncio.gather(*(t.close() for t in transports))
    assert all(c.connects == 2 for c in counters)
    assert max(c.failed_connects for c in counters) < 14
    tenths = Counter(int((at - min(back_s)) * 10) for at in back_s)
    assert max(tenths.values()) < count / 2, sorted(tenths.items())
