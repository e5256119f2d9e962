"""Row 23: the disk under the append-only file is full, and has room again."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import RedisError

from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fleets import Fleet, Ledger, Scene
    from servers import Server

SMALL = "1m"
ROOMY = "32m"


class Disk:
    """A file system of its own, as small as the test wants it."""

    def __init__(self, folder: Path) -> None:
        """Mount it; skips the test where that is not permitted."""
        self.folder = folder
        folder.mkdir()
        done = mount("-t", "tmpfs", "-o", f"size={SMALL}", "bananas-test", str(folder))
        if done.returncode:
            pytest.skip(f"needs to mount a tmpfs: {done.stderr.strip()}")

    def resize(self, size: str) -> None:
        """Give it more room, or less."""
        done = mount("-o", f"remount,size={size}", str(self.folder))
        assert done.returncode == 0, done.stderr

    def unmount(self) -> None:
        """Take it away."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)  # noqa: S607


def mount(*words: str) -> subprocess.CompletedProcess[str]:
    """Mount, and say how it went."""
    try:
        return subprocess.run(["mount", *words], capture_output=True, text=True, check=False)  # noqa: S607
    except FileNotFoundError:
        pytest.skip("needs mount(8)")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a small disk."""
    made = Disk(tmp_path / "disk")
    yield made
    made.unmount()


@pytest.fixture
def on_disk(disk: Disk, make_server: Callable[..., Server]) -> Callable[[str], Server]:
    """Return a starter of a server that keeps its file on the small disk."""

    def start(fsync: str) -> Server:
        terms = ("--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0")
        return make_server(aof=True, folder=disk.folder, arguments=terms)

    return start


@pytest.fixture
def own_server(request: pytest.FixtureRequest, on_disk: Callable[[str], Server]) -> Server:
    """Return a server whose disk is small; the test's parameter is its `appendfsync`."""
    return on_disk(request.param)


def fill(server: Server) -> str:
    """Write what is no job until the server takes no more; returns its words."""
    with server.client() as client:
        for n in range(500):
            try:
                client.set(f"filler:{n % 4}", "x" * 16_384)
            except RedisError as error:
                return str(error)
            time.sleep(0.002)  # the file is written after the answer
    raise AssertionError("the disk did not get full")


@pytest.mark.slow
@pytest.mark.parametrize("own_server", ["everysec", "always"], indirect=True)
def test_a_full_disk_is_waited_out(  # noqa: PLR0913, PLR0917 - a fleet and all that looks at it
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    own_server: Server,
    disk: Disk,
    request: pytest.FixtureRequest,
) -> None:
    """Nothing is judged while nothing can be written; with room again all goes on by itself."""
    fsync = request.node.callspec.params["own_server"]
    one = fleet(LEASE_TTL="1500ms").start()
    before = one.children()
    for _ in range(8):
        submit("slow", {"seconds": 1})
    submit("quick", delay_s=1)
    wait_for(lambda: len(ledger.lines("start")) == 8)
    words = fill(own_server)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(submit, "quick")
        if fsync == "everysec":
            assert "MISCONF" in words
            time.sleep(3.0)  # twice the lease: the runs end and cannot be settled meanwhile
            assert not waiting.done(), "a write was told as done that was not"
            disk.resize(ROOMY)
        else:
            # a server that must not answer before it has written ends itself
            wait_for(own_server.ended)
            disk.resize(ROOMY)
            time.sleep(2.0)
            own_server.restart()
        scene.accepted.add(waiting.result(30))
    late = submit("quick")
    wait_for(lambda: scene.status(late) == "completed")
    wait_for(scene.drained)
    scene.judge().check()
    assert one.children() == before
    assert one.stop() == 0
