"""A supervised fleet of small targets, run as a program of its own by the tests beside it.

Usage: fleet.py JSON, with `specs` (role, count, does, stop_rank, execs), `grace_s`, `limits`
and switches of single tests. Every event, and all that a child says, is a line of JSON on
standard output; a child's line is one write, so that lines do not mix.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bananas.supervisor import Child, Event, Limits, ProcessSpec, Supervisor, slots_needed
from bananas.table import SlotState, Table

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG: dict[str, Any] = json.loads(sys.argv[1])
TICK_S = CONFIG.get("tick_s", 0.02)
JOB = b"0197c0de-1234-7abc-8def-0123456789ab"
PR_SET_CHILD_SUBREAPER = 36


def line(kind: str, **fields: object) -> None:
    """Write one line that the test can wait for."""
    os.write(1, json.dumps({"kind": kind, **fields}, default=str).encode() + b"\n")


class Worker:
    """A loop such as a worker has: ticks, watches its ties, and says what it is told."""

    def __init__(self, child: Child) -> None:
        """Take the place of the boot: handlers first, then ready."""
        self.child = child
        self.told: list[int] = []
        self.wake, self.woken = os.pipe()
        os.set_blocking(self.woken, False)
        signal.set_wakeup_fd(self.woken)
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, lambda number, _frame: self.told.append(number))

    def say(self, what: str, **fields: object) -> None:
        """Tell the test something."""
        line("said", what=what, role=self.child.role, pid=os.getpid(), **fields)

    def run(
        self, leaves_on: tuple[int, ...] = (signal.SIGTERM, signal.SIGQUIT), *, heeds: bool = True
    ) -> int:
        """Tick until told to leave, or until the supervisor is gone if it heeds that."""
        self.child.ready()
        while True:
            self.child.slot.tick_ns = time.monotonic_ns()
            self.each_tick()
            while self.told:
                number = self.told.pop(0)
                self.say(signal.Signals(number).name, quiet=self.child.slot.quiet)
                if number in leaves_on:
                    return 0
            if self.child.supervisor_gone():
                if heeds:
                    self.say("alone")
                    return 0
                select.select([self.wake], [], [], TICK_S)
            else:
                watched = [self.wake, self.child.lifeline_fd, *self.also()]
                select.select(watched, [], [], TICK_S)
            self.drain(self.wake)

    def drain(self, fd: int) -> bytes:
        """Empty a pipe."""
        return os.read(fd, 4096) if select.select([fd], [], [], 0)[0] else b""

    def also(self) -> list[int]:
        """Return what else wakes the loop."""
        return []

    def each_tick(self) -> None:
        """Do what a kind of worker does besides."""


class Warden(Worker):
    """Reads the notices and says what it finds in the slots of those that ended."""

    def also(self) -> list[int]:
        """Wake for notices."""
        return [self.child.notice_fd]

    def each_tick(self) -> None:
        """Look at the slots when a notice came, and free those that ended."""
        if self.drain(self.child.notice_fd):
            for slot in self.child.table.slots:
                if slot.state is SlotState.EXITED:
                    self.say(
                        "found",
                        epoch=slot.epoch,
                        begun=[b.job_id.decode() for b in slot.begun()],
                        culprits=[c.decode() for c in slot.culprits],
                        code=slot.exit_code,
                        reason=slot.exit_reason,
                    )
                    slot.state = SlotState.FREE


class Held(Worker):
    """Has a job with a hard deadline that it ends by itself a little earlier, if it can run."""

    def __init__(self, child: Child) -> None:
        """Begin the job."""
        super().__init__(child)
        self.ends_ns = time.monotonic_ns() + int(CONFIG["job_s"] * 1e9)
        child.slot.begin(0, JOB, self.ends_ns + int(CONFIG["hard_s"] * 1e9))
        self.held = True

    def each_tick(self) -> None:
        """End the job when its time is over."""
        if self.held and time.monotonic_ns() >= self.ends_ns:
            self.held = False
            self.child.slot.end(0)
            self.say("job-ended")


def works(child: Child) -> int:
    """Do all as it should be."""
    return Worker(child).run()


def wards(child: Child) -> int:
    """Be a warden."""
    return Warden(child).run()


def wards_last(child: Child) -> int:
    """Be a warden that ends what is left when the supervisor is gone."""
    warden = Warden(child)
    status = warden.run()
    warden.say("left", pids=child.living_siblings())
    warden.say("killed", pids=child.kill_siblings())
    return status


def lingers(child: Child) -> int:
    """Leave on SIGQUIT only."""
    return Worker(child).run((signal.SIGQUIT,))


def deaf(child: Child) -> int:
    """Never leave."""
    return Worker(child).run((), heeds=False)


def boots_unless_broken(child: Child) -> int:
    """Work, unless the file says that the code is broken."""
    return 1 if Path(CONFIG["broken"]).exists() else works(child)


def never_ready(child: Child) -> int:
    """Boot for ever, with the handlers that a child is given."""
    line("said", what="booting", role=child.role, pid=os.getpid())
    while True:
        signal.pause()


def leaves(child: Child) -> int:
    """Leave well, and unasked, the first time."""
    child.ready()
    if child.slot.generation == 1:
        os._exit(0)
    return works(child)


def raises(_child: Child) -> NoReturn:
    """Fail in the boot, loudly."""
    raise RuntimeError("no such module")


def hangs(child: Child) -> int:
    """Have a job run past its hard deadline, unless it is a replacement."""
    if child.number > 1:
        return works(child)
    child.slot.epoch = "e" * 32
    child.slot.begin(1, JOB, time.monotonic_ns() + int(0.2e9))
    return Worker(child).run(())


def hangs_hard(child: Child) -> int:
    """As `hangs`, deaf to SIGABRT too."""
    if child.number == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])
    return hangs(child)


def holds(child: Child) -> int:
    """Have a job that ends in time if it is let."""
    return Held(child).run()


def asks(child: Child) -> int:
    """Ask to be replaced, if it is one of the first."""
    worker = Worker(child)
    child.ready()
    if child.number == 1:
        child.ask_to_be_replaced()
    return worker.run()


def stalls(child: Child) -> int:
    """Block the loop until the supervisor has noticed, which a file tells."""
    child.slot.tick_ns = time.monotonic_ns()
    child.ready()
    with Path(CONFIG["noticed"]).open():  # a FIFO: opening blocks until the other end opens too
        pass
    return works(child)


def program(_child: Child) -> NoReturn:
    """Become another program."""
    os.execv("/bin/sleep", ["sleep", "600"])  # noqa: S606 - no shell is meant


def orphans(child: Child) -> int:
    """Leave a grandchild behind that ends at once."""
    if os.fork() == 0:
        if os.fork() == 0:
            os.read(child.lifeline_fd, 0)
        os._exit(0)
    os.wait()
    return works(child)


TARGETS: dict[str, Callable[[Child], int]] = {
    f.__name__: f
    for f in (
        *(works, wards, wards_last, lingers, deaf, boots_unless_broken, never_ready, leaves),
        *(raises, hangs, hangs_hard, holds, asks, stalls, program, orphans),
    )
}


def on_event(event: Event) -> None:
    """Write the event, as the test reads it, or fail when the test wants that."""
    line(event.kind, level=event.level, **event.fields)
    if CONFIG.get("log_fails"):
        raise OSError(errno.ENOSPC, "no space left")


def fail_forks(times: int) -> None:
    """Have the next forks fail as they do when there is no room for processes."""
    fork, left = os.fork, [times]

    def failing() -> int:
        if left[0]:
            left[0] -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    os.fork = failing


def main() -> int:
    """Run the fleet that the command line describes."""
    specs = [
        ProcessSpec(
            role=spec["role"],
            count=spec.get("count", 1),
            target=TARGETS[spec["does"]],
            stop_rank=spec.get("stop_rank", 0),
            execs=spec.get("execs", False),
        )
        for spec in CONFIG["specs"]
    ]
    if CONFIG.get("subreaper"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if CONFIG.get("thread"):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    fail_forks(CONFIG.get("fork_failures", 0))
    return Supervisor(
        specs,
        Table.create(CONFIG.get("slots", slots_needed(specs)), 2),
        grace_s=CONFIG.get("grace_s", 20),
        on_event=on_event,
        limits=Limits(**CONFIG.get("limits", {})),
    ).run()


if __name__ == "__main__":
    sys.exit(main())
