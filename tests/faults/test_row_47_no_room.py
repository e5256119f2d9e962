"""Row 47: no more files, threads or processes to be had: fewer of them, back-off, no spin.

A failing `fork` stands in `tests/system/supervisor/test_supervisor.py`, as another user, since no
limit on processes holds for root.
"""

from __future__ import annotations

import http.client
import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fleets import wait_for
from servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Scene

FILES = 64


def limit_files() -> None:
    """As `ulimit -n 64`."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    fields = stat[stat.rindex(b")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / 100


def alive(port: int) -> bool:
    """Tell whether the API answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_more_connections_than_files(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene
) -> None:
    """An API without descriptors left waits, at little cost, and serves when there are some."""
    port = free_port()
    one = fleet(API_PORT=str(port), PROCS="1")
    one.environment["FLEET_APIS"] = "1"
    one.start(before=limit_files)
    wait_for(lambda: one.said("child-ready", "api"))
    api = one.children("api")[0]
    with ExitStack() as stack:
        for _ in range(FILES + 20):
            plug = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        wait_for(lambda: len([*Path(f"/proc/{api}/fd").iterdir()]) >= FILES - 2)
        used = cpu_s(api)
        time.sleep(2)  # a spin would use all of it
        assert cpu_s(api) - used < 0.8
        for _ in range(20):  # those who have enough go on
            submit("quick")
        wait_for(scene.drained)
        del plug
    wait_for(lambda: alive(port), what="the API")
    assert one.children("api") == [api]
    scene.judge().check()
    assert one.stop() == 0


def test_a_whole_fleet_fits_in_few_files(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene
) -> None:
    """`ulimit -n 64` suffices for workers of any concurrency."""
    one = fleet(PROCS="2", WORKER_CONCURRENCY="100").start(before=limit_files)
    for _ in range(60):
        submit("slow", {"seconds": 0.05})
        submit("slow_sync", {"seconds": 0.01})
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0
