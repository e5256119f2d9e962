"""The judgement: a pure function of the ledger and of what the server says at the end.

Nothing is forgiven by count. Every second start of a job must have a cause that the ledger
names: a fault that touched the process that held it, its own outcome, or the death of that
process for a known reason. A stop of the server, a lost answer or a forgotten script is no
such cause: live workers keep what they hold.
"""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from chaos.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from chaos.ledger import Entry

POISON_DEATHS: Final = 3

AOF_WINDOW_S: Final = 2.0
"""`everysec` may hold a write back so long while an fsync is under way; a kill then loses it."""

EARLY_S: Final = 0.005
"""Clocks are read one after the other."""

PLANNED: Final = frozenset({"retry"})
"""Ends of a run after which the job is meant to run again."""

_LISTS: Final = {"start": "starts", "effect": "effects", "end": "ends", "finish": "finishes"}
_OF_A_JOB: Final = frozenset(
    {*_LISTS, "offer", "accepted", "refused", "perhaps", "doubted", "cancelled"}
)

MUST_BE_ZERO: Final = (
    "lost",
    "ghost",
    "double-terminal",
    "stale effect",
    "unexplained duplicate",
    "one lease, two runs",
    "wrong end",
    "early",
    "drift",
    "key left",
    "stuck",
    "unexplained death",
    "not reaped",
    "zombie",
    "orphan",
    "exit status",
    "growth",
    "trouble",
)
"""What may be found; each is 0 in a run that is in order."""


@dataclass(frozen=True)
class Finding:
    """One thing that must not be."""

    what: str
    about: str
    why: str


@dataclass
class End:
    """What the server says when all is drained.

    Attributes:
        records: (status, updated_at, error) of every job that has a record, by id.
        results: The stored result of every job that has one, by id.
        counters: What was counted.
        present: Ids in lists, scheduled or leased.
        dead: Ids in the dead-letter queue.
    """

    records: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    present: int = 0
    dead: int = 0


@dataclass
class Verdict:
    """What a run came to."""

    findings: list[Finding] = field(default_factory=list)
    duplicates: Counter[str] = field(default_factory=Counter)
    """Second starts by cause."""
    ends: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    starts: int = 0
    lost_in_window: int = 0
    """Accepted within the last seconds before a kill of the server, and gone with them."""
    undecided: int = 0
    """Foreign submissions whose producer cannot know, and that nobody has seen since."""

    def add(self, what: str, about: str, why: str) -> None:
        """Add a finding."""
        assert what in MUST_BE_ZERO, what
        self.findings.append(Finding(what, about, why))

    def counts(self) -> dict[str, int]:
        """Return how many of each there are, those that are 0 included."""
        found = Counter(finding.what for finding in self.findings)
        return {what: found[what] for what in MUST_BE_ZERO}


@dataclass
class _Job:
    """What the ledger says of one job."""

    kind: str = ""
    due: float = 0.0
    offered: float = 0.0
    verdict: str = ""
    decided: float = 0.0
    cancelled: bool = False
    starts: list[Entry] = field(default_factory=list)
    ends: list[Entry] = field(default_factory=list)
    effects: list[Entry] = field(default_factory=list)
    finishes: list[Entry] = field(default_factory=list)


@dataclass(frozen=True)
class _Harm:
    cause: str
    since: float
    until: float

    def touches(self, begin: float, end: float) -> bool:
        return self.since <= end and begin <= self.until


class Judge:
    """Judges one run."""

    def __init__(self, entries: Iterable[Entry], end: End) -> None:
        """Sort the ledger by job and by process."""
        self._end = end
        self.verdict = Verdict()
        self._jobs: dict[str, _Job] = defaultdict(_Job)
        self._harms: dict[int, list[_Harm]] = defaultdict(list)
        self._deaths: list[Entry] = []
        self._kills: list[float] = []
        for entry in entries:
            self._sort(entry)

    def _sort(self, entry: Entry) -> None:
        what = entry["what"]
        job = self._jobs[entry["id"]] if what in _OF_A_JOB else _Job()
        match what:
            case "offer":
                job.kind, job.due, job.offered = entry["kind"], entry["due"], entry["at"]
            case "accepted" | "refused" | "perhaps" | "doubted":
                job.verdict, job.decided = what, entry["at"]
            case "cancelled":
                job.cancelled = True
            case "start" | "effect" | "end" | "finish":
                getattr(job, _LISTS[what]).append(entry)
                if entry.get("how") == "die":
                    self._harm(entry["pid"], "poison", entry["at"], entry["at"] + 5.0)
            case _:
                self._sort_other(entry)

    def _sort_other(self, entry: Entry) -> None:
        match entry["what"]:
            case "harm":
                for pid in entry["pids"]:
                    self._harm(pid, entry["cause"], entry["since"], entry["until"])
            case "death":
                self._deaths.append(entry)
            case "redis-killed":
                self._kills.append(entry["at"])
            case "trouble":
                self.verdict.add("trouble", entry["who"], entry["error"])

    def _harm(self, pid: int, cause: str, since: float, until: float) -> None:
        self._harms[pid].append(_Harm(cause, since, until))

    def judge(self) -> Verdict:
        """Look at every death, every job and the sums."""
        self._judge_deaths()
        for job_id, job in self._jobs.items():
            self._judge_job(job_id, job)
        self._judge_sums()
        return self.verdict

    # --- deaths -------------------------------------------------------------------------------

    def _judge_deaths(self) -> None:
        """Give every death its cause; a death is a harm to what its process held."""
        for death in self._deaths:
            pid, at = death["pid"], death["at"]
            cause = self._cause_of_death(death)
            if cause is None:
                why = f"{death['role']} of {death['fleet']}: {death['reason']}"
                self.verdict.add("unexplained death", str(pid), why)
                cause = "unexplained death"
            # its log line is written a moment after it; the time of the log is coarser than ours
            self._harm(pid, cause, at - 3.0, at + 0.5)

    def _cause_of_death(self, death: Entry) -> str | None:
        # by its own order or, told before it could listen, by the signal itself: it held nothing
        if death["verdict"] == "stopped" and death["code"] in (0, -signal.SIGTERM):
            return "left in order"
        for harm in self._harms.get(death["pid"], ()):
            if harm.touches(death["at"] - 10.0, death["at"]):
                return harm.cause
        if death["verdict"] == "killed" and death["culprits"]:
            return "hard limit"
        if str(death["detail"]).startswith("fail=") and death["code"] == -signal.SIGKILL:
            return "fail point"
        return None

    # --- jobs ---------------------------------------------------------------------------------

    def _judge_job(self, job_id: str, job: _Job) -> None:
        verdict = self.verdict
        verdict.starts += len(job.starts)
        if not job.offered:
            verdict.add("ghost", job_id, "nobody submitted it")
            return
        if job.verdict == "refused" and (job.starts or job_id in self._end.records):
            verdict.add("ghost", job_id, "its submission was refused")
        if job.verdict == "doubted":
            verdict.add("ghost", job_id, "said to exist already at its first submission")
        if job.verdict in ("refused", "doubted", ""):
            return
        seen = bool(job.starts or job.finishes or job.cancelled)
        if job.verdict == "perhaps" and not seen:
            verdict.undecided += 1
            return
        verdict.jobs += 1
        self._judge_end(job_id, job)
        self._judge_starts(job_id, job)
        self._judge_effect(job_id, job)

    def _judge_end(self, job_id: str, job: _Job) -> None:
        verdict, kind = self.verdict, KINDS[job.kind]
        record = self._end.records.get(job_id)
        if not job.finishes:
            if self._in_window(job.decided):
                verdict.lost_in_window += 1
            else:
                status = record[0] if record else "no record"
                verdict.add("lost", job_id, f"accepted and never ended: {status}")
            return
        finish = job.finishes[0]
        status, error = finish["status"], finish["error"]
        verdict.ends[status] += 1
        ended = (status, finish["updated"])
        if record is None:
            verdict.add("double-terminal", job_id, f"its record went after it had {status}")
        elif ended != record[:2] and not self._in_window(finish["at"]):
            verdict.add("double-terminal", job_id, f"{ended} became {record[:2]}")
        if job.cancelled and status != "cancelled":
            verdict.add("wrong end", job_id, f"cancelled, and {status}")
        if status in kind.ends and error.startswith(kind.reason):
            return
        if error.startswith("poison") and len(job.starts) >= POISON_DEATHS:
            return  # it was at work in as many processes as were killed: each kill has its cause
        verdict.add("wrong end", job_id, f"{status}: {error}" if error else status)

    def _judge_starts(self, job_id: str, job: _Job) -> None:
        verdict = self.verdict
        starts = sorted(job.starts, key=lambda entry: float(entry["at"]))
        if starts and starts[0]["at"] < job.due - EARLY_S:
            verdict.add("early", job_id, f"{job.due - starts[0]['at']:.3f} s before it was due")
        tokens = [start["token"] for start in starts if start["token"]]
        if len(set(tokens)) < len(tokens):
            verdict.add("one lease, two runs", job_id, f"{len(starts)} starts")
        ended_at = job.finishes[0]["at"] if job.finishes else float("inf")
        for start in starts:
            if start["at"] > ended_at and not self._in_window(ended_at):
                verdict.add("double-terminal", job_id, "it ran again after it had ended")
        for before, after in pairwise(starts):
            cause = self._cause_of_rerun(job, before, after)
            if cause is None:
                why = f"process {before['pid']} and, {after['at'] - before['at']:.3f} s later, "
                why += str(after["pid"])
                verdict.add("unexplained duplicate", job_id, why)
            elif cause not in PLANNED:
                verdict.duplicates[cause] += 1

    def _cause_of_rerun(self, job: _Job, before: Entry, after: Entry) -> str | None:
        begin, end = before["at"], after["at"]
        for own in job.ends:
            same = own["pid"] == before["pid"] and own["token"] == before["token"]
            if same and begin <= own["at"] <= end and own["how"] in PLANNED:
                return str(own["how"])
        for harm in self._harms.get(before["pid"], ()):
            if harm.touches(begin, end):
                return harm.cause
        if any(begin - AOF_WINDOW_S <= kill <= end for kill in self._kills) and any(
            self._in_window(effect["at"]) for effect in job.effects
        ):
            return "redis-killed"
        return None

    def _judge_effect(self, job_id: str, job: _Job) -> None:
        """The outcome that was taken must be that of the last run that was begun."""
        result = self._end.results.get(job_id)
        asked = bool(KINDS[job.kind].options.get("result"))
        if job.finishes and job.finishes[0]["status"] == "completed" and asked and not result:
            self.verdict.add("wrong end", job_id, "completed without its result")
        if not result or not job.starts:
            return
        last = max(job.starts, key=lambda entry: float(entry["at"]))
        if result != last["token"] and not any(self._in_window(e["at"]) for e in job.effects):
            winners = [start for start in job.starts if start["token"] == result]
            who = winners[0]["pid"] if winners else "nobody"
            why = f"the outcome of process {who} was taken, process {last['pid']} held it"
            self.verdict.add("stale effect", job_id, why)

    def _in_window(self, at: float) -> bool:
        """Tell whether what was acknowledged then may be gone by a kill of the server."""
        return any(at <= kill <= at + AOF_WINDOW_S for kill in self._kills)

    # --- sums ---------------------------------------------------------------------------------

    def _judge_sums(self) -> None:
        """Compare the counters with the places and with the ledger."""
        end, verdict = self._end, self.verdict
        counted = end.counters
        gone = sum(counted.get(n, 0) for n in ("completed", "cancelled", "expired", "purged"))
        drift = end.present + end.dead + gone - counted.get("accepted", 0)
        if drift:
            verdict.add("drift", "counters", f"{drift} jobs more in their places than accepted")
        slack = verdict.lost_in_window
        if abs(counted.get("accepted", 0) - verdict.jobs) > slack:
            why = f"{counted.get('accepted', 0)} counted, {verdict.jobs} accepted by the ledger"
            verdict.add("drift", "accepted", why)
        ends = sum(counted.get(n, 0) for n in ("completed", "failed", "cancelled", "expired"))
        if abs(ends - verdict.jobs) > slack:
            why = f"{ends} ends counted for {verdict.jobs} jobs"
            verdict.add("double-terminal", "counters", why)


def judge(entries: Iterable[Entry], end: End) -> Verdict:
    """Judge a run by its ledger and by the state at its end."""
    return Judge(entries, end).judge()


# --- what must have happened at least once ----------------------------------------------------

SOMETIMES: Final[Mapping[str, tuple[str, ...]]] = {
    "stale ack refused": ("fleet-stopped-long", "warden-stopped-long"),
    "script reloaded": ("scripts-flushed", "redis-killed"),
    "reconnected": ("redis-killed", "clients-killed", "link-refused"),
    "submission refused: memory full": ("redis-full",),
    "settled at full memory": ("redis-full",),
    "reclaim held back by grace": ("redis-down-long", "redis-stopped-long", "fleet-stopped-long"),
    "jobs of a lost answer given back": ("workers-cut-off",),
    "dequeue repeated, same batch": ("answers-lost",),
    "enqueue repeated, one job": ("answers-lost",),
    "settle repeated, one effect": ("answers-lost",),
    "answer lost by the proxy": ("answers-lost",),
    "killed at its hard limit": ("blocker",),
    "poison dead-lettered": ("poison",),
    "own clock refused a start": ("warden-stopped-long", "fleet-stopped-long"),
    "lapsed lease reclaimed": ("host-killed", "fleet-stopped-long", "warden-stopped-long"),
    "dead process reclaimed": ("worker-killed",),
    "died at a fail point": ("fail",),
    "ran by a clock an hour off": ("clock",),
    "answered BUSY": ("redis-busy",),
    "given back in order": (),  # only where a worker that leaves has jobs it has not begun
    "cancelled": (),
    "expired": (),
}
"""What a run must have met, and the faults of which each needs one; none = met by chance alone."""


def missing(counts: Mapping[str, int], happened: Iterable[str]) -> list[str]:
    """Return what did not happen although what brings it about did."""
    there = set(happened)
    return [name for name, needs in SOMETIMES.items() if there & {*needs} and not counts.get(name)]


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the 99th percentile and the largest."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[last // 2], ordered[round(0.99 * last)], ordered[last]
