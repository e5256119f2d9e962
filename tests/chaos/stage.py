"""What a run is made of: a server, a proxy, a feeder and three fleets; and every fault to them.

`left` and `right` are harmed; `right` reaches the server through the proxy. `steady` serves
a routing key of its own and is never harmed itself: what the server goes through, it does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from chaos.kinds import STEADY_KEY
from chaos.ledger import Pen
from chaos.plan import LEASE_S, ONLY_RIGHT, OUTLASTED, Step
from fleets import PREFIX, Fleet, Scene, session_of, wait_for
from fleets import Ledger as FleetLedger
from servers import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis import Redis

    from servers import Kind

TESTS: Final = Path(__file__).parent.parent
PATIENCE_S: Final = 40.0

SETTLE_S: Final = 10.0
"""How long after a stop beyond the lease its processes may still learn that they lost it."""

SETTINGS: Final = {
    "LEASE_TTL": f"{LEASE_S:g}s",
    "BEAT_INTERVAL": "1s",
    "SCHEDULER_INTERVAL": "500ms",
    "SHUTDOWN_GRACE": "2s",
    "HARD_TIMEOUT_GRACE": "300ms",
    "RETRY_BASE": "200ms",
    "LOG_FORMAT": "json",
    "PROCS": "2",
    "WORKER_CONCURRENCY": "8",
    "RETENTION_COMPLETED": "15m",
}
"""Short times, in the proportions of the defaults."""

_FAKETIME: Final = next(
    (
        path
        for path in (
            "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
            "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
            "/usr/lib/faketime/libfaketime.so.1",
        )
        if Path(path).exists()
    ),
    None,
)


def can_fake_clocks() -> bool:
    """Tell whether a fleet's clock can be set off here (Debian's package `faketime`)."""
    return _FAKETIME is not None


@dataclass
class Troupe:
    """A fleet through its lives: each start is a `Fleet` with a log of its own."""

    name: str
    url: str
    settings: dict[str, str] = field(default_factory=dict)
    fleet: Fleet | None = None
    lives: list[Life] = field(default_factory=list)

    @property
    def now(self) -> Fleet:
        """The one that runs."""
        assert self.fleet is not None
        return self.fleet


@dataclass
class Life:
    """One start of a fleet.

    Attributes:
        fleet: The processes and their log.
        troupe: Whose.
        detail: What it was started with: a fail point, a clock that is off, or nothing.
        ahead_s: How far its calendar is ahead.
        killed: Whether its supervisor was killed, so that its log ends in the middle.
        status: Its exit status, once it has ended in order.
    """

    fleet: Fleet
    troupe: str
    detail: str
    ahead_s: float = 0.0
    killed: bool = False
    status: int | None = None


class Stage:
    """Everything that runs."""

    def __init__(self, folder: Path, kind: Kind, *, rate: float, seed: int) -> None:
        """Prepare; `open` starts."""
        self.folder = folder
        self.ledger = FleetLedger(folder / "ledger")
        self.pen = Pen(self.ledger.path)
        arguments = ("--appendfsync", "everysec", "--lua-time-limit", "200")
        self.server = Server(
            kind, aof=True, arguments=(*arguments, "--slowlog-log-slower-than", "5000")
        )
        self._rate = rate
        self._seed = seed
        self._wire: subprocess.Popen[bytes] | None = None
        self._feeder: subprocess.Popen[bytes] | None = None
        self.troupes: dict[str, Troupe] = {}
        self.scene: Scene | None = None
        self.server_starts = 0
        self._struck_s = 0.0
        self.on_look: Callable[[], object] = _ignore
        """Called now and then while a fault lasts."""

    # --- life ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Start all, and submit nothing yet."""
        self.server.start()
        self.server_starts += 1
        self.scene = Scene(self.server.client(timeout_s=20.0), self.ledger)
        self._wire = self._run("wire", str(self.server.socket), str(self._seed), spoken=True)
        assert self._wire.stdout is not None
        proxied = self._wire.stdout.readline().decode().strip()
        self._feeder = self._run(
            "feeder", PREFIX, self.server.url, proxied, str(self._rate), str(self._seed)
        )
        both = {"WORKER_ROUTING_KEYS": "default"}
        alone = {"WORKER_ROUTING_KEYS": STEADY_KEY, "PROCS": "1"}
        self.troupes = {
            "left": Troupe("left", self.server.url, both),
            "right": Troupe("right", proxied, both),
            "steady": Troupe("steady", self.server.url, alone),
        }
        for troupe in self.troupes.values():
            self.start(troupe)

    def close(self) -> None:
        """Leave no process behind, whatever the state."""
        for process in (self._feeder, self._wire):
            if process is not None:
                process.kill()
                process.wait()
        for life in self.lives():
            life.fleet.end()
        self.server.discard()

    def _run(self, program: str, *arguments: str, spoken: bool = False) -> subprocess.Popen[bytes]:
        first, rest = (arguments[:1], arguments[1:]) if program == "wire" else ((), arguments)
        ledger = str(self.ledger.path)
        with (self.folder / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"chaos.{program}", *first, ledger, *rest],
                env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if spoken else log,
                stderr=log,
                start_new_session=True,
            )

    def tell_feeder(self, word: str) -> None:
        """Send the feeder a command."""
        _tell(self._feeder, word)

    def tell_wire(self, word: str) -> None:
        """Send the proxy a command."""
        _tell(self._wire, word)

    def helpers(self) -> list[subprocess.Popen[bytes]]:
        """Return the feeder and the proxy."""
        return [process for process in (self._feeder, self._wire) if process is not None]

    def client(self) -> Redis:
        """Return a new plain client."""
        return self.server.client(timeout_s=20.0)

    def lives(self) -> list[Life]:
        """Return all starts of all fleets."""
        return [life for troupe in self.troupes.values() for life in troupe.lives]

    def start(self, troupe: Troupe, detail: str = "", *, wait: bool = True) -> None:
        """Start a fleet, in a condition."""
        fleet = Fleet(
            self.folder,
            troupe.url,
            self.ledger,
            app="chaos.tasks:app",
            **SETTINGS | troupe.settings,
        )
        condition, _, value = detail.partition("=")
        ahead_s = 0.0
        if condition == "fail":
            fleet.environment["BANANAS_FAIL"] = value
        elif condition == "clock" and _FAKETIME is not None:
            ahead_s = float(value.removesuffix("s"))
            fleet.environment |= {
                "LD_PRELOAD": _FAKETIME,
                "FAKETIME": value,
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        troupe.fleet = fleet
        troupe.lives.append(Life(fleet, troupe.name, detail, ahead_s))
        fleet.start(ready=0)
        if wait and condition != "fail":
            wanted = int(fleet.environment["BANANAS_PROCS"])
            wait_for(
                lambda: fleet.said("child-ready", "worker") >= wanted,
                within_s=PATIENCE_S,
                what=f"{troupe.name}: ready workers",
            )

    def pause(self, seconds: float) -> None:
        """Let a fault last."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.5))
            self.on_look()

    # --- faults -------------------------------------------------------------------------------

    def carry_out(self, step: Step) -> None:
        """Do what a step of the plan says, and write it down; returns when it is over."""
        troupe = self.troupes[step.fleet]
        if step.kind in OUTLASTED:
            self.tell_feeder("burst")
            self.pause(0.5)
        self._struck_s = time.monotonic()
        self.pen.note("fault", kind=step.kind, fleet=step.fleet, detail=step.detail)
        if step.kind.startswith(("redis", "scripts", "clients")) or step.kind in ONLY_RIGHT:
            self._harm_server(step)
            victims: Sequence[int] = ()
        else:
            victims = self._harm_fleet(step, troupe)
        self.pen.note(
            "over",
            kind=step.kind,
            fleet=step.fleet,
            victims=[] if step.kind.startswith("worker-stopped") else list(victims),
            served=self._workers(troupe) if step.kind in ONLY_RIGHT else [],
            began=self._struck_s,
        )

    def _harm_fleet(self, step: Step, troupe: Troupe) -> Sequence[int]:
        """Harm processes; returns those whose jobs may have to run again."""
        victims: Sequence[int] = self._workers(troupe)
        match step.kind:
            case "worker-killed" | "warden-killed":
                victims = self._one(troupe, step.kind.partition("-")[0], step.chance)
                self._harm(step.kind, victims, 1.0)
                self._signal(victims, signal.SIGKILL)
            case "worker-stopped" | "worker-stopped-long":
                victims = self._stop(self._one(troupe, "worker", step.chance), step.seconds)
            case "warden-stopped-long":
                self._harm(step.kind, victims, step.seconds + SETTLE_S)
                self._stop(self._one(troupe, "warden", step.chance), step.seconds)
            case "fleet-stopped-long":
                self._harm(step.kind, victims, step.seconds + SETTLE_S)
                self._stop(session_of(troupe.now.pid), step.seconds)
            case "supervisor-killed":
                self._kill_for_good(troupe, [troupe.now.pid], step)
            case "host-killed":
                self._kill_for_good(troupe, session_of(troupe.now.pid), step)
            case "fleet-restarted":
                self.restart(troupe, step.detail)
            case "fleet-rolled":
                self._roll(troupe)
            case _:
                raise ValueError(step.kind)
        return victims

    def _kill_for_good(self, troupe: Troupe, pids: Sequence[int], step: Step) -> None:
        """Kill a supervisor, alone or with its children; another takes its place."""
        self._harm(step.kind, [troupe.now.pid, *self._workers(troupe)], 60.0)
        troupe.lives[-1].killed = True
        self._signal(pids, signal.SIGKILL)
        self.pause(step.seconds)
        self.start(troupe, step.detail)

    def restart(self, troupe: Troupe, detail: str = "") -> None:
        """Stop a fleet in order and start it again."""
        self._harm("fleet-restarted", self._workers(troupe), 15.0)
        self.stop(troupe)
        self.start(troupe, detail)

    def stop(self, troupe: Troupe) -> None:
        """Stop a fleet in order, by what its supervisor promises."""
        life = troupe.lives[-1]
        life.status = life.fleet.stop(within_s=PATIENCE_S)

    def _workers(self, troupe: Troupe) -> list[int]:
        # by session: the kernel's list of children may miss some while one of them ends
        supervisor = troupe.now.pid
        return [pid for pid in session_of(supervisor) if pid != supervisor]

    def _one(self, troupe: Troupe, role: str, chance: float) -> list[int]:
        pids = sorted(wait_for(lambda: troupe.now.children(role), within_s=PATIENCE_S, what=role))
        return [pids[int(chance * len(pids))]]

    def _harm(self, cause: str, pids: Sequence[int], for_s: float) -> None:
        """Write down that what these processes hold may run again because of us."""
        now_s = time.monotonic()
        self.pen.note("harm", cause=cause, pids=list(pids), since=now_s, until=now_s + for_s)

    def _signal(self, pids: Sequence[int], number: signal.Signals) -> None:
        if number is not signal.SIGCONT:
            self._struck_s = time.monotonic()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _stop(self, pids: Sequence[int], seconds: float) -> list[int]:
        self._signal(pids, signal.SIGSTOP)
        self.pause(seconds)
        self._signal(pids, signal.SIGCONT)
        return list(pids)

    def _roll(self, troupe: Troupe) -> None:
        """Have all children replaced, one by one."""
        self._harm("fleet-rolled", self._workers(troupe), 30.0)
        rolled = troupe.now.said("roll-ended")
        troupe.now.signal(signal.SIGHUP)
        with suppress(AssertionError):  # under a fail point it may be given up
            wait_for(
                lambda: troupe.now.said("roll-ended") + troupe.now.said("roll-given-up") > rolled,
                within_s=15.0,
            )

    def _harm_server(self, step: Step) -> None:
        server = self.server
        match step.kind:
            case "redis-killed" | "redis-down-long":
                self.pen.note("redis-killed")
                server.kill()
                self.pause(step.seconds)
                server.start()
                self.server_starts += 1
            case "redis-stopped" | "redis-stopped-long":
                with server.frozen():
                    self.pause(step.seconds)
            case "answers-lost":
                self._through_the_wire(f"lose {0.03 + 0.03 * step.chance:.3f}", step)
            case "link-silent":
                self._through_the_wire("silence", step)
            case "workers-cut-off":
                self._through_the_wire("cut-off", step)
            case "link-refused":
                self._through_the_wire("refuse", step)
            case _:
                with self.client() as client:
                    self._harm_by_command(step, client)

    def _through_the_wire(self, word: str, step: Step) -> None:
        self.tell_wire(word)
        self.pause(step.seconds)
        self.tell_wire("calm")

    def _harm_by_command(self, step: Step, client: Redis) -> None:
        match step.kind:
            case "redis-paused":
                client.client_pause(int(step.seconds * 1000))
                self.pause(step.seconds)
            case "redis-busy":
                self._keep_busy(client, step.seconds)
            case "redis-full":
                used = int(client.info("memory")["used_memory"])
                client.config_set("maxmemory", used - 1000)
                self.pause(step.seconds)
                client.config_set("maxmemory", 0)
            case "scripts-flushed":
                end_s = time.monotonic() + step.seconds
                while time.monotonic() < end_s:
                    client.script_flush()
                    time.sleep(0.02)
            case "clients-killed":
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            case _:
                raise ValueError(step.kind)

    def _keep_busy(self, client: Redis, seconds: float) -> None:
        """Run a script of an operator's that takes long, and end it as its operator would."""
        with self.client() as runner:
            words = ["EVAL", "while true do end", "0"]
            runner.connection_pool.get_connection().send_command(*words)
            self.pause(seconds)
            client.execute_command("SCRIPT", "KILL")


def _ignore() -> None:
    """Do nothing."""


def _tell(process: subprocess.Popen[bytes] | None, word: str) -> None:
    assert process is not None
    assert process.stdin is not None
    process.stdin.write(word.encode() + b"\n")
    process.stdin.flush()


def server_words(client: Redis) -> dict[str, Any]:
    """Return what a run counts of the server itself, empty while it does not answer."""
    try:
        found: Any = client.info("everything")
    except (RedisError, OSError):
        return {}
    return dict(found)
