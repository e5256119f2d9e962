"""A real cluster for tests: private nodes on loopback, and slots moved by hand between them.

Put together by plain commands, ready in about two seconds, gone with the test.
"""

from __future__ import annotations

import binascii
import time
from typing import TYPE_CHECKING, Any, Self

from servers import Kind, Server, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

_READY_S = 30.0
_LAST_SLOT = 16383


class Node(Server):
    """One node; it fails over fast, and its bus has a port that is free."""

    def __init__(self, kind: Kind, *, aof: bool = False) -> None:
        """Prepare, but do not start."""
        arguments = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        arguments += ["--cluster-node-timeout", "1000"]
        super().__init__(kind, aof=aof, tcp=True, arguments=arguments)
        self.bus_port = int(arguments[3])
        self.id = ""
        self._asking: Redis | None = None

    def ask(self, *words: object) -> Any:  # noqa: ANN401 - as many shapes as there are commands
        """Send one command as it is, and return the answer as it is."""
        if self._asking is None:
            self._asking = self.client()
            self._asking.response_callbacks.clear()
        return self._asking.execute_command(*words)  # type: ignore[no-untyped-call]

    def kill(self) -> None:
        """End the server, and what we asked it by."""
        if self._asking is not None:
            self._asking.close()
            self._asking = None
        super().kill()


class Cluster:
    """A few masters that share the slots evenly, perhaps with replicas."""

    def __init__(
        self,
        kind: Kind,
        *,
        masters: int = 3,
        replicas: int = 0,
        holders: int | None = None,
        aof: bool = False,
    ) -> None:
        """Prepare, but do not start.

        Args:
            kind: Of all nodes.
            masters: How many.
            replicas: How many; replica n follows master n.
            holders: How many masters share the slots; all unless given.
            aof: As for `Server`.
        """
        self.kind = kind
        self._holders = holders or masters
        self.nodes = [Node(kind, aof=aof) for _ in range(masters + replicas)]
        self.masters = self.nodes[:masters]
        self.replicas = self.nodes[masters:]

    @property
    def url(self) -> str:
        """The address by all nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> Self:
        """Start and join; returns when every node sees a whole cluster."""
        for node in self.nodes:
            node.start()
            node.id = node.ask("CLUSTER", "MYID").decode()
        share = (_LAST_SLOT + 1) // self._holders
        for number, node in enumerate(self.masters[: self._holders]):
            last = _LAST_SLOT if number == self._holders - 1 else (number + 1) * share - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, last)
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first = self.nodes[0]
        for node in self.nodes[1:]:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        self._wait(lambda node: f"cluster_known_nodes:{len(self.nodes)}" in _info(node))
        for master, replica in zip(self.masters, self.replicas, strict=False):
            replica.ask("CLUSTER", "REPLICATE", master.id)
        self._wait(lambda node: "cluster_state:ok" in _info(node))
        for replica in self.replicas:
            self._wait(lambda node: "master_link_status:up" in _replication(node), [replica])
        return self

    def discard(self) -> None:
        """End all nodes and remove their data."""
        for node in self.nodes:
            node.discard()

    def holder(self, slot: int) -> Node:
        """Return the master that holds a slot, by what the nodes themselves say."""
        for node in self.nodes:
            flags, ranges = _myself(node)
            if "master" in flags and any(first <= slot <= last for first, last in ranges):
                return node
        raise AssertionError(f"nobody holds slot {slot}")

    def other(self, node: Node) -> Node:
        """Return the master after a node."""
        return self.masters[(self.masters.index(node) + 1) % len(self.masters)]

    # --- moving a slot --------------------------------------------------------------------------

    def open(self, slot: int, source: Node, target: Node) -> None:
        """Begin to move a slot; no key moves yet."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, source: Node, target: Node, *keys: bytes | str) -> None:
        """Move these keys, as far as they are there."""
        words = ("127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)
        source.ask("MIGRATE", *words)

    def close(self, slot: int, source: Node, target: Node) -> None:
        """Move what is left of a slot and make the target its holder for everybody."""
        # while it is opened the source takes no new keys: none can come in between
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.move_keys(source, target, *keys)
        target.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        source.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        for node in self.masters:
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move(self, slot: int, *, step: int = 3) -> Iterator[int]:
        """Move a slot to the next node a few keys at a time; yields how many keys have moved."""
        source = self.holder(slot)
        target = self.other(source)
        self.open(slot, source, target)
        moved = 0
        yield moved
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, step):
            self.move_keys(source, target, *keys)
            moved += len(keys)
            yield moved
        self.close(slot, source, target)

    def move_at_once(self, slot: int) -> None:
        """Move a slot to the next node by the atomic migration of Valkey 9."""
        source = self.holder(slot)
        target = self.other(source)
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)
        self.wait_for_holder(slot, target)

    def errors(self, code: str) -> int:
        """Return how often nodes answered with an error of this code."""
        found = 0
        for node in self.nodes:
            text: bytes = node.ask("INFO", "errorstats")
            for line in text.decode().splitlines():
                if line.startswith(f"errorstat_{code}:"):
                    found += int(line.partition("count=")[2])
        return found

    def wait_for_holder(self, slot: int, node: Node) -> None:
        """Wait until a node holds a slot, by the word of all others that answer."""

        def named(other: Node) -> bool:
            found: bytes = other.ask("CLUSTER", "NODES")
            for line in found.decode().splitlines():
                words = line.split()
                if words[0] == node.id and "master" in words[2]:
                    ranges = [word.split("-") for word in words[8:] if not word.startswith("[")]
                    return any(int(word[0]) <= slot <= int(word[-1]) for word in ranges)
            return False

        for other in self.masters[1:]:
            self._wait(named, [other])
        self._wait(named, [node])

    def wait_for_replica(self, node: Node) -> None:
        """Wait until a node follows another and is in step."""
        self._wait(
            lambda node: (
                "role:slave" in _replication(node) and "master_link_status:up" in _replication(node)
            ),
            [node],
        )

    def _wait(self, condition: Callable[[Node], bool], nodes: list[Node] | None = None) -> None:
        deadline = time.monotonic() + _READY_S
        for node in nodes or self.nodes:
            while not condition(node):
                assert time.monotonic() < deadline, _info(node)
                time.sleep(0.02)  # nodes tell each other by and by; nobody can be waited for


def slot_of(tag: str) -> int:
    """Return the slot of all keys with this hash tag."""
    return binascii.crc_hqx(tag.encode(), 0) % (_LAST_SLOT + 1)


def _info(node: Node) -> str:
    text: bytes = node.ask("CLUSTER", "INFO")
    return text.decode()


def _replication(node: Node) -> str:
    text: bytes = node.ask("INFO", "replication")
    return text.decode()


def _myself(node: Node) -> tuple[str, list[tuple[int, int]]]:
    lines: bytes = node.ask("CLUSTER", "NODES")
    for line in lines.decode().splitlines():
        words = line.split()
        if "myself" in words[2]:
            found = [word.split("-") for word in words[8:] if not word.startswith("[")]
            return words[2], [(int(word[0]), int(word[-1])) for word in found]
    raise AssertionError(lines)
