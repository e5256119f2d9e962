"""What the harness measures, one function each: a setup in, a sample out.

A sample's figures: `per_s` jobs a second of wall time; `worker_us`, `client_us`,
`server_us`, `api_us`, `other_us` CPU a job of each process, in us; `p50_ms`, `p99_ms`. Those of
`loaded_latency`, `idle_fleet` and `waiting_memory` are named there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from benchmarks.bed import PATIENCE_S, Bed, cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.setup import Setup

Sample = dict[str, float]

CALLERS: Final = 50
LOAD_REACHED: Final = 0.95
"""Of a load asked for: below this share a latency is that of another load."""
_AT_REST_S: Final = 1.0


def drain(setup: Setup) -> Sample:
    """Jobs wait; supervised workers, held still so far, are let go until all are completed."""
    with Bed(setup) as bed:
        bed.start_workers()
        return _drain(bed)


def _drain(bed: Bed) -> Sample:
    setup = bed.setup
    warm = bed.client("enqueue_many", jobs=2_000, kind=setup.kind)["accepted"]
    bed.await_completed(warm)
    bed.freeze_workers()
    jobs = bed.client("enqueue_many", jobs=setup.jobs, kind=setup.kind)["accepted"]
    server_s, workers_s, others_s = bed.server_cpu_s(), cpu_s(bed.workers), cpu_s(bed.others)
    began_s = time.perf_counter()
    bed.thaw_workers()
    bed.await_completed(warm + jobs)
    seconds = time.perf_counter() - began_s
    time.sleep(0.05)  # what is left to settle counts too, in CPU
    return {
        "per_s": jobs / seconds,
        "worker_us": (cpu_s(bed.workers) - workers_s) / jobs * 1e6,
        "server_us": (bed.server_cpu_s() - server_s) / jobs * 1e6,
        "other_us": (cpu_s(bed.others) - others_s) / jobs * 1e6,
    }


def enqueue_many(setup: Setup) -> Sample:
    """One process, one call with all rows."""
    with Bed(setup) as bed:
        return _client_sample(bed, "enqueue_many", setup.jobs, kind=setup.kind)


def enqueue_together(setup: Setup) -> Sample:
    """50 tasks of one process, each awaiting one `enqueue` after the other."""
    with Bed(setup) as bed:
        return _client_sample(bed, "enqueue", setup.jobs // 2 // CALLERS * CALLERS, callers=CALLERS)


def enqueue_durably(setup: Setup) -> Sample:
    """50 tasks as above, each call timed: its latency is what a durability costs first."""
    return _timed_calls(setup, max(2, setup.jobs // 10 // CALLERS))


def enqueue_few(setup: Setup) -> Sample:
    """The same, where each call takes a second."""
    return _timed_calls(setup, max(2, min(setup.jobs // 1000, 5)))


def _timed_calls(setup: Setup, each: int) -> Sample:
    with Bed(setup) as bed:
        return _client_sample(bed, "enqueue", each * CALLERS, callers=CALLERS, timed=True)


def enqueue_alone(setup: Setup) -> Sample:
    """One task that awaits one `enqueue` after the other."""
    with Bed(setup) as bed:
        return _client_sample(bed, "enqueue", max(100, setup.jobs // 20), callers=1)


def post_ndjson(setup: Setup) -> Sample:
    """One request to one API process, a job a line."""
    with Bed(setup) as bed:
        api, port = bed.start_api()
        return _api_sample(bed, api, "ndjson", setup.jobs, port=port)


def post_single(setup: Setup) -> Sample:
    """`POST /jobs` to one API process over 50 connections."""
    with Bed(setup) as bed:
        api, port = bed.start_api()
        jobs = max(500, setup.jobs // 5)
        bed.client("post", jobs=500, callers=CALLERS, port=port)
        return _api_sample(bed, api, "post", jobs, callers=CALLERS, port=port)


def idle_latency(setup: Setup) -> Sample:
    """From before `enqueue` in the client to the handler's first line in an idle worker."""
    with Bed(setup) as bed:
        bed.start_workers()
        return _latencies(bed.client("probes", **_probing(bed)))


def loaded_latency(setup: Setup) -> Sample:
    """The same while other jobs come at `load_per_s`, or at half of what was just drained.

    `asked_per_s` is that rate, `load_per_s` the one that was reached beside the probes, and
    `drained_per_s` stands there if it was measured.
    """
    with Bed(setup) as bed:
        bed.start_workers()
        drained = {} if setup.load_per_s else {"drained_per_s": _drain(bed)["per_s"]}
        asked_per_s = setup.load_per_s or drained["drained_per_s"] / 2
        done = bed.await_completed(0)
        loading = bed.begin_client("paced", per_s=asked_per_s, at_most_s=PATIENCE_S)
        bed.await_completed(done + int(asked_per_s / 4))  # the load has come up
        measured = _latencies(bed.client("probes", **_probing(bed)))
        loading.terminate()
        load = bed.finish(loading)
        return (
            measured
            | drained
            | {
                "asked_per_s": asked_per_s,
                "load_per_s": load["jobs"] / load["seconds"],
            }
        )


def idle_fleet(setup: Setup) -> Sample:
    """A fleet that has worked and has nothing to do: what it costs the server and itself.

    `sent_per_s`: commands that reach the server, scripts and waits, by worker process and warden;
    `commands_per_s`: of all processes, with the commands inside of scripts. Each role's CPU is in
    ms a second, `worker_cpu_ms` for each of the workers, and so on.
    """
    with Bed(setup) as bed:
        bed.start_workers()
        bed.await_completed(bed.client("enqueue_many", jobs=100, kind=setup.kind)["accepted"])
        time.sleep(_AT_REST_S)
        supervisor, *wardens = bed.others
        roles = {"worker": bed.workers, "warden": wardens, "supervisor": [supervisor]}
        before = {role: cpu_s(processes) for role, processes in roles.items()}
        server_s, sent, commands = bed.server_cpu_s(), bed.sent(), bed.commands()
        time.sleep(setup.idle_s)
        commands = bed.commands() - commands - 1  # one was ours: it counts from the next
        sent, server_s = bed.sent() - sent, bed.server_cpu_s() - server_s
        used = {role: cpu_s(processes) - before[role] for role, processes in roles.items()}
        used = {"server": server_s} | used | {"worker": used["worker"] / len(bed.workers)}
        return {
            "sent_per_s": sent / setup.idle_s / len([*bed.workers, *wardens]),
            "commands_per_s": commands / setup.idle_s,
        } | {f"{role}_cpu_ms": seconds * 1e3 / setup.idle_s for role, seconds in used.items()}


def waiting_memory(setup: Setup) -> Sample:
    """What a waiting job takes in the server: `at_once_bytes`, and `bytes` once it is at rest.

    While many jobs come the server enlarges its table of keys and holds two of them for a while.
    `beside_bytes` is what a job takes at rest beside its record.
    """
    with Bed(setup) as bed:
        bed.client("enqueue_many", jobs=100, kind=setup.kind)
        before = bed.used_bytes()
        jobs = bed.client("enqueue_many", jobs=setup.jobs, kind=setup.kind)["accepted"]
        at_once = at_rest = bed.used_bytes()
        while True:
            time.sleep(_AT_REST_S)
            if (now := bed.used_bytes()) >= at_rest:
                break
            at_rest = now
        taken = (at_rest - before) / jobs
        return {
            "at_once_bytes": (at_once - before) / jobs,
            "bytes": taken,
            "beside_bytes": taken - bed.record_bytes(),
        }


def _probing(bed: Bed) -> dict[str, Any]:
    return {"jobs": bed.setup.probes, "starts": str(bed.server.folder / "starts")}


def _client_sample(bed: Bed, verb: str, jobs: int, **arguments: object) -> Sample:
    before_s = bed.server_cpu_s()
    measured = bed.client(verb, jobs=jobs, **arguments)
    sample = {
        "per_s": jobs / measured["seconds"],
        "client_us": measured["cpu_s"] / jobs * 1e6,
        "server_us": (bed.server_cpu_s() - before_s) / jobs * 1e6,
    }
    return sample | (_latencies(measured) if "latencies_ms" in measured else {})


def _api_sample(bed: Bed, api: Any, verb: str, jobs: int, **arguments: object) -> Sample:  # noqa: ANN401
    before_s, api_s = bed.server_cpu_s(), cpu_s([api])
    measured = bed.client(verb, jobs=jobs, **arguments)
    sample = {
        "per_s": jobs / measured["seconds"],
        "client_us": measured["cpu_s"] / jobs * 1e6,
        "api_us": (cpu_s([api]) - api_s) / jobs * 1e6,
        "server_us": (bed.server_cpu_s() - before_s) / jobs * 1e6,
    }
    return sample | (_latencies(measured) if "latencies_ms" in measured else {})


def _latencies(measured: dict[str, Any]) -> Sample:
    ordered = sorted(measured["latencies_ms"])
    return {
        "p50_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the table.

    Attributes:
        title: For people.
        measure: The function.
        changes: What it changes of the run's setup.
        targets: Of the project: figure and value to reach; a rate at least, all else at most.
    """

    title: str
    measure: Callable[[Setup], Sample]
    changes: dict[str, Any]
    targets: dict[str, float] = field(default_factory=dict)

    def setup(self, of_run: Setup) -> Setup:
        """Return the setup it is measured with."""
        return replace(of_run, **self.changes)


_VALKEY: Final[dict[str, Any]] = {"server": "valkey"}
_EACH_S: Final = _VALKEY | {"persistence": "aof"}
_EACH_WRITE: Final = _VALKEY | {"persistence": "synced"}
_REDIS8: Final[dict[str, Any]] = {"server": "redis8", "persistence": "aof"}
_FSYNC: Final = {"durability": "fsync"}
_REPLICA: Final = {"durability": "replica"}

SCENARIOS: Final[dict[str, Scenario]] = {
    "drain": Scenario("drain, async handlers", drain, {}, {"per_s": 100_000, "worker_us": 5.0}),
    "drain-kept": Scenario("… records kept 24 h", drain, {"retention_s": 86_400}),
    "drain-sync": Scenario("… `def` in threads", drain, {"kind": "sync"}, {"per_s": 30_000}),
    "drain-inline": Scenario("… `def` inline", drain, {"kind": "inline"}),
    "drain-batch": Scenario("… batches of 250", drain, {"kind": "batch"}),
    "drain-pure": Scenario("… pure core", drain, {"core": "pure"}),
    "drain-aof": Scenario("… append-only file", drain, {"persistence": "aof"}),
    "drain-valkey": Scenario("… Valkey", drain, {"server": "valkey"}),
    "enqueue-many": Scenario("`enqueue_many`", enqueue_many, {}, {"per_s": 150_000}),
    "enqueue-50": Scenario("`enqueue`, 50 tasks", enqueue_together, {}, {"per_s": 50_000}),
    "enqueue-1": Scenario("`enqueue`, one by one", enqueue_alone, {}),
    "many-aof": Scenario("`enqueue_many`, memory, file synced each second", enqueue_many, _EACH_S),
    "many-synced": Scenario("… memory, file synced each write", enqueue_many, _EACH_WRITE),
    "many-fsync": Scenario("… `fsync`, the same", enqueue_many, _EACH_WRITE | _FSYNC),
    "many-fsync-1s": Scenario("… `fsync`, Redis 8, each second", enqueue_many, _REDIS8 | _FSYNC),
    "many-replica": Scenario("… `replica`", enqueue_many, _VALKEY | _REPLICA),
    "calls-aof": Scenario("50 tasks, memory, file synced each second", enqueue_durably, _EACH_S),
    "calls-synced": Scenario("… memory, file synced each write", enqueue_durably, _EACH_WRITE),
    "calls-fsync": Scenario("… `fsync`, the same", enqueue_durably, _EACH_WRITE | _FSYNC),
    "calls-fsync-1s": Scenario("… `fsync`, Redis 8, each second", enqueue_few, _REDIS8 | _FSYNC),
    "calls-replica": Scenario("… `replica`", enqueue_durably, _VALKEY | _REPLICA),
    "ndjson": Scenario("`POST /jobs/batch`", post_ndjson, {}, {"per_s": 80_000}),
    "post": Scenario(
        "`POST /jobs`, 50 connections", post_single, {}, {"per_s": 15_000, "p99_ms": 10.0}
    ),
    "idle": Scenario("idle: enqueue → start", idle_latency, {}, {"p50_ms": 0.6, "p99_ms": 2.0}),
    "loaded": Scenario("the same under load", loaded_latency, {}, {"p99_ms": 10.0}),
    "fleet": Scenario("idle fleet", idle_fleet, {}, {"sent_per_s": 5.0}),
    "memory": Scenario("waiting job", waiting_memory, {}, {"beside_bytes": 200.0}),
}
