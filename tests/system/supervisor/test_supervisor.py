"""The supervisor with real processes and real signals: what it does, seen from outside.

Each test runs `fleet.py` as a program of its own and waits for the lines it writes.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from bananas.supervisor import EXIT_BOOT_FAILED, EXIT_FORCED, EXIT_OK
from bananas.supervisor.process import birth_of, kill_exactly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLEET = Path(__file__).with_name("fleet.py")
ROOT = Path(__file__).parents[3]
PATIENCE_S = 20.0  # only a failing test ever waits for so long
WARDEN = {"role": "warden", "does": "wards", "stop_rank": 1}

Line = dict[str, Any]


class Fleet:
    """A running `fleet.py` and the lines it has written."""

    def __init__(
        self,
        *specs: Line,
        under: tuple[str, ...] = (),
        stdin: int = subprocess.DEVNULL,
        **config: object,
    ) -> None:
        """Start it, in a process group of its own."""
        self.process = subprocess.Popen(
            [*under, sys.executable, FLEET, json.dumps({"specs": specs, **config})],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        assert self.process.stdout
        assert self.process.stderr
        self._out = self.process.stdout.fileno()
        self._buffer = b""
        self.lines: list[Line] = []
        self._taken: set[int] = set()
        self._known: set[tuple[int, int]] = set()  # (pid, birth) of all children seen

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind, whatever the test came to."""
        self.process.kill()
        for pid, birth in self._known:
            kill_exactly(pid, birth)
        self.process.communicate()  # ends only when nobody holds the other ends any more

    def send(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """Send the supervisor and all its children a signal: their groups are their own."""
        for pid in (self.process.pid, *children_of(self.process.pid)):
            os.kill(pid, number)

    def read(self, deadline: float) -> bool:
        """Take in one more line; False at the end of the output."""
        while b"\n" not in self._buffer:
            left_s = deadline - time.monotonic()
            ready, _, _ = select.select([self._out], [], [], max(0, left_s))
            assert ready, f"nothing more came; so far: {self.lines}"
            data = os.read(self._out, 65536)
            if not data:
                return False
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\n")
        self.lines.append(json.loads(text))
        pid = self.lines[-1].get("pid")
        if isinstance(pid, int) and (birth := birth_of(pid)):
            self._known.add((pid, birth))
        return True

    def wait_for(self, kind: str, **fields: object) -> Line:
        """Return the first line of this kind with these fields that was not returned before.

        Lines of different processes come in any order, so those passed over stay available.
        """
        deadline = time.monotonic() + PATIENCE_S
        seen = 0
        while True:
            for place, found in enumerate(self.lines[seen:], seen):
                if place not in self._taken and {**found, **fields, "kind": kind} == found:
                    self._taken.add(place)
                    return found
            seen = len(self.lines)
            assert self.read(deadline), f"ended without {kind} {fields}: {self.lines}"

    def all_ready(self, count: int) -> list[int]:
        """Wait until so many children are ready; return their pids."""
        return [self.wait_for("child-ready")["pid"] for _ in range(count)]

    def end(self) -> int:
        """Read to the end of the output and return the exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self.read(deadline):
            pass
        return self.process.wait(PATIENCE_S)

    def of(self, kind: str, **fields: object) -> list[Line]:
        """Return all lines so far of this kind with these fields."""
        return [x for x in self.lines if {**x, **fields, "kind": kind} == x]

    def errors(self) -> str:
        """Return what was written to standard error, after the end."""
        assert self.process.stderr
        return self.process.stderr.read().decode()


def workers(count: int, does: str = "works") -> Line:
    """Return a spec of workers."""
    return {"role": "worker", "count": count, "does": does}


def wait_gone(pid: int) -> None:
    """Wait until a process, which need not be our child, has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([handle], [], [], PATIENCE_S)
        assert ready, f"{pid} is still there"
    finally:
        os.close(handle)


@pytest.fixture
def start() -> Iterator[Callable[..., Fleet]]:
    """Return a starter of fleets that are ended after the test."""
    fleets: list[Fleet] = []

    def starter(*specs: Line, **options: Any) -> Fleet:  # noqa: ANN401 - Fleet's own
        fleets.append(Fleet(*specs, **options))
        return fleets[-1]

    yield starter
    for fleet in fleets:
        fleet.__exit__()


# --- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_drains_when_told(start: Callable[..., Fleet], number: signal.Signals) -> None:
    """SIGTERM and SIGINT have each child told once, the warden last, and the status is 0."""
    fleet = start(workers(3), WARDEN)
    pids = fleet.all_ready(4)
    fleet.send(number)
    assert fleet.end() == EXIT_OK
    said = fleet.of("said", what="SIGTERM")
    assert sorted(x["pid"] for x in said) == sorted(pids)
    order = [x["role"] for x in fleet.lines if x["kind"] in {"child-ended", "child-signalled"}]
    assert order == ["worker"] * 6 + ["warden"] * 2
    assert {x["verdict"] for x in fleet.of("child-ended")} == {"stopped"}


def test_a_child_that_still_boots_leaves_at_once(start: Callable[..., Fleet]) -> None:
    """SIGTERM during the start-up ends those that boot without waiting for a deadline."""
    fleet = start(workers(2, "never_ready"))
    fleet.wait_for("said", what="booting")
    fleet.wait_for("said", what="booting")
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert fleet.of("child-ended", verdict="stopped", code=-signal.SIGTERM)
    assert not fleet.of("child-signalled", signal="SIGKILL")


def test_no_other_signal_ends_a_child_that_boots(start: Callable[..., Fleet]) -> None:
    """SIGUSR1, SIGHUP and SIGINT do nothing to a child that has no handlers yet."""
    fleet = start(workers(2, "never_ready"))
    pids = [fleet.wait_for("said", what="booting")["pid"] for _ in range(2)]
    fleet.send(signal.SIGUSR1)
    fleet.wait_for("quiet")
    for pid in pids:
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGINT)
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert [x["code"] for x in fleet.of("child-ended")] == [-signal.SIGTERM] * 2


def test_ctrl_c_drains_in_order(start: Callable[..., Fleet]) -> None:
    """SIGINT to the terminal's foreground drains the workers before the server ends."""
    server = {"role": "server", "does": "program", "execs": True, "stop_rank": 2}
    fleet = start(workers(2), server)
    fleet.all_ready(3)
    os.killpg(fleet.process.pid, signal.SIGINT)
    assert fleet.end() == EXIT_OK
    ended = fleet.of("child-ended")
    assert [x["role"] for x in ended] == ["worker", "worker", "server"]
    assert [x["code"] for x in ended] == [0, 0, -signal.SIGTERM]


def test_a_child_leads_a_group_of_its_own(start: Callable[..., Fleet]) -> None:
    """What a job sends to its own process group reaches no other process of the fleet."""
    fleet = start(workers(2), WARDEN)
    groups = {os.getpgid(pid) for pid in fleet.all_ready(3)}
    assert len(groups) == 3
    assert os.getpgid(fleet.process.pid) not in groups


def test_a_signal_before_anything_is_up_is_not_lost(start: Callable[..., Fleet]) -> None:
    """SIGTERM right after the supervisor's first word ends it, whatever has been forked."""
    fleet = start(workers(4), WARDEN)
    fleet.wait_for("supervisor-started")
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK


def test_the_second_term_cuts(start: Callable[..., Fleet]) -> None:
    """A second SIGTERM sends SIGQUIT to those that drain; they leave long before the grace."""
    fleet = start(workers(2, "lingers"), WARDEN)
    fleet.all_ready(3)
    fleet.send(signal.SIGTERM)
    fleet.wait_for("said", what="SIGTERM")
    fleet.wait_for("said", what="SIGTERM")
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert len(fleet.of("said", what="SIGTERM", role="worker")) == 2
    assert len(fleet.of("said", what="SIGQUIT", role="worker")) == 2


def test_who_does_not_leave_when_cut_is_killed(start: Callable[..., Fleet]) -> None:
    """SIGKILL follows SIGQUIT, and the status tells that force was needed."""
    fleet = start(workers(1, "deaf"), limits={"cut_s": 0.2})
    fleet.all_ready(1)
    fleet.send(signal.SIGQUIT)
    assert fleet.end() == EXIT_FORCED
    assert [x["signal"] for x in fleet.of("child-signalled")] == ["SIGQUIT", "SIGKILL"]


def test_the_group_has_one_deadline(start: Callable[..., Fleet]) -> None:
    """Who has not drained at the deadline is killed; the warden is still told in order."""
    limits = {"drain_margin_s": 0.2}
    fleet = start(workers(2, "deaf"), WARDEN, grace_s=0.2, limits=limits)
    fleet.all_ready(3)
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_FORCED
    assert [x["reason"] for x in fleet.of("child-ended", role="worker")] == [
        "not drained in time",
        "not drained in time",
    ]
    assert fleet.of("child-ended", role="warden", verdict="stopped", code=0)


# --- the supervisor's own death -----------------------------------------------------------------


def test_a_killed_supervisor_leaves_no_orphan(start: Callable[..., Fleet]) -> None:
    """After SIGKILL to the supervisor every child ends by itself, an exec'd program too."""
    server = {"role": "server", "does": "program", "execs": True, "stop_rank": 2}
    fleet = start(workers(3), WARDEN, server)
    pids = [*fleet.all_ready(5)]
    fleet.process.kill()
    for pid in pids:
        wait_gone(pid)


def test_the_lifeline_alone_is_enough(start: Callable[..., Fleet]) -> None:
    """A child that does not heed SIGTERM sees the end of the lifeline."""
    fleet = start(workers(1, "lingers"))
    (pid,) = fleet.all_ready(1)
    fleet.process.kill()
    fleet.wait_for("said", what="alone", pid=pid)
    wait_gone(pid)


def test_the_last_one_out_kills_who_hangs(start: Callable[..., Fleet]) -> None:
    """A child that heeds nothing is killed by its sibling once the supervisor is gone."""
    fleet = start(workers(1, "deaf"), {**WARDEN, "does": "wards_last"})
    fleet.all_ready(2)
    pids = {x["role"]: x["pid"] for x in fleet.of("child-ready")}
    fleet.process.kill()
    assert fleet.wait_for("said", what="left")["pids"] == [pids["worker"]]
    assert fleet.wait_for("said", what="killed")["pids"] == [pids["worker"]]
    wait_gone(pids["worker"])


# --- rolling and counting -----------------------------------------------------------------------


def lowest_ready(lines: list[Line], full: int) -> int:
    """Return the least READY workers at any moment after all were first READY."""
    ready: set[int] = set()
    lowest = None
    for x in lines:
        if x.get("role") != "worker":
            continue
        if x["kind"] == "child-ready":
            ready.add(x["pid"])
        elif x["kind"] in {"child-signalled", "child-ended"}:
            ready.discard(x["pid"])
        if len(ready) >= full or lowest is not None:
            lowest = len(ready) if lowest is None else min(lowest, len(ready))
    assert lowest is not None
    return lowest


def test_a_roll_has_no_gap(start: Callable[..., Fleet]) -> None:
    """SIGHUP replaces every child, and at no moment fewer workers are READY than before."""
    fleet = start(workers(3), WARDEN)
    old = set(fleet.all_ready(4))
    fleet.send(signal.SIGHUP)
    fleet.wait_for("roll-ended")
    assert lowest_ready(fleet.lines, 3) == 3
    new = {x["pid"] for x in fleet.of("child-ready")} - old
    assert len(new) == 4
    assert {x["pid"] for x in fleet.of("said", what="SIGTERM")} <= old
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert {x["pid"] for x in fleet.of("child-ended", code=0)} == old | new


def test_a_roll_to_broken_code_keeps_the_old(start: Callable[..., Fleet], tmp_path: Path) -> None:
    """When the replacements cannot boot, the roll is given up and the old children work on."""
    broken = tmp_path / "broken"
    limits = {"boot_backoff_s": 0.01}
    fleet = start(workers(2, "boots_unless_broken"), broken=str(broken), limits=limits)
    old = fleet.all_ready(2)
    broken.touch()
    fleet.send(signal.SIGHUP)
    fleet.wait_for("roll-given-up")
    assert len(fleet.of("child-ended", verdict="boot-failure")) == 5
    assert not fleet.of("child-signalled")
    broken.unlink()
    fleet.send(signal.SIGHUP)
    fleet.wait_for("roll-ended", wave=2)
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert {x["pid"] for x in fleet.of("child-signalled")} > set(old)


def test_a_child_may_ask_to_be_replaced(start: Callable[..., Fleet]) -> None:
    """A child that sets its flag works on until its replacement is READY."""
    fleet = start(workers(2, "asks"))
    fleet.wait_for("child-signalled", signal="SIGTERM", number=1, why="asked to be replaced")
    fleet.wait_for("child-ended", number=1, verdict="stopped")
    assert lowest_ready(fleet.lines, 2) == 2
    assert len(fleet.of("child-started")) == 3


@pytest.mark.parametrize("first", ["terminal", "signal"])
def test_a_hang_up_of_the_terminal_drains(start: Callable[..., Fleet], first: str) -> None:
    """SIGHUP rolls a fleet while its terminal is there; with the terminal's end it is the end."""
    master, slave = os.openpty()
    try:
        fleet = start(workers(1), stdin=slave)
        os.close(slave)
        fleet.all_ready(1)
        fleet.send(signal.SIGHUP)
        fleet.wait_for("roll-ended")
        if first == "signal":
            fleet.send(signal.SIGHUP)
            fleet.wait_for("roll-begun", wave=2)
    finally:
        os.close(master)
    if first == "terminal":
        fleet.send(signal.SIGHUP)
    fleet.wait_for("terminal-gone")
    assert fleet.end() == EXIT_OK


def test_a_terminal_that_goes_without_a_signal_changes_nothing(
    start: Callable[..., Fleet], tmp_path: Path
) -> None:
    """As after `disown`: only a SIGHUP ends a fleet, and without a terminal it rolls."""
    master, slave = os.openpty()
    fleet = start(workers(1), stdin=slave)
    os.close(slave)
    fleet.all_ready(1)
    os.close(master)
    fleet.send(signal.SIGTTIN)
    fleet.wait_for("scaled")
    with (tmp_path / "none").open("w") as none:
        other = start(workers(1), stdin=none.fileno())
        other.all_ready(1)
        other.send(signal.SIGHUP)
        other.wait_for("roll-ended")
    for one in (fleet, other):
        one.send(signal.SIGTERM)
        assert one.end() == EXIT_OK
        assert not one.of("terminal-gone")


def test_the_count_goes_up_and_down(start: Callable[..., Fleet]) -> None:
    """SIGTTIN adds a worker, SIGTTOU takes one away, and one stays whatever is sent."""
    fleet = start(workers(1), WARDEN)
    fleet.all_ready(2)
    fleet.send(signal.SIGTTIN)
    fleet.wait_for("scaled", wanted=2)
    added = fleet.wait_for("child-ready", role="worker")["pid"]
    fleet.send(signal.SIGTTOU)
    fleet.wait_for("child-ended", pid=added, verdict="stopped")
    fleet.send(signal.SIGTTOU)
    fleet.wait_for("scale-refused", wanted=1)
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert len(fleet.of("child-started", role="worker")) == 2


def test_the_count_stops_at_the_table(start: Callable[..., Fleet]) -> None:
    """SIGTTIN beyond the table is refused, and one slot stays for replacements."""
    fleet = start(workers(1), slots=2)
    fleet.all_ready(1)
    fleet.send(signal.SIGTTIN)
    fleet.wait_for("scale-refused", wanted=1)


def test_quiet_is_forwarded(start: Callable[..., Fleet]) -> None:
    """SIGUSR1 reaches each child with its flag set, and later children are born with it."""
    fleet = start(workers(2))
    pids = fleet.all_ready(2)
    fleet.send(signal.SIGUSR1)
    for _ in pids:
        assert fleet.wait_for("said", what="SIGUSR1")["quiet"] is True
    os.kill(pids[0], signal.SIGKILL)
    fleet.wait_for("child-ready")
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert [x["quiet"] for x in fleet.of("said", what="SIGTERM")] == [True, True]


# --- crashes ------------------------------------------------------------------------------------


def test_a_killed_child_is_replaced(start: Callable[..., Fleet]) -> None:
    """A child that is killed is buried as a crash, and another one takes its place."""
    fleet = start(workers(2), WARDEN)
    fleet.all_ready(3)
    pid = fleet.of("child-ready", role="worker")[0]["pid"]
    os.kill(pid, signal.SIGKILL)
    ended = fleet.wait_for("child-ended", pid=pid)
    assert (ended["verdict"], ended["code"]) == ("crash", -signal.SIGKILL)
    assert ended["reason"] == "killed by SIGKILL, perhaps out of memory"
    assert fleet.wait_for("child-ready", role="worker")["pid"] != pid


def test_leaving_unasked_is_a_crash(start: Callable[..., Fleet]) -> None:
    """`os._exit(0)` is no success: the child is replaced."""
    fleet = start(workers(1, "leaves"))
    fleet.wait_for("child-started")
    fleet.wait_for("child-ended", verdict="crash", code=0)
    pid = fleet.wait_for("child-started")["pid"]
    fleet.wait_for("child-ready", pid=pid)


def test_boot_failures_end_the_supervisor(start: Callable[..., Fleet]) -> None:
    """Five boot failures in a row end it with a status of its own, and say what was raised."""
    fleet = start(workers(1, "raises"), WARDEN, limits={"boot_backoff_s": 0.01})
    assert fleet.end() == EXIT_BOOT_FAILED
    assert len(fleet.of("child-ended", verdict="boot-failure", code=70)) == 5
    assert fleet.of("child-ended", role="warden", verdict="stopped")
    assert "RuntimeError: no such module" in fleet.errors()


def test_boot_failures_back_off(start: Callable[..., Fleet]) -> None:
    """After a boot failure the next start waits, longer each time."""
    fleet = start(workers(1, "raises"), limits={"boot_backoff_s": 0.1})
    begin = time.monotonic()
    assert fleet.end() == EXIT_BOOT_FAILED
    assert time.monotonic() - begin >= 0.1 + 0.2 + 0.4 + 0.8
    assert len(fleet.of("child-started")) == 5


def test_a_failed_fork_is_tried_again(start: Callable[..., Fleet]) -> None:
    """When the system has no room for processes, forks wait instead of spinning."""
    limits = {"boot_backoff_s": 0.05}
    fleet = start(workers(2), fork_failures=3, limits=limits)
    fleet.all_ready(2)
    failures = fleet.of("fork-failed")
    assert [x["delay_s"] for x in failures] == [0.05, 0.1, 0.2]
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK


def as_a_user() -> tuple[str, ...]:
    """Return a command that runs another as a user who has no processes but those of one test."""
    # Root has no limit. What it keeps is the right to read what lies in root's folders.
    kept = "+dac_override,+dac_read_search"
    user = ("setpriv", f"--reuid={600_000_000 + os.getpid()}", "--clear-groups")
    rights = (f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set=-all,{kept}")
    return (*user, *rights)


def limits_hold() -> bool:
    """Tell whether a user's processes can be limited here."""
    if sys.platform != "linux" or not (shutil.which("setpriv") and shutil.which("prlimit")):
        return False
    script = "import os\ntry: os.fork()\nexcept BlockingIOError: print('full')"
    probe = [*as_a_user(), "prlimit", "--nproc=1", sys.executable, "-c", script]
    return b"full" in subprocess.run(probe, check=False, capture_output=True).stdout


def test_a_user_without_room_for_processes_waits_for_some(start: Callable[..., Fleet]) -> None:
    """A real EAGAIN: the child that fits works, the other is tried for, and comes with the room."""
    if not limits_hold():
        pytest.skip("needs Linux, root, setpriv and prlimit, to be limited as another user")
    under = (*as_a_user(), "prlimit", "--nproc=2:20")
    fleet = start(workers(2), under=under, limits={"boot_backoff_s": 0.05})
    first = fleet.wait_for("child-ready")
    for _ in range(3):
        fleet.wait_for("fork-failed")
    assert len(fleet.of("child-started")) == 1
    more = ("prlimit", f"--pid={fleet.process.pid}", "--nproc=20:20")
    subprocess.run([*as_a_user(), *more], check=True)
    assert fleet.wait_for("child-ready")["pid"] != first["pid"]
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK


# --- deadlines ----------------------------------------------------------------------------------


def test_a_job_past_its_hard_deadline_is_blamed(start: Callable[..., Fleet]) -> None:
    """The process gets SIGABRT and leaves its stacks; the warden finds job, culprit and epoch."""
    fleet = start(workers(1, "hangs"), WARDEN, limits={"resume_grace_s": 0.0})
    job = "0197c0de-1234-7abc-8def-0123456789ab"
    fleet.wait_for("child-signalled", signal="SIGABRT", culprits=[job])
    found = fleet.wait_for("said", what="found")
    assert (found["begun"], found["culprits"], found["epoch"]) == ([job], [job], "e" * 32)
    assert found["code"] == -signal.SIGABRT
    assert found["reason"] == "a job is past its hard deadline"
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    errors = fleet.errors()
    assert "Fatal Python error: Aborted" in errors
    assert "in hangs" in errors


def test_who_does_not_abort_is_killed(start: Callable[..., Fleet]) -> None:
    """SIGKILL follows SIGABRT; the replacement did not wait for it."""
    limits = {"resume_grace_s": 0.0, "abort_s": 0.2}
    fleet = start(workers(1, "hangs_hard"), WARDEN, limits=limits)
    fleet.wait_for("child-signalled", signal="SIGABRT")
    fleet.wait_for("child-ready", role="worker", number=2)
    fleet.wait_for("child-signalled", signal="SIGKILL")
    fleet.wait_for("child-ended", verdict="killed", code=-signal.SIGKILL)
    assert fleet.wait_for("said", what="found")["culprits"]


def test_a_stop_of_the_whole_fleet_kills_nobody(start: Callable[..., Fleet]) -> None:
    """After SIGSTOP and SIGCONT a job past its deadline may still be ended by its own loop."""
    limits = {"stop_slack_s": 0.3, "look_s": 0.1, "resume_grace_s": 2.0}
    fleet = start(workers(2, "holds"), job_s=0.5, hard_s=0.1, tick_s=0.3, limits=limits)
    fleet.all_ready(2)
    fleet.send_all(signal.SIGSTOP)
    time.sleep(1.5)  # the stop itself is what is tested: the deadlines pass meanwhile
    fleet.send_all(signal.SIGCONT)
    fleet.wait_for("was-stopped")
    fleet.wait_for("said", what="job-ended")
    fleet.wait_for("said", what="job-ended")
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert not fleet.of("child-signalled", signal="SIGABRT")


def test_a_stop_does_not_use_up_the_drain(start: Callable[..., Fleet]) -> None:
    """A deadline that passed while everything stood still is not held against the children."""
    limits = {"stop_slack_s": 0.3, "look_s": 0.1, "drain_margin_s": 0.0}
    fleet = start(workers(2, "lingers"), grace_s=1.2, limits=limits)
    fleet.all_ready(2)
    fleet.send(signal.SIGTERM)
    fleet.wait_for("said", what="SIGTERM")
    fleet.wait_for("said", what="SIGTERM")
    fleet.send_all(signal.SIGSTOP)
    time.sleep(1.5)  # longer than the drain, and that is the point
    fleet.send_all(signal.SIGCONT)
    fleet.wait_for("was-stopped")
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert not fleet.of("child-signalled", signal="SIGKILL")


def test_a_stalled_loop_is_only_reported(start: Callable[..., Fleet], tmp_path: Path) -> None:
    """A loop without a tick costs a line when it begins and one when it ends."""
    noticed = tmp_path / "noticed"
    os.mkfifo(noticed)
    limits = {"stale_tick_s": 0.2, "look_s": 0.1}
    fleet = start(workers(1, "stalls"), noticed=str(noticed), limits=limits)
    fleet.wait_for("child-stalled")
    with noticed.open("w"):
        fleet.wait_for("child-stalled-over")
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert len(fleet.of("child-stalled")) == 1
    assert len(fleet.of("child-signalled")) == 1


# --- programs, strangers, surroundings ----------------------------------------------------------


def test_a_program_is_a_child_like_others(start: Callable[..., Fleet]) -> None:
    """An exec'd program is ready at once, not rolled, not quieted, and stopped last."""
    server = {"role": "server", "does": "program", "execs": True, "stop_rank": 2}
    fleet = start(workers(1), server)
    assert fleet.wait_for("child-ready", role="server")["boot_s"] == 0
    fleet.wait_for("child-ready", role="worker")
    fleet.send(signal.SIGUSR1)
    fleet.wait_for("said", what="SIGUSR1")
    fleet.send(signal.SIGHUP)
    fleet.wait_for("roll-ended")
    assert len(fleet.of("child-started", role="server")) == 1
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert fleet.of("child-ended")[-1]["role"] == "server"
    assert fleet.of("child-ended")[-1]["code"] == -signal.SIGTERM


def test_strangers_are_reaped(start: Callable[..., Fleet]) -> None:
    """A process that was left to the supervisor does not stay a zombie."""
    fleet = start(workers(1, "orphans"), subreaper=True)
    pid = fleet.wait_for("stranger-reaped")["pid"]
    assert birth_of(pid) == 0
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def namespaces() -> bool:
    """Tell whether a process may be made PID 1 of a namespace here."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "--pid", "--fork", "--kill-child", "true"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def test_it_can_be_pid_1(start: Callable[..., Fleet]) -> None:
    """As the first process of a container it heeds signals and drains as elsewhere."""
    if not namespaces():
        pytest.skip("no right to make a pid namespace")
    under = ("unshare", "--pid", "--fork", "--kill-child")
    fleet = start(workers(2), WARDEN, under=under)
    assert fleet.wait_for("supervisor-started")["pid"] == 1
    for _ in range(3):
        fleet.wait_for("child-ready")
    # `unshare` is its parent and forwards nothing: its only child, seen from here, is told.
    os.kill(children_of(fleet.process.pid)[0], signal.SIGTERM)
    assert fleet.end() == EXIT_OK
    assert len(fleet.of("said", what="SIGTERM")) == 3


def test_a_log_that_fails_costs_nothing(start: Callable[..., Fleet]) -> None:
    """An exception in the event callback does not end the supervisor."""
    fleet = start(workers(1), log_fails=True)
    fleet.all_ready(1)
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK


def test_threads_before_the_fork_are_reported(start: Callable[..., Fleet]) -> None:
    """A supervisor that is not alone in its process says so."""
    fleet = start(workers(1), thread=True)
    assert fleet.wait_for("threads-before-fork")["count"] == 2
    fleet.send(signal.SIGTERM)
    assert fleet.end() == EXIT_OK
