"""A master with replicas and Sentinels for tests: private, on loopback, gone with the test."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import ResponseError

from servers import Kind, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = "127.0.0.1"
NAME = "jobs"
DOWN_AFTER_S = 1.0
_READY_S = 40.0


class Sentinel(Server):
    """A server in Sentinel mode, which takes its orders from a file only."""

    def __init__(
        self, kind: Kind, master: str, *, quorum: int, host: str = HERE, under: Sequence[str] = ()
    ) -> None:
        """Prepare to watch the master at "host port"; `under` is a command that runs it."""
        super().__init__(kind, tcp=True)
        self._under = under
        self._orders = (
            f"port {self.port}",
            f"bind {host}",
            f"unixsocket {self.socket}",
            f"dir {self.folder}",
            f"sentinel monitor {NAME} {master} {quorum}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_S * 1000:.0f}",
            f"sentinel failover-timeout {NAME} 6000",
        )

    def _argv(self) -> list[str]:
        file = self.folder / "sentinel.conf"
        if not file.exists():  # later on it is the Sentinel's own
            file.write_text("\n".join(self._orders))
        return [*self._under, str(self.path), str(file), "--sentinel"]


class Watched:
    """One master, two replicas, three Sentinels of which two are needed."""

    sentinel_host = HERE
    master_host = HERE  # of the first server

    def __init__(self, kind: Kind, *, arguments: Sequence[str] = ()) -> None:
        """Prepare, but do not start; the arguments are those of each server."""
        options = ["--repl-ping-replica-period", "1", "--repl-diskless-sync-delay", "0", *arguments]
        self.servers = [self._server(kind, number, options) for number in range(3)]
        master = f"{self.master_host} {self.servers[0].port}"
        self.sentinels = [self._sentinel(kind, master) for _ in range(3)]

    def _server(self, kind: Kind, number: int, options: list[str]) -> Server:  # noqa: ARG002 - all alike here
        return Server(kind, tcp=True, arguments=options)

    def _sentinel(self, kind: Kind, master: str) -> Sentinel:
        return Sentinel(kind, master, quorum=2)

    @property
    def url(self) -> str:
        """The address by all Sentinels."""
        hosts = ",".join(f"{self.sentinel_host}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{NAME}"

    def start(self) -> Self:
        """Start; returns when the replicas are in step and the Sentinels know all of it."""
        master, *replicas = self.servers
        for server in self.servers:
            server.start()
        for replica in replicas:
            with replica.client() as client:
                client.execute_command("REPLICAOF", self.master_host, master.port)
        for replica in replicas:
            self.wait(lambda replica=replica: _said(replica)["master_link_status"] == "up")
        for sentinel in self.sentinels:
            sentinel.start()
        for sentinel in self.sentinels:
            self.wait(lambda sentinel=sentinel: self._is_whole(sentinel))
        return self

    def discard(self) -> None:
        """End everything and remove its data."""
        for server in (*self.sentinels, *self.servers):
            server.discard()

    def master(self) -> Server:
        """Return the master that most Sentinels name."""
        ports = [self._named(sentinel) for sentinel in self.sentinels]
        port = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def wait_for_another(self, old: Server) -> Server:
        """Wait until all Sentinels name another master, and it knows that it is one."""
        self.wait(lambda: all(self._named(one) != old.port for one in self.sentinels))
        new = self.master()
        self.wait(lambda: _said(new)["role"] == "master")
        return new

    def wait_for_replica(self, server: Server) -> None:
        """Wait until a server follows the master."""
        self.wait(
            lambda: (
                _said(server)["role"] == "slave" and _said(server).get("master_link_status") == "up"
            )
        )

    def fail_over(self) -> None:
        """Order a failover; the Sentinels take their time."""
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", NAME)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for what nobody tells."""
        deadline = time.monotonic() + _READY_S
        while True:
            with suppress(NoConnectionError, ResponseError, KeyError):
                if condition():
                    return
            assert time.monotonic() < deadline, [self._named(one) for one in self.sentinels]
            time.sleep(0.02)

    def _is_whole(self, sentinel: Server) -> bool:
        with sentinel.client() as client:
            client.response_callbacks.clear()
            words: list[Any] = client.execute_command("SENTINEL", "MASTER", NAME)
        facts = dict(zip(words[::2], words[1::2], strict=True))
        return (facts[b"num-slaves"], facts[b"num-other-sentinels"]) == (b"2", b"2")

    @staticmethod
    def _named(sentinel: Server) -> int:
        with sentinel.client() as client:
            client.response_callbacks.clear()
            found = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return int(found[1])


def _said(server: Server) -> dict[str, str]:
    """Return what a server says about its replication."""
    with server.client(timeout_s=5.0) as client:
        client.response_callbacks.clear()
        text: bytes = client.execute_command("INFO", "replication")
    lines = text.decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
