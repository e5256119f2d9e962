"""The shell around the decision: signals in, forks and kills out, the table in between.

One thread, no event loop, no Redis, no code of users. A handler only queues its number; the
loop takes signals, reaps, looks at the table, has `decide` judge and does what it says. It
sleeps on one pipe, which signals (by `set_wakeup_fd`) and children (by a nudge) write to.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import setproctitle

from bananas.errors import FieldError
from bananas.supervisor.decision import (
    EXIT_FORCED,
    EXIT_OK,
    Action,
    Backoff,
    ChildView,
    Drain,
    End,
    FleetView,
    KeepOld,
    Limits,
    OwnTime,
    Phase,
    Pulse,
    Report,
    RoleView,
    Sent,
    Signal,
    Start,
    Verdict,
    after_fork_failure,
    after_ready,
    decide,
    due_s,
    judge_exit,
)
from bananas.supervisor.process import (
    ASK_SIGNAL,
    Child,
    Pipes,
    ProcessSpec,
    exit_words,
    fork_child,
    reap,
)
from bananas.table import ROLE_MAX_BYTES, SlotState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

    from bananas.table import Slot, Table

HANG_UP_S: Final = 5.0
"""Some terminals send SIGHUP a moment before they are gone."""

REUSE_EXITED_AFTER_S: Final = 30.0
"""An EXITED slot that no warden has freed for so long is taken when no other is left."""

logger = logging.getLogger("bananas.supervisor")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that an operator or a test may want to know."""

    kind: str
    """A fixed word, as in "child-started"."""
    level: int
    """As in `logging`."""
    fields: Mapping[str, object] = field(default_factory=dict[str, object])

    def __str__(self) -> str:
        """Return the kind and the fields, on one line."""
        return " ".join([self.kind, *(f"{k}={v}" for k, v in self.fields.items())])


def log_event(event: Event) -> None:
    """Write an event to the logger `bananas.supervisor`."""
    logger.log(event.level, "%s", event.kind, extra=_safe(event.fields))


def _safe(fields: Mapping[str, object]) -> dict[str, object]:
    # A log record has attributes of its own, `name` and `process` among them.
    return {f"child_{key}": value for key, value in fields.items()}


def _is_terminal() -> bool:
    return os.isatty(0)  # False for a descriptor that is closed or hung up


def slots_needed(specs: Sequence[ProcessSpec], *, spare: int = 8) -> int:
    """Return a table size for these children, their replacements and what TTIN may add."""
    return 2 * sum(spec.count for spec in specs) + len(specs) + spare


@dataclass(slots=True)
class _Running:
    """What the supervisor knows of a living child, beyond the table."""

    spec: ProcessSpec
    number: int
    pid: int
    view: ChildView
    pulse: Pulse = field(default_factory=Pulse)
    booted: bool = False
    told: str = ""
    """Why it was sent the last signal."""
    asked_s: float | None = None
    """When it was asked who has its loop, as long as a job is past its hard deadline."""
    asked_tick_ns: int = 0
    """Its loop's tick then."""


@dataclass(slots=True)
class _Role:
    """A spec with what changes about it."""

    spec: ProcessSpec
    wanted: int
    backoff: Backoff = field(default_factory=Backoff)


class Supervisor:
    """Keeps the children of some specs running until it is told to stop.

    SIGTERM, SIGINT: drain; again, or SIGQUIT: leave now. SIGHUP: replace all, one by one; but
    drain if it came because the terminal that was the standard input is gone.
    SIGTTIN, SIGTTOU: one more, one less of `scaled_role`. SIGUSR1: take no new jobs.
    """

    def __init__(  # noqa: PLR0913 - by name, and with defaults
        self,
        specs: Sequence[ProcessSpec],
        table: Table,
        *,
        grace_s: float = 30.0,
        boot_failures_max: int = 5,
        on_event: Callable[[Event], None] = log_event,
        scaled_role: str = "worker",
        limits: Limits | None = None,
    ) -> None:
        """Prepare; nothing is forked before `run`.

        Args:
            specs: The kinds of children, of distinct roles.
            table: Large enough for all and their replacements (`slots_needed`).
            grace_s: How long children may drain.
            boot_failures_max: Boot failures of a role in a row that end the fleet.
            on_event: Told of everything; an exception in it is swallowed.
            scaled_role: What SIGTTIN and SIGTTOU count up and down.
            limits: All other deadlines; its grace and failures give way to the two above.

        Raises:
            FieldError: Roles repeat or are too long, or the table is too small.
        """
        if any(len(s.role.encode()) > ROLE_MAX_BYTES for s in specs):
            raise FieldError("role", f"must have at most {ROLE_MAX_BYTES} bytes")
        if len({s.role for s in specs}) != len(specs):
            raise FieldError("specs", "must have distinct roles")
        if sum(s.count for s in specs) >= len(table.slots):
            raise FieldError("table", "must have more slots than there are children")
        self._roles = {s.role: _Role(s, s.count) for s in specs}
        self._table = table
        self._limits = replace(
            limits or Limits(), grace_s=grace_s, boot_failures_max=boot_failures_max
        )
        self._on_event = on_event
        self._scaled_role = scaled_role
        self._running: dict[int, _Running] = {}  # by slot
        self._queue: deque[int] = deque()
        self._phase = Phase.RUNNING
        self._phase_s = 0.0
        self._wave = 0
        self._rolled = 0
        self._quiet = False
        self._fork_failures = 0
        self._forks_not_before_s = float("-inf")
        self._waited_s = 0.0
        self._own = OwnTime(time.monotonic_ns())
        self._status = EXIT_OK
        self._forced = False
        self._asked = False
        self._over = False
        self._terminal = _is_terminal()
        self._hup_s = float("-inf")
        self._handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self.handle_term,
            signal.SIGINT: self.handle_term,
            signal.SIGQUIT: self.handle_quit,
            signal.SIGHUP: self.handle_hup,
            signal.SIGTTIN: self.handle_ttin,
            signal.SIGTTOU: self.handle_ttou,
            signal.SIGUSR1: self.handle_usr1,
            signal.SIGCHLD: lambda: None,  # the reaping is done each round
        }

    def run(self) -> int:
        """Run until told to stop, or until children cannot boot; return the exit status.

        Call it in the main thread of a process without other threads. Signal handlers are put
        back as they were.
        """
        pipes = Pipes.open()
        before = {n: signal.signal(n, self._on_signal) for n in self._handlers}
        wakeup = signal.set_wakeup_fd(pipes.wake[1], warn_on_full_buffer=False)
        try:
            self._own = OwnTime(time.monotonic_ns())
            self._table.supervisor_pid = os.getpid()
            setproctitle.setproctitle("bananas: supervisor")
            self._announce()
            while not self._over:
                self._round(pipes)
                if not self._over:
                    self._sleep(pipes)
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            pipes.close()  # whatever happened: with the lifeline gone, children leave
        status = self._status or (EXIT_FORCED if self._forced else EXIT_OK)
        self._tell("supervisor-ended", status=status)
        return status

    # --- signals: the handler queues, the loop acts ---------------------------------------------

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._queue.append(number)

    def handle_term(self) -> None:
        """Drain; the second time, cut."""
        if self._asked:
            self.handle_quit()
        elif self._phase is Phase.RUNNING:
            self._enter(Phase.DRAINING)
        self._asked = True  # the first time counts as such even if we are draining by ourselves

    def handle_quit(self) -> None:
        """Have the children leave at once."""
        if self._phase is not Phase.CUTTING:
            self._enter(Phase.CUTTING)

    def handle_hup(self) -> None:
        """Replace all children by new ones, without a gap; not for our terminal's end."""
        self._hup_s = self._own.now_s
        if self._phase is Phase.RUNNING and not self._hung_up():
            self._wave += 1
            self._tell("roll-begun", wave=self._wave)

    def _hung_up(self) -> bool:
        """Whether a SIGHUP of late was the end of our terminal: nobody sees us any more."""
        late = self._own.now_s - self._hup_s <= HANG_UP_S
        return self._terminal and late and not _is_terminal()

    def handle_ttin(self) -> None:
        """Have one more of the scaled role."""
        self._scale(1)

    def handle_ttou(self) -> None:
        """Have one less of the scaled role, but one at least."""
        self._scale(-1)

    def handle_usr1(self) -> None:
        """Have the children, those to come included, take no new jobs."""
        self._quiet = True
        self._tell("quiet")
        for child in self._running.values():
            if not child.spec.execs:
                self._slot(child).quiet = True
                self._kill(child, signal.SIGUSR1)

    def _scale(self, by: int) -> None:
        role = self._roles.get(self._scaled_role)
        if role is None or self._phase is not Phase.RUNNING:
            return
        room = len(self._table.slots) - 1 - sum(r.wanted for r in self._roles.values())
        wanted = max(1, role.wanted + min(by, room))
        if wanted == role.wanted:
            self._tell("scale-refused", logging.WARNING, role=role.spec.role, wanted=wanted)
            return
        role.wanted = wanted
        self._tell("scaled", role=role.spec.role, wanted=wanted)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._phase_s = self._own.now_s
        self._tell("draining" if phase is Phase.DRAINING else "cutting")

    # --- one round ------------------------------------------------------------------------------

    def _round(self, pipes: Pipes) -> None:
        self._own = self._own.advance(
            time.monotonic_ns(), self._waited_s, self._limits.stop_slack_s
        )
        if self._own.resumed_s == self._own.now_s:
            self._tell("was-stopped", logging.WARNING)
        while self._queue:
            self._handlers[self._queue.popleft()]()
        if self._phase is Phase.RUNNING and self._hung_up():
            self._tell("terminal-gone", logging.WARNING)
            self._enter(Phase.DRAINING)
        for pid, code in reap():
            self._buried(pid, code, pipes)
        view = self._look()
        for action in decide(view, self._limits):
            self._do(action, pipes)
        if self._rolled != self._wave and self._all_of_this_wave():
            self._rolled = self._wave
            self._tell("roll-ended", wave=self._wave)

    def _all_of_this_wave(self) -> bool:
        rolled = [c for c in self._running.values() if not c.spec.execs]
        return all(c.view.wave == self._wave and c.view.ready for c in rolled)

    def _sleep(self, pipes: Pipes) -> None:
        self._waited_s = due_s(self._view(), self._limits)
        if any(child.asked_s is not None for child in self._running.values()):
            self._waited_s = min(self._waited_s, self._limits.ask_s)
        if not self._queue:
            select.select([pipes.wake[0]], [], [], self._waited_s)
        with suppress(BlockingIOError):
            while os.read(pipes.wake[0], 4096):
                pass

    def _look(self) -> FleetView:
        """Bring what is known of the children up to the table, and return it."""
        mono_ns = time.monotonic_ns()
        now_s = self._own.now_s
        for child in self._running.values():
            slot = self._slot(child)
            child.pulse = child.pulse.seen(slot.tick_ns, now_s, self._limits.stale_tick_s)
            overdue: tuple[bytes, ...] = ()
            if child.pulse.may_judge(self._own, self._limits.resume_grace_s):
                overdue = tuple(slot.overdue(mono_ns))
                if not self._has_been_asked(child, slot, overdue):
                    overdue = ()
            child.view = replace(
                child.view,
                state=slot.state,
                recycle=slot.recycle,
                overdue=overdue,
                stalled=child.pulse.stalled(now_s, self._limits.stale_tick_s),
            )
            if child.view.ready and not child.booted:
                self._booted(child, slot)
        return self._view()

    def _has_been_asked(self, child: _Running, slot: Slot, overdue: Sequence[bytes]) -> bool:
        """Ask a child with overdue jobs who has its loop; True once it had the time to answer."""
        if not overdue:
            child.asked_s = None
        elif child.asked_s is None:
            child.asked_s, child.asked_tick_ns = self._own.now_s, slot.tick_ns
            slot.named = False
            self._kill(child, ASK_SIGNAL)
        return child.asked_s is not None and self._own.now_s - child.asked_s >= self._limits.ask_s

    def _booted(self, child: _Running, slot: Slot) -> None:
        child.booted = True
        role = self._roles[child.spec.role]
        role.backoff = after_ready(role.backoff)
        boot_s = (slot.ready_ns - slot.started_ns) / 1e9
        self._tell_of(child, "child-ready", boot_s=round(boot_s, 3))

    def _view(self) -> FleetView:
        return FleetView(
            now_s=self._own.now_s,
            roles=tuple(
                RoleView(
                    role=r.spec.role,
                    wanted=r.wanted,
                    stop_rank=r.spec.stop_rank,
                    execs=r.spec.execs,
                    backoff=r.backoff,
                )
                for r in self._roles.values()
            ),
            children=tuple(c.view for c in self._running.values()),
            free_slots=len(self._vacant()),
            phase=self._phase,
            wave=self._wave,
            phase_s=self._phase_s,
            forks_not_before_s=self._forks_not_before_s,
        )

    def _vacant(self) -> list[Slot]:
        """Return the slots a child may get, the best first."""
        slots = [s for s in self._table.slots if s.index not in self._running]
        free = [s for s in slots if s.state is SlotState.FREE]
        if free:
            return free
        before_ns = time.monotonic_ns() - int(REUSE_EXITED_AFTER_S * 1e9)
        return sorted((s for s in slots if s.exited_ns < before_ns), key=lambda s: s.exited_ns)

    # --- actions --------------------------------------------------------------------------------

    def _do(self, action: Action, pipes: Pipes) -> None:
        match action:
            case Start(role):
                self._start(self._roles[role], pipes)
            case Signal():
                self._send(action)
            case Report(slot, what, over):
                self._report(self._running[slot], what, over=over)
            case KeepOld(role):
                self._keep_old(self._roles[role])
            case Drain(status):
                self._status = status
                self._tell("boot-failures", logging.CRITICAL, status=status)
                self._enter(Phase.DRAINING)
            case End():
                self._over = True

    def _start(self, role: _Role, pipes: Pipes) -> None:
        if self._own.now_s < self._forks_not_before_s:
            return  # a fork of this very round has failed
        spec = role.spec
        slot = self._vacant()[0]
        taken = {c.number for c in self._running.values() if c.spec.role == spec.role}
        number = next(n for n in range(1, len(taken) + 2) if n not in taken)
        slot.claim(spec.role, now_ns=time.monotonic_ns())
        slot.quiet = self._quiet and not spec.execs
        if spec.execs:
            slot.ready_ns = slot.started_ns
            slot.state = SlotState.READY
        try:
            pid = fork_child(spec, self._child(spec, number, slot, pipes), pipes)
        except OSError as error:
            slot.state = SlotState.FREE
            self._fork_failed(spec, error)
            return
        self._fork_failures = 0
        view = ChildView(
            slot=slot.index,
            role=spec.role,
            state=slot.state,
            wave=self._wave,
            started_s=self._own.now_s,
        )
        child = self._running[slot.index] = _Running(spec, number, pid, view)
        self._table.starts += 1
        self._tell_of(child, "child-started")

    def _child(self, spec: ProcessSpec, number: int, slot: Slot, pipes: Pipes) -> Child:
        return Child(
            slot=slot,
            table=self._table,
            role=spec.role,
            number=number,
            lifeline_fd=pipes.lifeline[0],
            notice_fd=pipes.notice[0],
            nudge_fd=pipes.wake[1],
            supervisor_pid=os.getpid(),
        )

    def _fork_failed(self, spec: ProcessSpec, error: OSError) -> None:
        self._fork_failures += 1
        delay_s = after_fork_failure(self._fork_failures, self._limits)
        self._forks_not_before_s = self._own.now_s + delay_s
        self._tell("fork-failed", logging.ERROR, role=spec.role, error=error, delay_s=delay_s)

    def _send(self, action: Signal) -> None:
        child = self._running[action.slot]
        culprits: Sequence[bytes] = action.culprits
        if action.sent is Sent.ABRT:
            culprits = self._blame(child, culprits)
        if action.sent >= Sent.ABRT:
            self._table.kills += child.view.sent < Sent.ABRT
            self._forced = self._forced or self._phase is not Phase.RUNNING
        child.view = replace(child.view, sent=action.sent, sent_s=self._own.now_s)
        child.told = action.why
        self._kill(child, action.number)
        level = logging.ERROR if action.sent >= Sent.ABRT else logging.INFO
        fields: dict[str, object] = {"signal": action.number.name, "why": action.why}
        if culprits:
            fields["culprits"] = [c.decode(errors="replace") for c in culprits]
        self._tell_of(child, "child-signalled", level, **fields)

    def _blame(self, child: _Running, overdue: Sequence[bytes]) -> Sequence[bytes]:
        """Settle who is to blame: whom a loop names that stands still, else who is overdue."""
        slot = self._slot(child)
        slot.named = slot.named and slot.tick_ns == child.asked_tick_ns
        if not slot.named:
            slot.culprits = [*overdue]
        return slot.culprits

    def _report(self, child: _Running, what: str, *, over: bool) -> None:
        reported = child.view.reported
        reported = reported - {what} if over else reported | {what}
        child.view = replace(child.view, reported=reported)
        level = logging.INFO if over else logging.WARNING
        self._tell_of(child, f"child-{what}-over" if over else f"child-{what}", level)

    def _keep_old(self, role: _Role) -> None:
        role.backoff = replace(role.backoff, boot_failures=0)
        for child in self._running.values():
            if child.spec is role.spec and child.view.ready:
                child.view = replace(child.view, wave=self._wave, recycle=False)
                self._slot(child).recycle = False
        self._tell("roll-given-up", logging.ERROR, role=role.spec.role)

    def _kill(self, child: _Running, number: signal.Signals) -> None:
        # The pid is ours until it is reaped, and only `_round` reaps: it names no one else.
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)

    def _buried(self, pid: int, code: int, pipes: Pipes) -> None:
        """Take note of a child that ended: what it was, what its slot says, who must know."""
        child = next((c for c in self._running.values() if c.pid == pid), None)
        if child is None:
            self._tell("stranger-reaped", logging.DEBUG, pid=pid, code=code)
            return
        slot = self._slot(child)
        role = self._roles[child.spec.role]
        verdict, role.backoff = judge_exit(
            child.view,
            self._ready_s(child, slot),
            role.backoff,
            self._own.now_s,
            self._limits,
        )
        if self._phase is not Phase.RUNNING and code == 0:
            verdict = Verdict.STOPPED  # whoever stops us has told the children too, as systemd does
        self._table.crashes += verdict is Verdict.CRASH
        self._table.boot_failures += verdict is Verdict.BOOT_FAILURE
        slot.exit_code = code
        slot.killed = verdict is Verdict.KILLED
        if verdict is Verdict.KILLED:
            slot.exit_reason = child.told
        elif code != 0 or not slot.exit_reason:  # one that left by itself may have said why
            slot.exit_reason = exit_words(code)
        slot.exited_ns = time.monotonic_ns()
        del self._running[slot.index]
        # Without an epoch it held no job: nobody has to return any.
        slot.state = SlotState.EXITED if slot.epoch else SlotState.FREE
        with suppress(OSError):  # full: the warden has enough to wake for
            os.write(pipes.notice[1], b"\0")
        well = verdict is Verdict.STOPPED and code == 0
        level = logging.INFO if well else logging.ERROR
        self._tell_of(
            child, "child-ended", level, verdict=verdict.value, code=code, reason=slot.exit_reason
        )

    def _ready_s(self, child: _Running, slot: Slot) -> float | None:
        """Return when it was ready, in own time; a program is after it has lived for a while."""
        if slot.ready_ns == 0:
            return None
        ready_s = self._own.own_s(slot.ready_ns)
        lived = self._own.now_s - ready_s >= self._limits.crash_quick_s
        return ready_s if lived or not child.spec.execs else None

    # --- telling --------------------------------------------------------------------------------

    def _announce(self) -> None:
        self._tell(
            "supervisor-started",
            pid=os.getpid(),
            children={r.spec.role: r.wanted for r in self._roles.values()},
            drain_s=self._limits.drain_s,
        )
        if threading.active_count() > 1:
            # Locks that another thread holds stay locked for ever in a forked child.
            self._tell("threads-before-fork", logging.WARNING, count=threading.active_count())

    def _tell_of(
        self, child: _Running, kind: str, level: int = logging.INFO, **fields: object
    ) -> None:
        slot = self._slot(child)
        who = {"role": child.spec.role, "number": child.number, "slot": slot.index}
        self._tell(kind, level, **who, pid=child.pid, **fields)

    def _tell(self, kind: str, level: int = logging.INFO, **fields: object) -> None:
        with suppress(Exception):  # a log that cannot be written must not cost the fleet
            self._on_event(Event(kind, level, fields))

    def _slot(self, child: _Running) -> Slot:
        return self._table.slot(child.view.slot)
