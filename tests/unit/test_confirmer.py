"""The confirmer before a socket that answers as it is told: whom it believes, and whom it asks."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bananas import confirmer as module
from bananas.address import Address
from bananas.confirmer import Confirmer
from bananas.errors import DurabilityError, DurabilityUnconfirmedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BOUND_S = 20.0


class Scene:
    """A server that can give `fsync`, unless told otherwise, and a confirmer that asks it."""

    def __init__(self, path: Path) -> None:
        """Listen to nobody yet."""
        self.answers = {
            b"CLIENT": b"+OK\r\n",
            b"PEXPIRE": b":1\r\n",
            b"WAITAOF": b"*2\r\n:1\r\n:0\r\n",
        }
        self.is_server("redis_version:8.0.0", "everysec")
        self.heard: list[bytes] = []
        self.waited = asyncio.Event()  # a WAITAOF that covers a request was heard
        self.failed_locates = 0
        self._path = path
        self._writers: list[asyncio.StreamWriter] = []
        broker: Any = SimpleNamespace(
            transport=SimpleNamespace(locate=self._locate),
            keys=SimpleNamespace(request=lambda request: f"request:{request}"),
        )
        self.confirmer = Confirmer(broker, "fsync", timeout_s=BOUND_S / 2)

    def is_server(self, version: str, policy: str) -> None:
        """Be of this version, with this appendfsync."""
        self.answers[b"INFO"] = f"${len(version)}\r\n{version}\r\n".encode()
        self.answers[b"CONFIG"] = f"*2\r\n+appendfsync\r\n+{policy}\r\n".encode()

    async def _locate(self) -> Address:
        if self.failed_locates:
            self.failed_locates -= 1
            raise ConnectionError("not now")
        return Address(path=str(self._path))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends."""
        self._writers.append(writer)
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            self.heard.append(words[0])
            if words[0] == b"WAITAOF" and b"PEXPIRE" in self.heard:
                self.waited.set()
            writer.write(self.answers[words[0]])
        writer.close()

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Scene]:
    """Open a scene; what is awaited for ever fails."""
    one = Scene(tmp_path / "server")
    server = await asyncio.start_unix_server(one.serve, tmp_path / "server")
    try:
        async with asyncio.timeout(BOUND_S):
            yield one
    finally:
        await one.confirmer.close()
        one.cut()
        server.close()


@pytest.mark.parametrize(
    ("version", "policy", "is_able"),
    [
        ("redis_version:8.0.0", "always", True),
        ("redis_version:8.0.0", "everysec", True),
        ("redis_version:8.0.0", "no", False),
        ("redis_version:7.4.1", "always", True),
        ("redis_version:7.4.1", "everysec", False),
        ("redis_version:7.4.1", "no", False),
        ("valkey_version:9.1.0", "always", True),
        ("valkey_version:9.1.0", "everysec", False),
        ("run_id:0", "everysec", False),
    ],
)
async def test_who_is_believed(tmp_path: Path, version: str, policy: str, *, is_able: bool) -> None:
    """Whose WAITAOF says what is not so yet must have `always`; `no` confirms nothing at all."""
    async with opened(tmp_path) as scene:
        scene.is_server(version, policy)
        if is_able:
            await scene.confirmer.check()
        else:
            with pytest.raises(DurabilityError, match=f"appendfsync {policy}"):
                await scene.confirmer.check()
        assert scene.confirmer.able is is_able


@pytest.mark.parametrize("is_known", [True, False])
async def test_what_the_server_has_lost_is_not_confirmed(tmp_path: Path, *, is_known: bool) -> None:
    """It knows its requests: one that it does not know took effect elsewhere, or nowhere."""
    async with opened(tmp_path) as scene:
        scene.answers[b"PEXPIRE"] = b":%d\r\n" % is_known
        assert await scene.confirmer.confirm("r") is is_known


async def test_what_was_not_synced_is_not_confirmed(tmp_path: Path) -> None:
    """And the next caller finds out afresh what the server can do."""
    async with opened(tmp_path) as scene:
        await scene.confirmer.check()
        scene.answers[b"WAITAOF"] = b"*2\r\n:0\r\n:0\r\n"
        with pytest.raises(DurabilityUnconfirmedError, match="was not fsynced"):
            await scene.confirmer.confirm("r")
        assert not scene.confirmer.able


async def test_a_policy_that_changes_before_the_wait_ends_confirms_nothing(tmp_path: Path) -> None:
    """Where only `always` is believed, each wait asks whether it is so still."""
    async with opened(tmp_path) as scene:
        scene.is_server("valkey_version:9.1.0", "always")
        await scene.confirmer.check()
        scene.is_server("valkey_version:9.1.0", "everysec")
        with pytest.raises(DurabilityUnconfirmedError, match="appendfsync everysec"):
            await scene.confirmer.confirm("r")


async def test_a_server_is_looked_at_again_when_it_is_asked_for(tmp_path: Path) -> None:
    """Its settings change while the connection stands."""
    async with opened(tmp_path) as scene:
        await scene.confirmer.check()
        scene.is_server("redis_version:8.0.0", "no")
        await scene.confirmer.check()
        with pytest.raises(DurabilityError):
            await scene.confirmer.check(afresh=True)


async def test_a_connection_that_ended_is_replaced(tmp_path: Path) -> None:
    """Whoever waits asks over the next one."""
    async with opened(tmp_path) as scene:
        await scene.confirmer.check()
        link = scene.confirmer._link
        assert link is not None
        scene.cut()
        await link.lost
        assert not scene.confirmer.able
        assert await scene.confirmer.confirm("r")


async def test_a_wait_covers_a_bounded_number_of_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have the next one."""
    monkeypatch.setattr(module, "MAX_REQUESTS", 2)
    async with opened(tmp_path) as scene:
        await scene.confirmer.check()
        scene.heard.clear()
        assert all(await asyncio.gather(*(scene.confirmer.confirm(str(n)) for n in range(5))))
        one, two = [b"PEXPIRE", b"WAITAOF"], [b"PEXPIRE", b"PEXPIRE", b"WAITAOF"]
        assert scene.heard == [*two, *two, *one]


async def test_a_server_that_cannot_be_reached_is_asked_slower_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it answers: then from the beginning."""
    setbacks: list[int] = []
    monkeypatch.setattr(module, "_pause_s", lambda count: setbacks.append(count) or 0.0)
    async with opened(tmp_path) as scene:
        for _ in range(2):
            scene.failed_locates = 3
            assert await scene.confirmer.confirm("r")
            scene.confirmer._drop("cut")
        assert setbacks == [0, 1, 2] * 2


async def test_the_end_tells_whoever_waits_and_whoever_comes_later(tmp_path: Path) -> None:
    """At once, and as what it is: nothing was confirmed."""
    async with opened(tmp_path) as scene:
        await scene.confirmer.check()
        scene.answers[b"WAITAOF"] = b""
        waiting = asyncio.create_task(scene.confirmer.confirm("r"))
        await scene.waited.wait()
        await scene.confirmer.close()
        for late in (waiting, scene.confirmer.confirm("s")):
            with pytest.raises(DurabilityUnconfirmedError, match="the client was closed"):
                await late
