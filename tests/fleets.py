"""A real fleet: supervisor, warden and workers as processes, and a ledger outside Redis.

Handlers write a line to a file opened with O_APPEND at their start and at their effect; the
judgement at the end compares that with what was accepted and with how each job ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from bananas.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from redis import Redis

HERE = Path(__file__).parent
PREFIX = "f"
PATIENCE_S = 25.0

DEFAULTS: dict[str, str] = {
    "BANANAS_KEY_PREFIX": PREFIX,
    "BANANAS_LEASE_TTL": "2s",
    "BANANAS_BEAT_INTERVAL": "500ms",
    "BANANAS_SCHEDULER_INTERVAL": "250ms",
    "BANANAS_SHUTDOWN_GRACE": "3s",
    "BANANAS_HARD_TIMEOUT_GRACE": "300ms",
    "BANANAS_RETRY_BASE": "20ms",
    "BANANAS_LOG_FORMAT": "text",
    "BANANAS_PROCS": "2",
    "BANANAS_WORKER_CONCURRENCY": "4",
}


class Line(NamedTuple):
    """One line of the ledger."""

    what: str
    job_id: str
    pid: int
    attempt: int
    at_s: float


class Ledger:
    """What handlers say of themselves; outlives every process of ours."""

    def __init__(self, path: Path) -> None:
        """Begin an empty one."""
        self.path = path
        path.touch()

    def lines(self, what: str | None = None) -> list[Line]:
        """Return the whole lines written so far."""
        text = self.path.read_text()
        found = []
        for line in text[: text.rfind("\n") + 1].splitlines():
            kind, job_id, pid, attempt, at_s = line.split()
            if what in (None, kind):
                found.append(Line(kind, job_id, int(pid), int(attempt), float(at_s)))
        return found


@dataclass(frozen=True)
class Judgement:
    """What became of the jobs of one scenario."""

    lost: int
    """Accepted and never ended."""
    ghosts: int
    """Started and never accepted."""
    double_ends: int
    """Ended more than once, by the counters."""
    again: Counter[str]
    """Jobs that were started more than once: how often more."""
    drift: int
    counters: dict[str, int]

    def check(self, *, again: int = 0) -> None:
        """Fail on any that must be 0; `again` = starts beyond the first that may be."""
        assert (self.lost, self.ghosts, self.double_ends, self.drift) == (0, 0, 0, 0), self
        assert self.again.total() <= again, self


def wait_for(
    condition: Callable[[], object], *, within_s: float = PATIENCE_S, what: str = ""
) -> Any:  # noqa: ANN401 - what the condition found
    """Wait for a condition of another process; returns what made it true."""
    deadline_s = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what or condition}"
        time.sleep(0.005)
    return found


class Fleet:
    """One supervisor with its children, against a server that is there already."""

    def __init__(
        self, folder: Path, url: str, ledger: Ledger, *, app: str = "fleet_app:app", **env: str
    ) -> None:
        """Prepare; `start` forks. `env` has variables by their names without BANANAS_."""
        self.ledger = ledger
        self.log = folder / f"log-{time.monotonic_ns()}"
        self.environment = {
            **{
                k: v
                for k, v in os.environ.items()
                if not k.startswith("BANANAS_") or k == "BANANAS_PURE"
            },
            **DEFAULTS,
            "BANANAS_REDIS_URL": url,
            "LEDGER": str(ledger.path),
            "PYTHONPATH": os.pathsep.join((str(HERE.parent), str(HERE))),
            **{f"BANANAS_{name}": value for name, value in env.items()},
        }
        self._app = app
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        *,
        ready: int | None = None,
        under: Sequence[str] = (),
        sink: int | None = None,
        before: Callable[[], object] | None = None,
    ) -> Self:
        """Start; returns when that many workers are ready (default: all of them).

        `under` is a command, with its arguments, that runs it; its output goes to `sink` instead
        of the log, and then nobody is waited for; `before` runs in the child before the program.
        """
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*under, sys.executable, str(HERE / "fleet_main.py"), self._app],
                env=self.environment,
                stdout=log if sink is None else sink,
                stderr=log if sink is None else sink,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=before,  # noqa: PLW1509 - no thread of ours holds a lock
            )
        if sink is not None:
            return self
        wanted = int(self.environment["BANANAS_PROCS"]) if ready is None else ready
        wait_for(lambda: self.said("worker", "ready") >= wanted, what="ready workers")
        return self

    def said(self, *words: str) -> int:
        """Return how many lines of the log have all these words."""
        return sum(all(w in line for w in words) for line in self.text().splitlines())

    def text(self) -> str:
        """Return the log."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The supervisor."""
        assert self.process is not None
        return self.process.pid

    def children(self, role: str = "") -> list[int]:
        """Return the living children, by what their title says."""
        pids = []
        for line in _children_of(self.pid):
            title = _title(line)
            if title.startswith(f"bananas: {role}"):
                pids.append(line)
        return pids

    def signal(self, number: signal.Signals, pid: int | None = None) -> None:
        """Send the supervisor, or one process, a signal."""
        os.kill(self.pid if pid is None else pid, number)

    def stop(self, *, within_s: float = 15.0) -> int:
        """Stop in order; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def wait(self, *, within_s: float = PATIENCE_S) -> int:
        """Wait for its end; returns the exit status."""
        assert self.process is not None
        return self.process.wait(within_s)

    def end(self) -> None:
        """Leave nothing behind: for the end of a test, whatever its state."""
        if self.process is None:
            return
        for pid in session_of(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


def _children_of(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split() if not _is_zombie(int(child))]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    return stat[stat.rindex(b")") + 2 :].split()[0] == b"Z"


def session_of(session: int) -> list[int]:
    """Return the living processes of a session, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                stat = (entry / "stat").read_bytes()
                fields = stat[stat.rindex(b")") + 2 :].split()
                if int(fields[3]) == session and fields[0] != b"Z":
                    found.append(int(entry.name))
    return found


def titles_of(session: int) -> list[str]:
    """Return the titles of the living processes of a session."""
    return [_title(pid) for pid in session_of(session)]


class Scene:
    """The server's view of a scenario: what was accepted, how it stands, how it ended."""

    def __init__(self, redis: Redis, ledger: Ledger) -> None:
        """Look through a plain client."""
        self.redis = redis
        self.ledger = ledger
        self.keys = Keys(PREFIX)
        self.accepted: set[str] = set()

    def counters(self) -> dict[str, int]:
        """Return what was counted."""
        pairs: dict[bytes, bytes] = self.redis.hgetall(self.keys.counters)  # type: ignore[assignment]
        return {name.decode(): int(count) for name, count in pairs.items()}

    def waiting(self) -> int:
        """Return how many ids lie in lists or are scheduled."""
        total = int(self.redis.zcard(self.keys.scheduled))  # type: ignore[arg-type]
        for where in self.redis.smembers(self.keys.places()):  # type: ignore[union-attr]
            for key in (self.keys.waiting(where.decode()), self.keys.sorted(where.decode())):
                total += int(self.redis.llen(key))  # type: ignore[arg-type]
        return total

    def leased(self) -> int:
        """Return how many jobs some epoch holds."""
        total = 0
        for epoch in self.redis.zrange(self.keys.epochs, 0, -1):  # type: ignore[union-attr]
            for request in self.redis.smembers(self.keys.epoch_leases(epoch.decode())):  # type: ignore[union-attr]
                total += int(self.redis.scard(self.keys.lease(request.decode())))  # type: ignore[arg-type]
        return total

    def drained(self) -> bool:
        """Tell whether nothing waits, is due or is leased."""
        before = self.counters()
        empty = self.waiting() == 0 and self.leased() == 0
        # several reads: what moved between them has been counted
        return empty and self.counters() == before

    def status(self, job_id: str) -> str:
        """Return the status in a job's record, "" when it has none."""
        record: Any = self.redis.get(self.keys.job(job_id))
        return "" if record is None else str(json.loads(record)["status"])

    def judge(
        self,
        *,
        ended: Iterable[str] = ("completed", "failed", "cancelled"),
        gone: Iterable[str] = (),
    ) -> Judgement:
        """Compare what was accepted with what ran and how it ended; call it when drained.

        Args:
            ended: The statuses that are an end.
            gone: Jobs that the server lost; they may have begun before.
        """
        starts = Counter(line.job_id for line in self.ledger.lines("start"))
        good = set(ended)
        counters = self.counters()
        ends = sum(
            counters.get(name, 0) for name in ("completed", "failed", "cancelled", "expired")
        )
        present = self.waiting() + self.leased() + int(self.redis.zcard(self.keys.dead))  # type: ignore[arg-type]
        over = sum(counters.get(n, 0) for n in ("completed", "cancelled", "expired", "purged"))
        return Judgement(
            lost=sum(self.status(job_id) not in good for job_id in self.accepted),
            ghosts=len(starts.keys() - self.accepted - set(gone)),
            double_ends=ends - len(self.accepted),
            again=Counter({job_id: n - 1 for job_id, n in starts.items() if n > 1}),
            drift=present + over - counters.get("accepted", 0),
            counters=counters,
        )
