"""A run: rounds of faults under load, each drained, judged and cleaned up."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from bananas.keys import Keys
from bananas.settings import Settings
from bananas.supervisor.decision import EXIT_FORCED, EXIT_OK
from bananas.sync_client import SyncClient
from chaos import growth, recovery
from chaos.judge import SOMETIMES, End, Verdict, judge, missing
from chaos.monitor import Monitor
from chaos.plan import SECONDS, Step, make_plan
from chaos.stage import can_fake_clocks
from fleets import PREFIX, session_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from chaos.ledger import Entry
    from chaos.stage import Stage

DRAIN_S: Final = 90.0
"""How long all that waits may take to be worked off once the faults are over."""

ROUND_S: Final = 300.0
"""A soak is drained and judged so often."""

SCAN: Final = 1000

ENCORE_S: Final = 12.0
"""How long it may take to do that."""

ENCORES: Final = 3
"""How often a fault is made again that has not brought about what it is there for."""

_AGAIN: Final = {kind: (kind, "") for kind in SECONDS} | {
    "fail": ("fleet-restarted", "fail=mid_job:20"),
    "clock": ("fleet-restarted", "clock=+3600s"),
}

_ON_THE_WIRE: Final = {
    "dequeue": "dequeue repeated, same batch",
    "enqueue": "enqueue repeated, one job",
    "settle": "settle repeated, one effect",
    "fired": "answer lost by the proxy",
}


@dataclass
class Summary:
    """What a run came to, as `--json` prints it."""

    seed: int
    seconds: float
    server: str
    conditions: dict[str, Any]
    plan: list[dict[str, Any]] = field(default_factory=list)
    jobs: int = 0
    starts: int = 0
    must_be_zero: dict[str, int] = field(default_factory=dict)
    findings: list[dict[str, str]] = field(default_factory=list)
    duplicates: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    lost_in_window: int = 0
    undecided: int = 0
    sometimes: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    recovery: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)
    growth: dict[str, Any] = field(default_factory=dict)
    slow_scripts: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was found and nothing is missing."""
        return not self.findings and not self.missing


class Run:
    """Carries out a plan and judges what came of it."""

    def __init__(
        self,
        stage: Stage,
        summary: Summary,
        *,
        say: Callable[[str], object],
        every_s: float,
        round_s: float = ROUND_S,
    ) -> None:
        """Run on this stage; say a line every so many seconds."""
        self._stage = stage
        self._say = say
        self._every_s = every_s
        self._round_s = round_s
        self._summary = summary
        self._happened: set[str] = set()
        self._counted = Counter[str]()
        """What happened in the rounds before this one, by their ledgers."""
        self._said_s = 0.0
        self._steady_pids: list[int] = []
        self._memory: list[int] = []
        """What the server used when a round was drained and cleaned up."""
        self._clients: list[int] = []
        self.monitor = Monitor(stage)
        stage.on_look = self._progress
        self.entries: list[Entry] = []
        """Those of the last round: the plot's."""
        self.recoveries: list[recovery.Recovery] = []
        self.began_s = time.monotonic()

    def run(self) -> None:
        """Run all rounds, then end everything in order; the summary holds what was found."""
        stage, summary = self._stage, self._summary
        self.monitor.start()
        self.began_s = time.monotonic()
        ends_s = self.began_s + summary.seconds
        number = 0
        while True:
            left_s = ends_s - time.monotonic()
            length_s = left_s if left_s < 1.5 * self._round_s else self._round_s
            plan = [
                step
                for step in make_plan(summary.seed + number, length_s)
                if can_fake_clocks() or not step.detail.startswith("clock")
            ]
            summary.plan += [{**asdict(step), "round": number} for step in plan]
            self._round(plan, length_s, last=left_s < 1.5 * self._round_s)
            number += 1
            if time.monotonic() + 30 > ends_s or summary.findings:
                break
        self._steady_pids = session_of(stage.troupes["steady"].now.pid)
        for troupe in stage.troupes.values():
            stage.stop(troupe)
        self.monitor.stop()
        # nothing was submitted since: only the deaths of the last minute are left to judge
        self._add(judge(self.monitor.entries, End()))
        self._judge_processes()
        self._judge_growth()
        counts = self._counts()
        summary.sometimes = {name: counts[name] for name in SOMETIMES}
        summary.missing = missing(counts, self._happened)
        slow = self.monitor.seen.slow_ms
        summary.slow_scripts = {"count": len(slow), "longest_ms": max(slow, default=0.0)}
        summary.recovery = recovery.table(self.recoveries)

    def _round(self, plan: list[Step], length_s: float, *, last: bool) -> None:
        stage = self._stage
        began_s = time.monotonic()
        stage.tell_feeder("go")
        for step in plan:
            self._wait_until(began_s + step.at_s)
            self._happened |= {step.kind, step.detail.partition("=")[0]}
            stage.carry_out(step)
            self._progress()
        self._wait_until(began_s + length_s)
        if last:
            self._encore()
        stage.tell_feeder("quiet")
        wait_for(self._has_come("quiet"), within_s=60.0, what="the feeder's last submissions")
        for troupe in stage.troupes.values():
            # what is left is to be worked off by processes that do not end themselves
            if troupe.lives[-1].detail.startswith("fail="):
                stage.restart(troupe)
        self._drain()
        self._close_round()

    def _encore(self) -> None:
        """Make those faults again that did not bring about what they are there for."""
        for attempt in range(ENCORES):
            wanting = missing(self._counts(), self._happened)
            needs = [need for name in wanting for need in SOMETIMES[name] if need in _AGAIN]
            # one for each that is wanting: the next, if that one did not do either
            steps = {_AGAIN[need] for need in needs[attempt:] or needs}
            if not steps:
                return
            for kind, detail in sorted(steps):
                self._say(f"again: {kind} {detail}".rstrip())
                chance = (self._summary.seed % 97) / 97
                self._stage.carry_out(Step(0.0, kind, "right", chance, SECONDS[kind], detail))
                with suppress(AssertionError):
                    wait_for(self._fewer_than(wanting), within_s=ENCORE_S, what=kind)

    def _fewer_than(self, wanting: list[str]) -> Callable[[], bool]:
        """Return a condition: something that was wanting has happened."""

        def fewer() -> bool:
            self._stage.pause(0.2)  # to count is not free
            return missing(self._counts(), self._happened) != wanting

        return fewer

    def _has_come(self, what: str) -> Callable[[], bool]:
        """Return a condition: an entry of this kind has been written since now."""
        seen = len(self.monitor.entries)

        def has_come() -> bool:
            self._progress()
            return any(entry["what"] == what for entry in self.monitor.entries[seen:])

        return has_come

    def _wait_until(self, at_s: float) -> None:
        while (left_s := at_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.5))
            self._progress()

    def _drain(self) -> None:
        scene = self._stage.scene
        assert scene is not None

        def drained() -> bool:
            self._progress()
            return scene.drained() and self._open_jobs() == 0

        try:
            wait_for(drained, within_s=DRAIN_S, what="the end of all jobs")
        except AssertionError:
            return  # what has not ended is lost: the judgement says which
        finally:
            self.monitor.look()

    def _open_jobs(self) -> int:
        verdicts = Counter(entry["what"] for entry in self.monitor.entries)
        return verdicts["accepted"] - verdicts["finish"]

    # --- judging ------------------------------------------------------------------------------

    def _close_round(self) -> None:
        """Judge the round, count it in, and clean up what ended in it."""
        stage = self._stage
        self.monitor.look()
        self.entries = entries = self.monitor.entries
        with stage.client() as client:
            verdict = judge(entries, self._look_at_end(client))
            self._clean(client, verdict)
        self._happened |= {e["kind"] for e in entries if e["what"] == "offer"}
        self._counted += _count(entries)
        self._add(verdict)
        self.recoveries += recovery.of(entries)
        self.monitor.look_at_server()
        seen = self.monitor.seen
        self._memory += [used for _, used in seen.used_memory[-1:]]
        self._clients += [clients for _, clients in seen.clients[-1:]]
        self.monitor.forget()

    def _add(self, verdict: Verdict) -> None:
        summary = self._summary
        summary.jobs += verdict.jobs
        summary.starts += verdict.starts
        summary.lost_in_window += verdict.lost_in_window
        summary.undecided += verdict.undecided
        for into, what in (
            (summary.must_be_zero, verdict.counts()),
            (summary.duplicates, verdict.duplicates),
            (summary.ends, verdict.ends),
        ):
            for name, count in what.items():
                into[name] = into.get(name, 0) + count
        summary.findings += [asdict(finding) for finding in verdict.findings]

    def _find(self, what: str, about: str, why: str) -> None:
        verdict = Verdict()
        verdict.add(what, about, why)
        self._add(verdict)

    def _look_at_end(self, client: Redis) -> End:
        """Return what the server says of every job that was submitted."""
        keys = Keys(PREFIX)
        ids = [entry["id"] for entry in self.entries if entry["what"] == "offer"]
        scene = self._stage.scene
        assert scene is not None
        end = End(
            counters=scene.counters(),
            present=scene.waiting() + scene.leased(),
            dead=int(client.zcard(keys.dead)),  # type: ignore[arg-type]
        )
        for begin in range(0, len(ids), SCAN):
            chunk = ids[begin : begin + SCAN]
            found: Any = client.mget([keys.job(job_id) for job_id in chunk])
            for job_id, data in zip(chunk, found, strict=True):
                if data is not None:
                    record = orjson.loads(data)
                    texts = (record.get(name, "") for name in ("status", "updated_at", "error"))
                    end.records[job_id] = tuple(texts)
            pipe = client.pipeline(transaction=False)
            for job_id in chunk:
                pipe.hget(keys.result(job_id), "result")
            for job_id, value in zip(chunk, pipe.execute(), strict=True):
                if value not in (None, b"null", b""):
                    end.results[job_id] = orjson.loads(value)
        return end

    def _clean(self, client: Redis, verdict: Verdict) -> None:
        """Drop what ended, as its time to live and operators would; nothing else may be left."""
        keys = Keys(PREFIX)
        settings = Settings(redis_url=self._stage.server.url, key_prefix=PREFIX)
        with SyncClient(settings=settings) as operator:
            audit = operator.audit()
            if audit.drift:
                verdict.add("drift", "audit", str(audit))
        ended = {e["id"] for e in self.entries if e["what"] in ("finish", "perhaps", "refused")}
        accepted = {e["id"] for e in self.entries if e["what"] == "accepted"}
        for job_id in _kept_for_ever(client, sorted(ended & accepted)):
            verdict.add("key left", keys.job(job_id), "ended, and has no time to live")
        drop: list[str] = []
        for key in map(bytes.decode, client.scan_iter(f"{PREFIX}:*", count=SCAN)):
            name = key.removeprefix(keys.job_prefix).removeprefix(keys.result_prefix)
            if name in ended:
                drop.append(key)
            elif not _is_fixed(key) and not _is_passing(client, key):
                verdict.add("key left", key, "belongs to no job and is not of the fixed set")
        for begin in range(0, len(drop), SCAN):
            client.unlink(*drop[begin : begin + SCAN])
        # the next round counts from 0
        client.delete(keys.dead, keys.counters)

    def _counts(self) -> Counter[str]:
        """Return how often each thing has happened so far."""
        entries = self.monitor.entries
        return self._counted + self.monitor.seen.counts + _count(entries)

    def _judge_processes(self) -> None:
        seen, summary = self.monitor.seen, self._summary
        starts = ends = 0
        for life in self._stage.lives():
            log = str(life.fleet.log)
            if not life.killed:
                starts += seen.started[log]
                ends += seen.ended[log]
                if seen.started[log] != seen.ended[log]:
                    why = f"{seen.started[log]} children started, {seen.ended[log]} reaped"
                    self._find("not reaped", life.troupe, why)
                right = {None, EXIT_FORCED if log in seen.forced else EXIT_OK}
                if life.status not in right:
                    self._find("exit status", life.troupe, f"{life.status} ({life.detail})")
            left = session_of(life.fleet.pid)
            if left:
                self._find("orphan", life.troupe, f"{left} of a fleet that is gone ({life.detail})")
        for pid in seen.zombies:
            self._find("zombie", str(pid), "its supervisor lives and does not reap it")
        summary.processes = {
            "children started": starts,
            "children reaped": ends,
            "supervisors started": len(self._stage.lives()),
            "supervisors killed": sum(life.killed for life in self._stage.lives()),
            "server started": self._stage.server_starts,
        }

    def _judge_growth(self) -> None:
        """What nothing harms must not grow: the steady fleet, and the server once drained."""
        seen, figures = self.monitor.seen, self._summary.growth
        series = [
            *growth.series_of(self._steady_pids, seen),
            growth.Series("used_memory once drained", self._memory),
            growth.Series("connections once drained", self._clients, 4.0, 0.0),
        ]
        for line in series:
            figures[line.name] = line.ends()
            if why := line.grows():
                self._find("growth", line.name, why)

    # --- telling ------------------------------------------------------------------------------

    def _progress(self) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s < self._every_s:
            return
        self._said_s = now_s
        entries = self.monitor.entries
        counts = Counter(entry["what"] for entry in entries)
        happened = self.monitor.seen.counts
        faults = [entry["kind"] for entry in entries if entry["what"] == "fault"]
        self._say(
            f"{now_s - self.began_s:6.0f} s  accepted {counts['accepted']:>6}"
            f"  open {counts['accepted'] - counts['finish']:>5}  starts {counts['start']:>6}"
            f"  faults {len(faults):>3}  deaths {counts['death']:>3}"
            f"  stale {happened['stale ack refused']:>3}"
            f"  last: {faults[-1] if faults else '-'}"
        )


def _count(entries: list[Entry]) -> Counter[str]:
    """Count what must have happened, as far as the ledger tells it."""
    counts = Counter[str]()
    for entry in entries:
        match entry["what"]:
            case "refused":
                counts["submission refused: memory full"] += 1
            case "wire":
                for name, meaning in _ON_THE_WIRE.items():
                    counts[meaning] += entry.get(name, 0)
            case "finish" if entry["error"].startswith("poison"):
                counts["poison dead-lettered"] += 1
            case "finish" if "expired" in entry["error"]:
                counts["expired"] += 1
            case "finish" if entry["status"] == "cancelled":
                counts["cancelled"] += 1
            case "end" if entry["how"] == "cut":
                counts["given back in order"] += 1
            case _:
                pass
    full = [entry["at"] for entry in entries if entry.get("kind") == "redis-full"]
    for begin, end in zip(full[::2], full[1::2], strict=False):
        counts["settled at full memory"] += sum(
            begin + 1 < entry["at"] < end for entry in entries if entry["what"] == "finish"
        )
    return counts


def _kept_for_ever(client: Redis, ids: list[str]) -> list[str]:
    """Return those whose record has no time to live."""
    keys = Keys(PREFIX)
    found: list[str] = []
    for begin in range(0, len(ids), SCAN):
        chunk = ids[begin : begin + SCAN]
        pipe = client.pipeline(transaction=False)
        for job_id in chunk:
            pipe.pttl(keys.job(job_id))
        answers = zip(chunk, pipe.execute(), strict=True)
        found += [job_id for job_id, left_ms in answers if left_ms == -1]
    return found


def _is_fixed(key: str) -> bool:
    """Tell whether a key is there as long as the queue is."""
    keys = Keys(PREFIX)
    return key.endswith(":wake") or key in {
        *(keys.counters, keys.epochs, keys.workers, keys.places(), keys.dead),
        *(keys.specials, keys.specials_version),
    }


def _is_passing(client: Redis, key: str) -> bool:
    """Tell whether a key is a request's memory, which ends by itself."""
    return key.startswith(f"{PREFIX}:request:") and client.pttl(key) != -1
