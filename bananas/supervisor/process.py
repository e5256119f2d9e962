"""One child: how it is forked, what it is given, how its end is collected.

Between `os.fork` and the target everything of the supervisor is taken off: its handlers, its
pipe ends, its blocked signals. Three independent means end a child whose supervisor is gone:
the parent-death signal, a look at `getppid` right after it is set, and the lifeline, a pipe
of which only the supervisor holds the other end.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import setproctitle

from bananas.errors import Halt
from bananas.table import SlotState

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.table import Slot, Table

EXIT_TARGET_RAISED: Final = 70
"""A target let an exception escape (EX_SOFTWARE)."""
EXIT_ORPHAN: Final = 71
"""The supervisor was gone before the child could begin."""

ASK_SIGNAL: Final = signal.SIGUSR2
"""Asks a child which job has its loop; one that cannot tell need not."""

_PR_SET_PDEATHSIG: Final = 1
# What the supervisor has handlers for; a child starts with the kernel's own behaviour, except:
_TO_DEFAULT: Final = (
    *(signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGINT, signal.SIGHUP, signal.SIGUSR1),
)
# these come from a terminal, or before the target has a handler, and must not end a child;
# the last two would freeze one that reads or writes the terminal, of which it is background.
_TO_IGNORE: Final = (
    *(signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, ASK_SIGNAL),
    *(signal.SIGTTIN, signal.SIGTTOU),
)


@dataclass(slots=True)
class Child:
    """What a target is given: its slot and its ties to the supervisor.

    The target watches `lifeline_fd` (readable = the supervisor is gone: drain and leave),
    installs handlers for SIGTERM (drain; may come before anything else is up), SIGQUIT (give
    back and leave now) and SIGUSR1 (look at `slot.quiet`), and calls `ready` once it works.
    """

    slot: Slot
    table: Table
    role: str
    number: int
    """1, 2, … among the living children of the role; a replacement may have another."""
    lifeline_fd: int
    notice_fd: int
    """One byte comes for each child that ended; only one role, the warden, may read it."""
    nudge_fd: int
    supervisor_pid: int

    def ready(self) -> None:
        """Tell the supervisor that the boot is over; safe to call again."""
        if self.slot.state is SlotState.STARTING:
            self.slot.ready_ns = time.monotonic_ns()
            self.slot.state = SlotState.QUIET if self.slot.quiet else SlotState.READY
            self.nudge()

    def ask_to_be_replaced(self) -> None:
        """Ask for a replacement; SIGTERM follows once that one is ready."""
        self.slot.recycle = True
        self.nudge()

    def nudge(self) -> None:
        """Have the supervisor look at the table now."""
        with suppress(OSError):  # full or gone: it looks by itself
            os.write(self.nudge_fd, b"\0")

    def supervisor_gone(self) -> bool:
        """Tell whether the supervisor has ended, however it did."""
        readable, _, _ = select.select([self.lifeline_fd], [], [], 0)
        return bool(readable)

    def living_siblings(self, *, but: str = "") -> list[int]:
        """Return the pids of the other children that have not ended, those of one role left out.

        For the last one out after `supervisor_gone`: nobody marks slots EXITED any more, so this
        asks the kernel. Linux only; elsewhere nobody is found.
        """
        return [s.pid for s in self._others(but) if birth_of(s.pid) == s.birth != 0]

    def kill_siblings(self, *, but: str = "") -> list[int]:
        """SIGKILL what is left of the fleet; for the last one out after `supervisor_gone`.

        A sibling whose loop hangs cannot see that the supervisor is gone. Only processes that
        are provably those of the table (pid and birth) are touched.

        Returns:
            The pids killed.
        """
        return [s.pid for s in self._others(but) if kill_exactly(s.pid, s.birth)]

    def _others(self, but: str) -> list[Slot]:
        others = [s for s in self.table.live() if s.pid not in {0, os.getpid()}]
        return [s for s in others if not but or s.role != but]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A kind of child."""

    role: str
    """At most 15 bytes."""
    count: int
    target: Callable[[Child], int]
    """Runs in the child; what it returns is the exit status."""
    stop_rank: int = 0
    """Children of a lower rank are told to leave, and have left, before those of a higher."""
    execs: bool = False
    """The target replaces the process by a program: ready at once, never rolled or quieted."""
    detail: str = ""
    """Stands in parentheses in the process's title."""

    def title(self, number: int) -> str:
        """Return what `ps` shows of a child, as in "bananas: worker 1 (default)"."""
        return f"bananas: {self.role} {number}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Pipes:
    """The pipes between a supervisor and its children; all ends close on exec."""

    lifeline: tuple[int, int]
    notice: tuple[int, int]
    wake: tuple[int, int]

    @classmethod
    def open(cls) -> Pipes:
        """Make them; the ends that are written in a handler, or read in a loop, never block."""
        pipes = cls(os.pipe(), os.pipe(), os.pipe())
        for fd in (*pipes.notice, *pipes.wake):
            os.set_blocking(fd, False)
        return pipes

    def keep_childs_ends(self) -> None:
        """Close what only the supervisor may hold."""
        for fd in (self.lifeline[1], self.notice[1], self.wake[0]):
            os.close(fd)

    def close(self) -> None:
        """Close all ends."""
        for fd in (*self.lifeline, *self.notice, *self.wake):
            os.close(fd)


def fork_child(spec: ProcessSpec, child: Child, pipes: Pipes) -> int:
    """Fork a child whose slot was claimed, and return its pid; only the parent returns.

    Signals are blocked across the fork, so that none meets a child that still has the
    supervisor's handlers.

    Raises:
        OSError: The system has no room for another process (EAGAIN, ENOMEM).
    """
    _flush()  # or the child would write our buffered lines again
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            try:
                _run_child(spec, child, pipes)
            finally:  # a handler of the target may raise even while the child is leaving
                os._exit(EXIT_TARGET_RAISED)
        child.slot.pid = pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _run_child(spec: ProcessSpec, child: Child, pipes: Pipes) -> NoReturn:
    """Run the target and leave; nothing returns to the supervisor's frames above."""
    status = EXIT_TARGET_RAISED
    try:
        _become_child(spec, child, pipes)
        status = int(spec.target(child))
    except Halt as halt:
        status = halt.exit_status
    except SystemExit as leaving:
        status = _status_of(leaving)
    except BaseException:  # noqa: BLE001 - the process ends here, and says why
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            _flush()
        # No atexit, no finalizers: what is registered there belongs to the supervisor.
        os._exit(status & 0xFF)


def _become_child(spec: ProcessSpec, child: Child, pipes: Pipes) -> None:
    signal.set_wakeup_fd(-1)
    for number in _TO_DEFAULT:
        signal.signal(number, signal.SIG_DFL)
    if spec.execs:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, not by programs
            signal.signal(number, signal.SIG_DFL)
        os.setsid()  # Ctrl-C in a terminal must not end a server before those who need it
    else:
        os.setpgid(0, 0)  # `os.kill(0, …)` in a handler means its own process, not the fleet
        for number in _TO_IGNORE:
            signal.signal(number, signal.SIG_IGN)
    set_death_signal(signal.SIGTERM)
    if os.getppid() != child.supervisor_pid:  # it ended before the line above
        os._exit(EXIT_ORPHAN)
    child.slot.pid = os.getpid()
    child.slot.birth = birth_of(child.slot.pid)
    pipes.keep_childs_ends()
    if not spec.execs:
        setproctitle.setproctitle(spec.title(child.number))
        with suppress(OSError, ValueError, RuntimeError, AttributeError):  # no usable stderr
            faulthandler.enable()  # SIGABRT leaves the stacks of all threads
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _status_of(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code
    sys.stderr.write(f"{leaving.code}\n")
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def set_death_signal(number: signal.Signals) -> None:
    """Have the kernel send us `number` when our parent's forking thread ends; Linux only."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def birth_of(pid: int) -> int:
    """Return the start time of a process in kernel ticks; 0 = it has ended, or not known here."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # The second field is the name in parentheses and may hold anything, spaces included.
    state, *fields = stat[stat.rindex(b")") + 2 :].split()
    return 0 if state in {b"Z", b"X"} else int(fields[18])


def kill_exactly(pid: int, birth: int) -> bool:
    """SIGKILL process `pid` if it is still the one born at `birth`; True if it was sent."""
    if pid <= 0 or birth == 0:
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if birth_of(pid) != birth:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def reap() -> list[tuple[int, int]]:
    """Collect every child that ended, strangers too: as PID 1 we inherit orphans.

    Returns:
        (pid, exit code) of each; a signal's number is negative.
    """
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def exit_words(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", perhaps out of memory" if -code == signal.SIGKILL else "")
