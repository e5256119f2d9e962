"""Looks at a run from outside while it goes on: logs, processes, the server, the ledger.

What the fleets log is turned into entries of the ledger (deaths) and into counts; what the
kernel says of their processes into series that must not grow.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from redis.exceptions import RedisError

from chaos.ledger import Reader
from chaos.stage import server_words
from fleets import session_of

if TYPE_CHECKING:
    from redis import Redis

    from chaos.ledger import Entry
    from chaos.stage import Life, Stage

LOOK_S: Final = 0.25
SAMPLE_S: Final = 5.0
ZOMBIE_LOOKS: Final = 8
"""Looks in a row at which a child has ended and was not reaped."""

_REFUSED: Final = re.compile(r"(\d+) outcomes refused")
_MOVED: Final = re.compile(r"(\d+) jobs given back")

_SAID: Final = (
    ("waiting one lease before judging others", "reclaim held back by grace"),
    ("the lease has ended by our own clock", "own clock refused a start"),
    ("gave back", "jobs of a lost answer given back"),
    ("dropped:", "reconnected"),
    ("lapsed:", "lapsed lease reclaimed"),
)


@dataclass
class Sample:
    """What one process of a fleet used at a time."""

    at_s: float
    role: str
    rss: int
    fds: int
    threads: int


@dataclass
class _Tail:
    life: Life
    at: int = 0


@dataclass
class Seen:
    """What was seen, for the report."""

    counts: Counter[str] = field(default_factory=Counter)
    started: Counter[str] = field(default_factory=Counter)
    """Children started, by log."""
    ended: Counter[str] = field(default_factory=Counter)
    samples: dict[int, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    draining: set[str] = field(default_factory=set)
    """Logs of fleets that were told to leave."""
    forced: set[str] = field(default_factory=set)
    """Those where a job ran past its hard limit meanwhile: they say so by their exit status."""
    zombies: set[int] = field(default_factory=set)
    used_memory: list[tuple[float, int]] = field(default_factory=list)
    clients: list[tuple[float, int]] = field(default_factory=list)
    slow_ms: list[float] = field(default_factory=list)
    """Calls of our scripts that took more than 5 ms of the server's time."""


class Monitor:
    """A thread that looks and never touches."""

    def __init__(self, stage: Stage) -> None:
        """Look at this stage."""
        self._stage = stage
        self._thread = threading.Thread(target=self._look_for_ever, name="monitor", daemon=True)
        self._stop = threading.Event()
        self._tails: dict[str, _Tail] = {}
        self._reader = Reader(stage.ledger.path)
        self._client: Redis | None = None
        self._server_before: dict[str, int] = {}
        self._dead_for: Counter[int] = Counter()
        self._culprits: dict[int, list[str]] = {}
        self._sampled_s = 0.0
        self._server_s = 0.0
        self.seen = Seen()
        self.entries: list[Entry] = []
        self.lock = threading.Lock()

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Look a last time, and end."""
        self._stop.set()
        self._thread.join(30)
        self.look()

    def _look_for_ever(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - told in the ledger, and judged
                self._stage.pen.note("trouble", who="monitor", error=repr(error))

    def look(self) -> None:
        """Look once at everything."""
        with self.lock:
            now_s = time.monotonic()
            for life in self._stage.lives():
                self._read_log(life)
            if now_s - self._server_s >= 1.0:
                self._server_s = now_s
                self._look_at_server(now_s)
            if now_s - self._sampled_s >= SAMPLE_S:
                self._sampled_s = now_s
                self._look_at_processes(now_s)
            self._look_for_zombies()
            self.entries += self._reader.more()

    def look_at_server(self) -> None:
        """Look at the server now."""
        with self.lock:
            self._look_at_server(time.monotonic())

    def forget(self) -> None:
        """Begin a new ledger: what was read is judged."""
        with self.lock:
            self.entries = []

    # --- logs ---------------------------------------------------------------------------------

    def _read_log(self, life: Life) -> None:
        path = life.fleet.log
        tail = self._tails.setdefault(str(path), _Tail(life))
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(tail.at)
            data = file.read()
        end = data.rfind(b"\n") + 1
        tail.at += end
        for line in data[:end].splitlines():
            # the trace of an aborted process may stand before it: both write as they can
            at = line.find(b'{"time":')
            if at >= 0:
                self._take(life, orjson.loads(line[at:]))

    def _take(self, life: Life, line: dict[str, Any]) -> None:
        seen, log = self.seen, str(life.fleet.log)
        match line["message"]:
            case "draining":
                seen.draining.add(log)
            case "child-started":
                seen.started[log] += 1
                seen.counts["ran by a clock an hour off"] += life.detail.startswith("clock=")
            case "child-signalled" if line.get("child_culprits"):
                self._culprits[line["child_pid"]] = line["child_culprits"]
                seen.counts["killed at its hard limit"] += 1
                if log in seen.draining:
                    seen.forced.add(log)
            case "child-ended":
                self._buried(life, line)
            case message:
                self._count(message)
        # an error of a job or of the server is a line; a defect of ours has a trace or is critical
        if line["level"] == "critical" or (line["level"] == "error" and "traceback" in line):
            where = f"{life.troupe} {life.detail}".strip()
            text = f"{line['message']} {line.get('traceback', '')[-300:]}".strip()
            self._stage.pen.note("trouble", who=where, error=text)

    def _count(self, message: str) -> None:
        counts = self.seen.counts
        for words, name in _SAID:
            counts[name] += words in message
        if found := _REFUSED.search(message):
            counts["stale ack refused"] += int(found[1])
        if (found := _MOVED.search(message)) and "is gone" in message:
            counts["dead process reclaimed"] += found[1] != "0"

    def _buried(self, life: Life, line: dict[str, Any]) -> None:
        self.seen.ended[str(life.fleet.log)] += 1
        pid = line["child_pid"]
        if life.detail.startswith("fail=") and line["child_code"] == -9:
            self.seen.counts["died at a fail point"] += 1
        self._stage.pen.note(
            "death",
            pid=pid,
            role=line["child_role"],
            fleet=life.troupe,
            detail=life.detail,
            code=line["child_code"],
            verdict=line["child_verdict"],
            reason=line["child_reason"],
            culprits=self._culprits.get(pid, []),
            read=time.monotonic(),
            at=_monotonic(line["time"], life.ahead_s),
        )

    # --- the server ---------------------------------------------------------------------------

    def _look_at_server(self, now_s: float) -> None:
        if self._client is None:
            self._client = self._stage.server.client(timeout_s=1.0)
        words = server_words(self._client)
        if not words:
            return
        now = {
            "script reloaded": _calls(words, "cmdstat_eval"),
            "submission refused: memory full": _errors(words, "OOM"),
            "answered BUSY": _errors(words, "BUSY"),
            "NOSCRIPT": _errors(words, "NOSCRIPT"),
        }
        for name, count in now.items():
            before = self._server_before.get(name, 0)
            # a server that was started anew counts from 0
            self.seen.counts[name] += count - before if count >= before else count
        self._server_before = now
        self.seen.slow_ms += _slow_scripts(self._client)
        self.seen.used_memory.append((now_s, int(words["used_memory"])))
        self.seen.clients.append((now_s, int(words["connected_clients"])))

    # --- processes ----------------------------------------------------------------------------

    def _look_at_processes(self, now_s: float) -> None:
        for troupe in self._stage.troupes.values():
            if troupe.fleet is None or troupe.fleet.process is None:
                continue
            for pid in session_of(troupe.fleet.pid):
                sample = _sample(pid, now_s)
                if sample is not None:
                    self.seen.samples[pid].append(sample)

    def _look_for_zombies(self) -> None:
        """Notice children that have ended and whom a living supervisor does not reap."""
        alive: set[int] = set()
        for troupe in self._stage.troupes.values():
            if troupe.fleet is None or troupe.fleet.process is None:
                continue
            alive |= _zombies_of(troupe.fleet.pid)
        for pid in [*self._dead_for]:
            if pid not in alive:
                del self._dead_for[pid]
        for pid in alive:
            self._dead_for[pid] += 1
            if self._dead_for[pid] >= ZOMBIE_LOOKS:
                self.seen.zombies.add(pid)


def _monotonic(text: str, ahead_s: float) -> float:
    """Return the monotonic time of a log's line."""
    real_s = datetime.fromisoformat(text).timestamp() - ahead_s
    return real_s - time.time() + time.monotonic()


def _slow_scripts(client: Redis) -> list[float]:
    """Return the milliseconds of each slow call by content since the last look."""
    try:
        found: Any = client.slowlog_get(128)
        client.slowlog_reset()
    except (RedisError, OSError):
        return []
    return [e["duration"] / 1000 for e in found if e["command"].upper().startswith(b"EVALSHA")]


def _calls(words: dict[str, Any], name: str) -> int:
    return int(words.get(name, {}).get("calls", 0))


def _errors(words: dict[str, Any], name: str) -> int:
    found = words.get(f"errorstat_{name}", {})
    return int(found.get("count", 0)) if isinstance(found, dict) else 0


def _sample(pid: int, now_s: float) -> Sample | None:
    folder = Path(f"/proc/{pid}")
    try:
        role = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        pages = int((folder / "statm").read_text().split()[1])
        fds = len(list((folder / "fd").iterdir()))
        threads = len(list((folder / "task").iterdir()))
    except (OSError, ValueError, IndexError):
        return None
    return Sample(now_s, role, pages * 4096, fds, threads)


def _zombies_of(supervisor: int) -> set[int]:
    """Return the dead children of a supervisor that is alive and not stopped."""
    if _state(supervisor) not in ("S", "R"):
        return set()
    try:
        text = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    except OSError:
        return set()
    return {int(pid) for pid in text.split() if _state(int(pid)) == "Z"}


def _state(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat[stat.rindex(")") + 2]
