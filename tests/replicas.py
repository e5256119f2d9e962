"""A primary and a replica that follows it, both real."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Kind, Server


class Pair:
    """A primary and its replica."""

    def __init__(self, kind: Kind, make_server: Callable[..., Server]) -> None:
        """Start both."""
        self.primary: Server = make_server(kind, tcp=True)
        with self.primary.client() as redis:
            redis.config_set("repl-diskless-sync-delay", 0)
        following = ("--replicaof", f"127.0.0.1 {self.primary.port}")
        self.replica: Server = make_server(kind, arguments=following)
        self.until_following()

    def until_following(self) -> None:
        """Return once the replica has what the primary has."""
        deadline = time.monotonic() + 30
        with self.primary.client() as redis:
            while dict(redis.info("replication")).get("slave0", {}).get("state") != "online":
                assert time.monotonic() < deadline
                time.sleep(0.02)  # the server tells nobody
            redis.set("following", "1")
            assert redis.wait(1, 30_000) == 1
            redis.delete("following")
