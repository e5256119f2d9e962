"""What is measured of every peer, and of which: a function each, stage in, figures out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers.peers import Peer, Way
    from benchmarks.peers.stage import Figures, Stage

_SINGLY: Final = 5
"""Single submissions take long: a fifth of the jobs will do."""
_WEIGHED: Final = 5_000


@dataclass(frozen=True, slots=True)
class Measure:
    """One measurement.

    Attributes:
        name: On the command line and in the history.
        title: For people.
        figure: The one that the table shows first.
        better: Whether more of it is better.
        kind: The kind of job that a peer must have.
        take: Measures: stage, peer, way, jobs, probes.
        bulk: Whether a peer must have a bulk call.
    """

    name: str
    title: str
    figure: str
    better: str
    kind: str
    take: Callable[[Stage, Peer, Way | None, int, int], Figures]
    bulk: bool = False

    def ways(self, peer: Peer) -> tuple[Way | None, ...]:
        """Return the ways of a peer that are tried; the best one counts."""
        return peer.workers[_kind_of(self.kind, peer)] if "drain" in self.title else (None,)

    def applies(self, peer: Peer) -> bool:
        """Tell whether a peer can do this."""
        kind = _kind_of(self.kind, peer)
        return kind in peer.workers and (peer.bulk or not self.bulk)


def _kind_of(kind: str, peer: Peer) -> str:
    """Return the peer's own way to a kind: blocking handlers where it has no async ones."""
    if kind == "any":
        return "async" if "async" in peer.workers else "sync"
    if kind == "any-sleep":
        return "sleep" if "sleep" in peer.workers else "sleep-sync"
    return kind


def _enqueue(stage: Stage, peer: Peer, _way: Way | None, jobs: int, _probes: int) -> Figures:
    return stage.enqueue(_kind_of("any", peer), jobs // _SINGLY, "one")


def _enqueue_bulk(stage: Stage, peer: Peer, _way: Way | None, jobs: int, _probes: int) -> Figures:
    return stage.enqueue(_kind_of("any", peer), jobs, "many")


def _drain(kind: str) -> Callable[[Stage, Peer, Way | None, int, int], Figures]:
    def take(stage: Stage, peer: Peer, way: Way | None, jobs: int, _probes: int) -> Figures:
        assert way is not None
        return stage.drain(_kind_of(kind, peer), jobs, way)

    return take


def _latency(stage: Stage, _peer: Peer, _way: Way | None, _jobs: int, probes: int) -> Figures:
    return stage.latency(probes)


def _memory(stage: Stage, peer: Peer, _way: Way | None, jobs: int, _probes: int) -> Figures:
    return stage.waiting_bytes(_kind_of("any", peer), min(jobs, _WEIGHED))


_RATE: Final = ("per_s", "more")

MEASURES: Final = {
    measure.name: measure
    for measure in (
        Measure("enqueue", "enqueue, one after the other, jobs/s", *_RATE, "any", _enqueue),
        Measure("bulk", "enqueue in bulk, jobs/s", *_RATE, "any", _enqueue_bulk, bulk=True),
        Measure("async", "drain, async no-op, jobs/s", *_RATE, "async", _drain("async")),
        Measure("sync", "drain, blocking no-op, jobs/s", *_RATE, "sync", _drain("sync")),
        Measure(
            "sleep", "drain, 1 ms of waiting, jobs/s", *_RATE, "any-sleep", _drain("any-sleep")
        ),
        Measure("latency", "idle: submit to start, ms", "p50_ms", "less", "probe", _latency),
        Measure("memory", "a waiting job in Redis, bytes", "bytes", "less", "any", _memory),
    )
}
