"""What one measurement is made with: every knob that a figure depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["async", "sync", "inline", "batch", "wait"]
Core = Literal["compiled", "pure"]
ServerKind = Literal["redis", "valkey", "redis8", "valkey8"]
Persistence = Literal["none", "aof", "synced"]
Durability = Literal["memory", "fsync", "replica"]


@dataclass(frozen=True, slots=True)
class Setup:
    """The knobs.

    Attributes:
        jobs: How many, in each measurement of throughput.
        payload_bytes: Of each job, about.
        procs: Worker processes, `auto` or a number.
        concurrency: Jobs a worker process runs at a time.
        retention_s: How long completed records stay; 0 = deleted at once.
        kind: How the handler runs; `wait` = on the loop, waiting for 10 ms.
        core: Compiled, or its twin in Python.
        server: Which server.
        persistence: `aof` = append-only file, fsync every second; `synced` = at every write.
        durability: What jobs are enqueued with; for `replica` the server has one.
        probes: Jobs, in each measurement of latency.
        load_per_s: Jobs a second beside the probes, when latency is measured under load; 0 = half
            of what the same workers have drained a moment before.
        idle_s: How long an idle fleet is watched.
    """

    jobs: int = 100_000
    payload_bytes: int = 200
    procs: str = "auto"
    concurrency: int = 10
    retention_s: int = 0
    kind: Kind = "async"
    core: Core = "compiled"
    server: ServerKind = "redis"
    persistence: Persistence = "none"
    durability: Durability = "memory"
    probes: int = 300
    load_per_s: int = 0
    idle_s: float = 10.0

    def as_json(self) -> dict[str, Any]:
        """Return it for the history."""
        return asdict(self)
