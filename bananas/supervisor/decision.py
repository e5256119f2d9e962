"""Who to start, stop and kill: the supervisor's judgement, without a system call or a clock.

`decide` looks at one view of the fleet and returns what to do now; `judge_exit` says what the
end of a child means and when the next may start. Both are functions of their arguments alone.
They promise: a child gets SIGTERM at most once, no role has more than one child above its
count, a planned replacement never lowers the number of READY children, and nothing is killed
before its deadline.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final

from bananas.table import SlotState

if TYPE_CHECKING:
    from collections.abc import Iterable

EXIT_OK: Final = 0
"""Asked to stop, and every child left in its own time."""
EXIT_BOOT_FAILED: Final = 3
"""Children of a role died before they were ready, too often in a row."""
EXIT_FORCED: Final = 4
"""Asked to stop, but at least one child had to be killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The supervisor's patience; all in seconds but `boot_failures_max`."""

    grace_s: float = 30.0
    """How long a child may drain by its own clock; `drain_s` is the supervisor's."""
    drain_margin_s: float = 5.0
    """What a child gets on top of the grace, to give its jobs back and leave."""
    rank_grace_s: float = 2.0
    """What those who stop last get at least, when the others used up the group's deadline."""
    cut_s: float = 2.0
    """SIGQUIT to SIGKILL."""
    ask_s: float = 0.2
    """A job is past its hard deadline: time for its process to say who has the loop."""
    abort_s: float = 2.0
    """SIGABRT to SIGKILL: time for the trace."""
    boot_failures_max: int = 5
    boot_backoff_s: float = 1.0
    boot_backoff_cap_s: float = 30.0
    crash_backoff_s: float = 0.1
    crash_quick_s: float = 1.0
    """A child that crashes sooner than this after it was ready is restarted with a delay."""
    slow_boot_s: float = 30.0
    """Not ready after this: reported once."""
    stale_tick_s: float = 5.0
    """Loop silent for this long: reported once a stall."""
    resume_grace_s: float = 5.0
    """After a stop of the fleet or of a child: time in which no deadline is judged."""
    stop_slack_s: float = 1.5
    """A round that takes so much longer than meant was a stop (SIGSTOP, a frozen cgroup)."""
    look_s: float = 0.5
    """How often the table is looked at when nothing happens."""

    @property
    def drain_s(self) -> float:
        """How long the supervisor waits after SIGTERM before SIGKILL."""
        return self.grace_s + self.drain_margin_s


class Phase(Enum):
    """Where the fleet as a whole is going."""

    RUNNING = "running"
    DRAINING = "draining"
    CUTTING = "cutting"


class Sent(IntEnum):
    """The strongest that a child has been sent so far; it only ever rises."""

    NOTHING = 0
    TERM = 1
    QUIT = 2
    ABRT = 3
    KILL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildView:
    """One living child. All times are the supervisor's own (`FleetView.now_s`)."""

    slot: int
    role: str
    state: SlotState
    wave: int = 0
    """How many rolling restarts had been asked for when it started."""
    started_s: float = 0.0
    sent: Sent = Sent.NOTHING
    sent_s: float = 0.0
    recycle: bool = False
    overdue: tuple[bytes, ...] = ()
    """Begun jobs that are past their hard deadline, and may be judged."""
    stalled: bool = False
    """Its loop has not ticked for long."""
    reported: frozenset[str] = frozenset()
    """What has been reported of it and still holds."""

    @property
    def ready(self) -> bool:
        """It has booted."""
        return self.state not in (SlotState.FREE, SlotState.STARTING)

    @property
    def serving(self) -> bool:
        """It counts for its role: nobody has told it to leave."""
        return self.sent is Sent.NOTHING


@dataclass(frozen=True, slots=True)
class Backoff:
    """What a role's failures so far mean for its next start."""

    boot_failures: int = 0
    """In a row. Children that boot at the same time and fail together count as one."""
    failed_s: float = float("-inf")
    """When the last counted boot failure was seen."""
    quick_crashes: int = 0
    not_before_s: float = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleView:
    """One role: how many there should be, and when the next may start."""

    role: str
    wanted: int
    stop_rank: int = 0
    execs: bool = False
    backoff: Backoff = Backoff()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """All that a decision depends on."""

    now_s: float
    """The supervisor's own time: monotonic, and it stands still while the supervisor does."""
    roles: tuple[RoleView, ...]
    children: tuple[ChildView, ...]
    free_slots: int
    phase: Phase = Phase.RUNNING
    wave: int = 0
    phase_s: float = 0.0
    """When the phase began."""
    forks_not_before_s: float = float("-inf")


# --- actions ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Fork a child of this role."""

    role: str


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a child a signal."""

    slot: int
    number: signal.Signals
    sent: Sent
    why: str
    culprits: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the operator about a child, once (`what`), or forget that it was told (`over`)."""

    slot: int
    what: str
    over: bool = False


@dataclass(frozen=True, slots=True)
class KeepOld:
    """Give up replacing a role's healthy children: the replacements do not boot."""

    role: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Begin to stop the whole fleet, and leave with this status in the end."""

    status: int


@dataclass(frozen=True, slots=True)
class End:
    """Nobody is left: leave."""


Action = Start | Signal | Report | KeepOld | Drain | End


# --- the decision -------------------------------------------------------------------------------


def decide(view: FleetView, limits: Limits) -> list[Action]:
    """Return what to do now, in this order; an empty list when all is as it should be.

    A second call on the view that the actions lead to does not repeat them.
    """
    actions: list[Action] = [*_judge_deadlines(view, limits)]
    struck = {a.slot for a in actions if isinstance(a, Signal)}
    if view.phase is Phase.RUNNING:
        actions += _keep_counts(view, limits, struck)
    else:
        actions += _stop_fleet(view, struck)
    return actions + _reports(view, limits)


def _judge_deadlines(view: FleetView, limits: Limits) -> Iterable[Signal]:
    """Yield the signals that end children whose time is up."""
    for child in view.children:
        if child.sent is Sent.KILL:
            continue
        if child.sent is not Sent.NOTHING and view.now_s >= _kill_at(child, view, limits):
            yield Signal(child.slot, signal.SIGKILL, Sent.KILL, _LATE[child.sent])
        elif child.overdue and child.sent is not Sent.ABRT:
            why = "a job is past its hard deadline"
            yield Signal(child.slot, signal.SIGABRT, Sent.ABRT, why, child.overdue)


_LATE: Final = {
    Sent.TERM: "not drained in time",
    Sent.QUIT: "did not leave at once",
    Sent.ABRT: "did not abort in time",
}


def _kill_at(child: ChildView, view: FleetView, limits: Limits) -> float:
    """Return when a child that was sent something gets SIGKILL."""
    if child.sent is Sent.ABRT:
        return child.sent_s + limits.abort_s
    if view.phase is Phase.CUTTING:
        return max(child.sent_s, view.phase_s) + limits.cut_s
    if view.phase is Phase.DRAINING:
        # One deadline for the group; those whose turn came late get a little of their own.
        return max(view.phase_s + limits.drain_s, child.sent_s + limits.rank_grace_s)
    return child.sent_s + limits.drain_s


def _keep_counts(view: FleetView, limits: Limits, struck: set[int]) -> list[Action]:
    """Return starts and stops that bring each role to its count and its wave."""
    actions: list[Action] = []
    free = view.free_slots
    for role in sorted(view.roles, key=lambda r: -r.stop_rank):  # who stops last starts first
        serving = [
            c for c in view.children if c.role == role.role and c.serving and c.slot not in struck
        ]
        if role.backoff.boot_failures >= limits.boot_failures_max:
            if sum(c.ready for c in serving) < role.wanted:
                return [Drain(EXIT_BOOT_FAILED)]
            actions.append(KeepOld(role.role))
            continue
        stops = _surplus(role, serving, view.wave)
        actions += stops
        starts = min(_starts(role, serving, view.wave), free) if _may_start(role, view) else 0
        free -= starts
        actions += [Start(role.role)] * starts
    return actions


def _may_start(role: RoleView, view: FleetView) -> bool:
    return view.now_s >= max(role.backoff.not_before_s, view.forks_not_before_s)


def _outdated(child: ChildView, role: RoleView, wave: int) -> bool:
    # Of a program that replaces the process there may never be two: it is not rolled.
    return not role.execs and (child.recycle or child.wave < wave)


def _starts(role: RoleView, serving: list[ChildView], wave: int) -> int:
    """Return how many to start: those missing, or one to take over from an outdated one."""
    missing = role.wanted - len(serving)
    if missing > 0:
        return missing
    outdated = any(_outdated(c, role, wave) for c in serving)
    booting = any(not _outdated(c, role, wave) and not c.ready for c in serving)
    return int(missing == 0 and outdated and not booting)


def _surplus(role: RoleView, serving: list[ChildView], wave: int) -> list[Action]:
    """Return the SIGTERMs for those above the count, outdated ones first, then the youngest.

    A READY child is only stopped while enough others are READY; an outdated one therefore stays
    until its replacement has booted.
    """
    stops: list[Action] = []
    surplus = len(serving) - role.wanted
    ready = sum(c.ready for c in serving)
    queue = sorted(
        serving, key=lambda c: (not _outdated(c, role, wave), c.ready, -c.started_s, -c.slot)
    )
    any_outdated = bool(queue) and _outdated(queue[0], role, wave)
    for child in queue:
        outdated = _outdated(child, role, wave)
        if surplus <= 0 or (any_outdated and not outdated):
            break
        if child.ready:
            if ready <= role.wanted:
                continue
            ready -= 1
        surplus -= 1
        if child.recycle:
            why = "asked to be replaced"
        else:
            why = "replaced by a new one" if outdated else "one too many"
        stops.append(Signal(child.slot, signal.SIGTERM, Sent.TERM, why))
    return stops


def _stop_fleet(view: FleetView, struck: set[int]) -> list[Action]:
    """Return who is told to leave now: rank by rank, the lowest first."""
    if not view.children:
        return [End()]
    roles = {r.role: r for r in view.roles}
    rank = min(roles[c.role].stop_rank for c in view.children)
    actions: list[Action] = []
    for child in view.children:
        role = roles[child.role]
        if role.stop_rank != rank or child.slot in struck:
            continue
        if view.phase is Phase.CUTTING and not role.execs:
            if child.sent < Sent.QUIT:
                actions.append(Signal(child.slot, signal.SIGQUIT, Sent.QUIT, "told to leave now"))
        elif child.sent is Sent.NOTHING:
            # A program that is not ours knows SIGTERM and would take SIGQUIT for a crash.
            actions.append(Signal(child.slot, signal.SIGTERM, Sent.TERM, "the fleet stops"))
    free = view.free_slots
    for role in view.roles:  # those who stop last are still needed by those who drain
        serving = sum(c.role == role.role and c.serving for c in view.children)
        if role.stop_rank > rank and view.phase is Phase.DRAINING and _may_start(role, view):
            starts = min(max(role.wanted - serving, 0), free)
            free -= starts
            actions += [Start(role.role)] * starts
    return actions


def _reports(view: FleetView, limits: Limits) -> list[Action]:
    """Return what is worth a line in the log and nothing more."""
    reports: list[Action] = []
    for child in view.children:
        booting = not child.ready and child.serving
        facts = {
            "stalled": child.stalled,
            "slow-boot": booting and view.now_s - child.started_s >= limits.slow_boot_s,
        }
        for what, holds in facts.items():
            if holds != (what in child.reported):
                reports.append(Report(child.slot, what, over=not holds))
    return reports


def due_s(view: FleetView, limits: Limits) -> float:
    """Return how long nothing has to be decided unless something happens; 0 <= s <= look_s."""
    gates = [r.backoff.not_before_s for r in view.roles] + [view.forks_not_before_s]
    kills = [_kill_at(c, view, limits) for c in view.children if 0 < c.sent < Sent.KILL]
    waits = [at - view.now_s for at in gates + kills if at > view.now_s]
    return min([limits.look_s, *waits])


# --- what an exit means -------------------------------------------------------------------------


class Verdict(Enum):
    """What the end of a child was."""

    STOPPED = "stopped"
    """We had told it to leave."""
    KILLED = "killed"
    """We had sent SIGABRT or SIGKILL."""
    BOOT_FAILURE = "boot-failure"
    CRASH = "crash"


def judge_exit(
    child: ChildView, ready_s: float | None, backoff: Backoff, now_s: float, limits: Limits
) -> tuple[Verdict, Backoff]:
    """Return what the end of `child` was and what it means for its role's next start.

    An exit that nobody asked for is a crash whatever its status: `os._exit(0)` in a handler
    is no success.

    Args:
        child: As it was seen last.
        ready_s: When it became ready, in the supervisor's time; None = never.
        backoff: The role's, before.
        now_s: The supervisor's time.
        limits: The supervisor's patience.
    """
    if child.sent >= Sent.ABRT:
        return Verdict.KILLED, backoff
    if child.sent is not Sent.NOTHING:
        return Verdict.STOPPED, backoff
    if ready_s is None:
        return Verdict.BOOT_FAILURE, _after_boot_failure(child, backoff, now_s, limits)
    quick = now_s - ready_s < limits.crash_quick_s
    crashes = backoff.quick_crashes + 1 if quick else 0
    delay_s = _doubled(limits.crash_backoff_s, crashes - 1, limits.boot_backoff_cap_s)
    return Verdict.CRASH, replace(
        backoff,
        boot_failures=0,
        quick_crashes=crashes,
        not_before_s=now_s + delay_s if quick else backoff.not_before_s,
    )


def _after_boot_failure(
    child: ChildView, backoff: Backoff, now_s: float, limits: Limits
) -> Backoff:
    if child.started_s <= backoff.failed_s:
        return backoff  # it was on its way already when the last failure was counted
    failures = backoff.boot_failures + 1
    delay_s = _doubled(limits.boot_backoff_s, failures - 1, limits.boot_backoff_cap_s)
    return replace(backoff, boot_failures=failures, failed_s=now_s, not_before_s=now_s + delay_s)


def after_ready(backoff: Backoff) -> Backoff:
    """Return the back-off of a role of which a child has just booted: others may follow at once."""
    if not backoff.boot_failures:
        return backoff
    return Backoff(failed_s=backoff.failed_s, quick_crashes=backoff.quick_crashes)


def after_fork_failure(failures: int, limits: Limits) -> float:
    """Return how long to wait, in seconds, after the n-th fork in a row that failed, n >= 1."""
    return _doubled(limits.boot_backoff_s, failures - 1, limits.boot_backoff_cap_s)


def _doubled(base_s: float, times: int, cap_s: float) -> float:
    return min(cap_s, base_s * 2.0 ** min(max(times, 0), 32))


# --- time that stands still while we do ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnTime:
    """The supervisor's clock: CLOCK_MONOTONIC less the time in which it was stopped itself.

    With it, deadlines survive a SIGSTOP of the whole group: nobody had that time.
    """

    raw_ns: int
    lost_ns: int = 0
    resumed_s: float = float("-inf")
    """When a stop was noticed last, in own time."""

    @property
    def now_s(self) -> float:
        """Own time, seconds."""
        return (self.raw_ns - self.lost_ns) / 1e9

    def advance(self, raw_ns: int, waited_s: float, slack_s: float) -> OwnTime:
        """Return the clock one round later; a round much longer than asked for was a stop.

        Args:
            raw_ns: CLOCK_MONOTONIC now.
            waited_s: The longest that this round was meant to sleep.
            slack_s: What a busy machine may add to that.
        """
        gap_ns = raw_ns - self.raw_ns - int(waited_s * 1e9)
        if gap_ns <= slack_s * 1e9:
            return replace(self, raw_ns=raw_ns)
        later = replace(self, raw_ns=raw_ns, lost_ns=self.lost_ns + gap_ns)
        return replace(later, resumed_s=later.now_s)

    def own_s(self, raw_ns: int) -> float:
        """Return a recent CLOCK_MONOTONIC reading in own time; not before a stop that was lost."""
        return (raw_ns - self.lost_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Pulse:
    """A child's loop as seen by its ticks; times are the supervisor's own."""

    tick_ns: int = 0
    moved_s: float = float("-inf")
    """When the tick was seen to have moved last."""
    resumed_s: float = float("-inf")
    """When it moved again after a stall, and so became worth waiting for."""

    RENEW_S = 30.0  # a loop that stalls again and again is not waited for each time

    def seen(self, tick_ns: int, now_s: float, stale_s: float) -> Pulse:
        """Return the pulse after a look at the tick."""
        if tick_ns == self.tick_ns:
            return self
        stalled = self.tick_ns != 0 and now_s - self.moved_s >= stale_s
        renewed = stalled and now_s - self.resumed_s >= self.RENEW_S
        return Pulse(tick_ns, now_s, now_s if renewed else self.resumed_s)

    def stalled(self, now_s: float, stale_s: float) -> bool:
        """Tell whether the loop has been silent for `stale_s`; one that never ticked is not."""
        return self.tick_ns != 0 and now_s - self.moved_s >= stale_s

    def may_judge(self, own: OwnTime, grace_s: float) -> bool:
        """Tell whether deadlines may be judged: enough time since anybody was stopped."""
        return own.now_s - max(own.resumed_s, self.resumed_s) >= grace_s
