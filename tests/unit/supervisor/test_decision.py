"""The supervisor's judgement: what it decides in each case, and what it never does in any."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bananas.supervisor.decision import (
    EXIT_BOOT_FAILED,
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
from bananas.table import SlotState

LIMITS = Limits(grace_s=30)
WORKERS = RoleView(role="worker", wanted=2)
WARDEN = RoleView(role="warden", wanted=1, stop_rank=1)
SERVER = RoleView(role="server", wanted=1, stop_rank=2, execs=True)


def child(slot: int, role: str = "worker", **changes: object) -> ChildView:
    """Return a READY child, but for the changes."""
    base = ChildView(slot=slot, role=role, state=SlotState.READY, started_s=99.0)
    return replace(base, **changes)  # type: ignore[arg-type]


def booting(slot: int, role: str = "worker", **changes: object) -> ChildView:
    """Return a child that is not ready yet."""
    return child(slot, role, state=SlotState.STARTING, **changes)


def fleet(*children: ChildView, **changes: object) -> FleetView:
    """Return a fleet of two workers wanted, at 100 s, but for the changes."""
    view = FleetView(now_s=100.0, roles=(WORKERS,), children=children, free_slots=8)
    return replace(view, **changes)  # type: ignore[arg-type]


def told(actions: list[Action]) -> list[tuple[int, str]]:
    """Return the signals among the actions as (slot, name)."""
    return [(a.slot, a.number.name) for a in actions if isinstance(a, Signal)]


# --- counts -------------------------------------------------------------------------------------


def test_missing_children_are_started() -> None:
    """A role below its count gets all that is missing at once."""
    assert decide(fleet(), LIMITS) == [Start("worker"), Start("worker")]
    assert decide(fleet(child(3)), LIMITS) == [Start("worker")]
    assert decide(fleet(child(3), booting(4)), LIMITS) == []


def test_who_stops_last_starts_first() -> None:
    """The server is started before the warden, the warden before the workers."""
    view = fleet(roles=(WORKERS, WARDEN, SERVER))
    roles = [a.role for a in decide(view, LIMITS) if isinstance(a, Start)]
    assert roles == ["server", "warden", "worker", "worker"]


def test_no_more_starts_than_slots() -> None:
    """What has no slot is not started, across roles."""
    view = fleet(roles=(WORKERS, WARDEN), free_slots=2)
    assert decide(view, LIMITS) == [Start("warden"), Start("worker")]
    assert decide(replace(view, free_slots=0), LIMITS) == []


@pytest.mark.parametrize("now_s", [99.9, 100.0])
def test_a_start_waits_for_its_back_off(now_s: float) -> None:
    """Before a role's time nothing of it is started; from then on it is."""
    role = replace(WORKERS, backoff=Backoff(1, 90.0, 0, 100.0))
    starts = decide(fleet(roles=(role,), now_s=now_s), LIMITS)
    assert len(starts) == (2 if now_s >= 100 else 0)


def test_a_failed_fork_holds_all_roles_back() -> None:
    """While the system has no room for processes, nothing is started."""
    view = fleet(roles=(WORKERS, WARDEN), forks_not_before_s=101.0)
    assert decide(view, LIMITS) == []
    assert len(decide(replace(view, now_s=101.0), LIMITS)) == 3


def test_one_too_many_stops_the_youngest() -> None:
    """Of equals above the count, the one started last is told to leave."""
    view = fleet(child(0, started_s=1), child(1, started_s=3), child(2, started_s=2))
    assert told(decide(view, LIMITS)) == [(1, "SIGTERM")]


def test_one_too_many_stops_a_booting_one_first() -> None:
    """One that does not work yet is stopped rather than one that does."""
    view = fleet(child(0), child(1, started_s=9), booting(2, started_s=5))
    assert told(decide(view, LIMITS)) == [(2, "SIGTERM")]


def test_one_that_leaves_is_not_counted() -> None:
    """A child that was told to leave is replaced without waiting for its end."""
    view = fleet(child(0), child(1, sent=Sent.ABRT, sent_s=99.9))
    assert decide(view, LIMITS) == [Start("worker")]


# --- rolling ------------------------------------------------------------------------------------


def test_a_roll_starts_one_replacement_first() -> None:
    """After SIGHUP one new child is started per role, and no old one told to leave."""
    assert decide(fleet(child(0), child(1), wave=1), LIMITS) == [Start("worker")]


def test_a_roll_waits_for_the_replacement_to_boot() -> None:
    """While the replacement boots, nothing is done."""
    assert decide(fleet(child(0), child(1), booting(2, wave=1), wave=1), LIMITS) == []


def test_a_roll_stops_an_old_one_once_the_new_one_is_ready() -> None:
    """With the replacement READY exactly one old child is told to leave."""
    view = fleet(child(0), child(1), child(2, wave=1), wave=1)
    assert told(decide(view, LIMITS)) == [(1, "SIGTERM")]


def test_a_roll_does_not_spare_the_booting() -> None:
    """An old child that still boots is replaced at once: nobody works less for it."""
    view = fleet(child(0), booting(1), booting(2, wave=1), wave=1)
    assert told(decide(view, LIMITS)) == [(1, "SIGTERM")]


def test_a_recycled_child_is_replaced_first() -> None:
    """A child that asks to be replaced works on until another has booted."""
    asking = child(0, recycle=True)
    assert decide(fleet(asking, child(1)), LIMITS) == [Start("worker")]
    assert decide(fleet(asking, child(1), booting(2)), LIMITS) == []
    actions = decide(fleet(asking, child(1), child(2)), LIMITS)
    assert told(actions) == [(0, "SIGTERM")]
    assert isinstance(actions[0], Signal)
    assert actions[0].why == "asked to be replaced"


def test_a_program_is_never_rolled() -> None:
    """Of an exec'd program there may not be two, so SIGHUP leaves it alone."""
    view = fleet(child(0, "server"), roles=(SERVER,), wave=5)
    assert decide(view, LIMITS) == []


# --- failing to boot ----------------------------------------------------------------------------


def test_boot_failures_in_a_row_end_the_fleet() -> None:
    """The fifth boot failure in a row drains the fleet towards the named status."""
    for failures, expected in ((4, []), (5, [Drain(EXIT_BOOT_FAILED)])):
        role = replace(WORKERS, backoff=Backoff(failures, 99.0, 0, 130.0))
        assert decide(fleet(child(0), roles=(role,)), LIMITS) == expected


def test_a_roll_that_cannot_boot_keeps_the_old() -> None:
    """When all that are wanted work and only replacements fail, the old ones are kept."""
    role = replace(WORKERS, backoff=Backoff(5, 99.0, 0, 130.0))
    view = fleet(child(0), child(1), wave=1, roles=(role,))
    assert decide(view, LIMITS) == [KeepOld("worker")]


def test_the_back_off_doubles_up_to_its_cap() -> None:
    """Boot failures delay the next start by 1, 2, 4 … seconds, at most 30."""
    backoff, now_s, delays = Backoff(), 0.0, []
    for _ in range(7):
        failed = booting(0, started_s=now_s)
        verdict, backoff = judge_exit(failed, None, backoff, now_s + 0.5, LIMITS)
        assert verdict is Verdict.BOOT_FAILURE
        delays.append(backoff.not_before_s - (now_s + 0.5))
        now_s = backoff.not_before_s
    assert delays == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.boot_failures == 7


def test_those_who_fail_together_fail_once() -> None:
    """Children that booted at the same time are one failure, whatever their number."""
    backoff = Backoff()
    for slot in range(16):
        _, backoff = judge_exit(booting(slot, started_s=1.0), None, backoff, 2.0 + slot, LIMITS)
    assert backoff.boot_failures == 1
    assert backoff.not_before_s == 3.0


def test_a_boot_that_succeeds_ends_the_row() -> None:
    """Once a child of the role is ready, earlier failures no longer count or delay."""
    assert after_ready(Backoff(4, 99.0, 0, 108.0)) == Backoff(0, 99.0, 0)
    assert after_ready(Backoff(0, 99.0, 3, 108.0)) == Backoff(0, 99.0, 3, 108.0)


# --- crashes ------------------------------------------------------------------------------------


def test_a_crash_is_replaced_at_once() -> None:
    """A child that worked for a while and crashed delays nothing."""
    verdict, backoff = judge_exit(child(0), 90.0, Backoff(), 100.0, LIMITS)
    assert (verdict, backoff) == (Verdict.CRASH, Backoff())


def test_quick_crashes_slow_down() -> None:
    """Crashes within a second of readiness delay by 0.1, 0.2, 0.4 … s until one lives longer."""
    backoff, delays = Backoff(), []
    for _ in range(4):
        _, backoff = judge_exit(child(0), 99.5, backoff, 100.0, LIMITS)
        delays.append(backoff.not_before_s - 100.0)
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8])
    _, backoff = judge_exit(child(0), 50.0, backoff, 100.0, LIMITS)
    assert backoff.quick_crashes == 0


@pytest.mark.parametrize(
    ("sent", "verdict"),
    [
        *((Sent.TERM, Verdict.STOPPED), (Sent.QUIT, Verdict.STOPPED)),
        *((Sent.ABRT, Verdict.KILLED), (Sent.KILL, Verdict.KILLED)),
    ],
)
@pytest.mark.parametrize("ready_s", [None, 99.9])
def test_what_we_ended_is_no_failure(sent: Sent, verdict: Verdict, ready_s: float | None) -> None:
    """The end of a child that we told to leave, booted or not, delays nothing."""
    view = child(0, sent=sent)
    assert judge_exit(view, ready_s, Backoff(), 100.0, LIMITS) == (verdict, Backoff())


def test_failed_forks_back_off() -> None:
    """Each fork that fails waits longer than the last, up to the cap."""
    assert [after_fork_failure(n, LIMITS) for n in (1, 2, 3, 6, 10_000)] == [1, 2, 4, 30, 30]


# --- deadlines ----------------------------------------------------------------------------------


def test_a_job_past_its_hard_deadline_costs_the_process() -> None:
    """The child gets SIGABRT with the culprits named, and is replaced in the same breath."""
    view = fleet(child(0, overdue=(b"a", b"b")), child(1))
    first, second = decide(view, LIMITS)
    assert isinstance(first, Signal)
    assert (first.number, first.culprits) == (signal.SIGABRT, (b"a", b"b"))
    assert second == Start("worker")


def test_an_abort_is_given_time_for_its_trace() -> None:
    """SIGKILL follows SIGABRT after two seconds, not before, and once."""
    aborted = child(0, sent=Sent.ABRT, sent_s=98.1, overdue=(b"a",))
    view = fleet(aborted, child(1), child(2))
    assert told(decide(view, LIMITS)) == []
    assert told(decide(replace(view, now_s=100.1), LIMITS)) == [(0, "SIGKILL")]
    killed = replace(aborted, sent=Sent.KILL)
    assert told(decide(fleet(killed, child(1), child(2), now_s=999), LIMITS)) == []


def test_a_retired_child_that_does_not_leave_is_killed() -> None:
    """A child stopped alone has the drain time too."""
    view = fleet(child(0, sent=Sent.TERM, sent_s=100.0), child(1), child(2))
    assert told(decide(replace(view, now_s=134.9), LIMITS)) == []
    assert told(decide(replace(view, now_s=135.0), LIMITS)) == [(0, "SIGKILL")]


def test_a_draining_child_past_a_hard_deadline_is_aborted() -> None:
    """Being told to leave does not shield a job that hangs."""
    view = fleet(child(0, sent=Sent.TERM, sent_s=99.0, overdue=(b"a",)), child(1), child(2))
    assert told(decide(view, LIMITS)) == [(0, "SIGABRT")]


# --- stopping -----------------------------------------------------------------------------------


def draining(*children: ChildView, **changes: object) -> FleetView:
    """Return a fleet of all three roles that drains since 100 s."""
    roles = (WORKERS, WARDEN, SERVER)
    base = fleet(*children, roles=roles, phase=Phase.DRAINING, phase_s=100.0)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_the_fleet_stops_rank_by_rank() -> None:
    """Workers first; the warden when they are gone; the server last; then it is over."""
    warden, server = child(2, "warden"), child(3, "server")
    view = draining(child(0), booting(1), warden, server)
    assert told(decide(view, LIMITS)) == [(0, "SIGTERM"), (1, "SIGTERM")]
    assert told(decide(draining(warden, server), LIMITS)) == [(2, "SIGTERM")]
    assert told(decide(draining(server), LIMITS)) == [(3, "SIGTERM")]
    assert decide(draining(), LIMITS) == [End()]


def test_nobody_is_told_twice() -> None:
    """Children that have had SIGTERM are left alone until the deadline."""
    view = draining(child(0, sent=Sent.TERM, sent_s=100.0), child(1, sent=Sent.TERM, sent_s=50.0))
    assert told(decide(replace(view, now_s=134.9), LIMITS)) == []
    assert told(decide(replace(view, now_s=135.0), LIMITS)) == [(0, "SIGKILL"), (1, "SIGKILL")]


def test_those_who_stop_last_have_a_little_time_of_their_own() -> None:
    """After the group's deadline a child still gets two seconds from its SIGTERM."""
    view = draining(child(2, "warden", sent=Sent.TERM, sent_s=136.0))
    assert told(decide(replace(view, now_s=137.9), LIMITS)) == []
    assert told(decide(replace(view, now_s=138.0), LIMITS)) == [(2, "SIGKILL")]


def test_no_worker_is_started_while_draining() -> None:
    """A worker that ends is not replaced, nor rolled; the warden they still need is."""
    view = draining(child(0, sent=Sent.TERM, sent_s=100.0, recycle=True), child(3, "server"))
    assert decide(view, LIMITS) == [Start("warden")]


def test_cutting_sends_quit_once_and_kills_soon() -> None:
    """A second SIGTERM gives SIGQUIT to those that drain, and SIGKILL two seconds later."""
    view = draining(child(0, sent=Sent.TERM, sent_s=90.0), child(2, "warden"))
    cut = replace(view, phase=Phase.CUTTING)
    assert told(decide(cut, LIMITS)) == [(0, "SIGQUIT")]
    quitting = replace(cut, children=(child(0, sent=Sent.QUIT, sent_s=100.0), cut.children[1]))
    assert told(decide(replace(quitting, now_s=101.9), LIMITS)) == []
    assert told(decide(replace(quitting, now_s=102.0), LIMITS)) == [(0, "SIGKILL")]


def test_a_program_is_cut_by_sigterm() -> None:
    """SIGQUIT would be a crash to a server that saves on SIGTERM."""
    view = draining(child(3, "server"), phase=Phase.CUTTING)
    assert told(decide(view, LIMITS)) == [(3, "SIGTERM")]


# --- reports ------------------------------------------------------------------------------------


def test_a_stall_is_reported_once_and_so_is_its_end() -> None:
    """A silent loop costs one line when it begins and one when it ends, and no signal."""
    silent = child(0, stalled=True)
    assert decide(fleet(silent, child(1)), LIMITS) == [Report(0, "stalled")]
    known = replace(silent, reported=frozenset({"stalled"}))
    assert decide(fleet(known, child(1)), LIMITS) == []
    moving = replace(known, stalled=False)
    assert decide(fleet(moving, child(1)), LIMITS) == [Report(0, "stalled", over=True)]


def test_a_slow_boot_is_reported() -> None:
    """A child that is not ready after half a minute is named."""
    view = fleet(booting(0, started_s=69.9), booting(1, started_s=70.1))
    assert decide(view, LIMITS) == [Report(0, "slow-boot")]


# --- time ---------------------------------------------------------------------------------------


def test_the_next_look_is_due_at_the_next_deadline() -> None:
    """Sleep lasts to the nearest gate or deadline ahead, and never longer than a look."""
    assert due_s(fleet(), LIMITS) == 0.5
    gated = replace(WORKERS, backoff=Backoff(1, 90.0, 0, 100.2))
    assert due_s(fleet(roles=(gated,)), LIMITS) == pytest.approx(0.2)
    aborted = child(0, sent=Sent.ABRT, sent_s=98.1)
    assert due_s(fleet(aborted, roles=(gated,)), LIMITS) == pytest.approx(0.1)
    late = child(0, sent=Sent.ABRT, sent_s=1.0)
    assert due_s(fleet(late), LIMITS) == 0.5


def test_own_time_stands_still_while_we_do() -> None:
    """A round that took 60 s too long adds only what it was meant to take."""
    own = OwnTime(10**9)
    own = own.advance(int(1.5e9), 0.5, 1.5)
    assert (own.now_s, own.resumed_s) == (1.5, float("-inf"))
    own = own.advance(int(62e9), 0.5, 1.5)
    assert own.now_s == pytest.approx(2.0)
    assert own.resumed_s == own.now_s
    later = own.advance(int(62.4e9), 0.5, 1.5)
    assert later.now_s == pytest.approx(2.4)
    assert later.resumed_s == own.resumed_s
    assert later.own_s(int(62.2e9)) == pytest.approx(2.2)


def test_a_busy_machine_is_no_stop() -> None:
    """A round that is late by less than the slack counts in full."""
    own = OwnTime(0).advance(int(1.9e9), 0.5, 1.5)
    assert own.now_s == pytest.approx(1.9)
    assert own.lost_ns == 0


def test_a_pulse_stalls_and_comes_back() -> None:
    """A loop that ticked and fell silent is stalled; one that never ticked is not."""
    pulse = Pulse().seen(0, 1.0, 5.0)
    assert not pulse.stalled(1000.0, 5.0)
    pulse = pulse.seen(7, 10.0, 5.0).seen(7, 14.9, 5.0)
    assert not pulse.stalled(14.9, 5.0)
    assert pulse.stalled(15.0, 5.0)
    assert not pulse.seen(8, 15.0, 5.0).stalled(15.0, 5.0)


def test_nothing_is_judged_right_after_a_stop() -> None:
    """After a stop of ours or of the child's, deadlines rest for the grace."""
    own = OwnTime(0).advance(int(60e9), 0.0, 1.5)
    ticking = Pulse(5, 0.0)
    assert not ticking.may_judge(own, 5.0)
    assert ticking.may_judge(own.advance(int(65e9), 5.0, 1.5), 5.0)
    back = Pulse(5, 0.0).seen(6, 60.0, 5.0)
    assert not back.may_judge(OwnTime(int(64e9)), 5.0)
    assert back.may_judge(OwnTime(int(65e9)), 5.0)


def test_a_loop_that_stalls_again_and_again_is_judged() -> None:
    """The grace of a loop that came back is given once in half a minute."""
    pulse = Pulse(1, 0.0)
    for turn in range(1, 5):
        pulse = pulse.seen(turn + 1, 6.0 * turn, 5.0)
    assert pulse.resumed_s == 6.0
    assert pulse.may_judge(OwnTime(int(24e9)), 5.0)
    assert pulse.seen(9, 36.0, 5.0).resumed_s == 36.0


# --- never, whatever happens --------------------------------------------------------------------


@dataclass
class World:
    """A fleet that does what it is told, as slowly and as badly as the draws want."""

    view: FleetView
    limits: Limits = LIMITS
    slots: int = 10
    terms: dict[int, int] = field(default_factory=dict)  # by child, not by slot
    serial: dict[int, int] = field(default_factory=dict)  # slot -> child
    born: int = 0
    over: bool = False

    def child(self, slot: int) -> ChildView:
        """Return who lives in the slot."""
        return next(c for c in self.view.children if c.slot == slot)

    def set(self, child: ChildView) -> None:
        """Put a child into its slot."""
        others = tuple(c for c in self.view.children if c.slot != child.slot)
        self.view = replace(self.view, children=(*others, child))

    def role(self, name: str) -> RoleView:
        """Return a role."""
        return next(r for r in self.view.roles if r.role == name)

    def set_role(self, role: RoleView) -> None:
        """Exchange a role."""
        roles = tuple(role if r.role == role.role else r for r in self.view.roles)
        self.view = replace(self.view, roles=roles)

    def round(self) -> None:
        """Decide once, check what was decided, and have it done."""
        for action in decide(self.view, self.limits):
            self.check(action)
            self.do(action)
        self.view = replace(self.view, free_slots=self.slots - len(self.view.children))

    def check(self, action: Action) -> None:
        """Fail if the action breaks a rule."""
        view = self.view
        if isinstance(action, (Signal, Report)):
            child = self.child(action.slot)  # raises when nobody lives there
        if isinstance(action, Signal):
            assert action.sent > child.sent
            if action.sent is Sent.TERM:
                key = self.serial[action.slot]
                assert key not in self.terms
                self.terms[key] = 1
                if view.phase is Phase.RUNNING and child.ready:
                    same = [c for c in view.children if c.role == child.role and c.serving]
                    left = sum(c.ready for c in same) - 1
                    assert left >= self.role(child.role).wanted
            if action.sent is Sent.KILL:
                assert child.sent is not Sent.NOTHING
                assert view.now_s - child.sent_s >= 1.999
        if isinstance(action, Start):
            role = self.role(action.role)
            serving = [c for c in view.children if c.role == role.role and c.serving]
            assert len(view.children) < self.slots
            assert len(serving) < role.wanted + (not role.execs)  # a roll has one more
            assert view.now_s >= role.backoff.not_before_s
            assert view.phase is not Phase.CUTTING
            if view.phase is Phase.DRAINING:
                assert role.stop_rank > min(self.role(c.role).stop_rank for c in view.children)

    def do(self, action: Action) -> None:
        """Carry the action out, as the shell would."""
        now_s = self.view.now_s
        match action:
            case Start(name):
                used = {c.slot for c in self.view.children}
                slot = next(i for i in range(self.slots) if i not in used)
                self.born += 1
                self.serial[slot] = self.born
                state = SlotState.READY if self.role(name).execs else SlotState.STARTING
                self.set(
                    ChildView(
                        slot=slot, role=name, state=state, wave=self.view.wave, started_s=now_s
                    )
                )
            case Signal(slot, _, sent):
                self.set(replace(self.child(slot), sent=sent, sent_s=now_s))
            case Report(slot, what, over):
                child = self.child(slot)
                names = child.reported - {what} if over else child.reported | {what}
                self.set(replace(child, reported=names))
            case KeepOld(name):
                role = self.role(name)
                self.set_role(replace(role, backoff=replace(role.backoff, boot_failures=0)))
                for child in self.view.children:
                    if child.role == name and child.ready:
                        self.set(replace(child, wave=self.view.wave, recycle=False))
            case Drain():
                self.enter(Phase.DRAINING)
            case End():
                assert not self.view.children
                self.over = True

    def enter(self, phase: Phase) -> None:
        """Begin to stop."""
        if self.view.phase is not phase and self.view.phase is not Phase.CUTTING:
            self.view = replace(self.view, phase=phase, phase_s=self.view.now_s)

    def dies(self, child: ChildView) -> None:
        """Let a child end."""
        role = self.role(child.role)
        ready_s = child.started_s if child.ready else None
        _, backoff = judge_exit(child, ready_s, role.backoff, self.view.now_s, self.limits)
        self.set_role(replace(role, backoff=backoff))
        others = tuple(c for c in self.view.children if c.slot != child.slot)
        self.view = replace(self.view, children=others)

    def boots(self, child: ChildView) -> None:
        """Let a child become ready."""
        role = self.role(child.role)
        self.set_role(replace(role, backoff=after_ready(role.backoff)))
        self.set(replace(child, state=SlotState.READY))

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.view = replace(self.view, now_s=self.view.now_s + seconds)

    def happens(self, what: str, which: int, seconds: float) -> None:
        """Let one thing happen: to the fleet, or to its `which`-th child if there is one."""
        if what in {"hup", "ttin", "ttou", "term", "quit", "time"}:
            self.happens_to_all(what, seconds)
        elif self.view.children:
            self.happens_to(self.view.children[which % len(self.view.children)], what)

    def happens_to_all(self, what: str, seconds: float) -> None:
        """Do what an operator or time does."""
        worker = self.role("worker")
        match what:
            case "hup" if self.view.phase is Phase.RUNNING:
                self.view = replace(self.view, wave=self.view.wave + 1)
            case "ttin":
                self.set_role(replace(worker, wanted=min(5, worker.wanted + 1)))
            case "ttou":
                self.set_role(replace(worker, wanted=max(1, worker.wanted - 1)))
            case "term":
                self.enter(Phase.DRAINING)
            case "quit":
                self.enter(Phase.CUTTING)
            case "time":
                self.passes(seconds)

    def happens_to(self, child: ChildView, what: str) -> None:
        """Do what a child may do by itself."""
        match what:
            case "boots" if not child.ready:
                self.boots(child)
            case "dies":
                self.dies(child)
            case "recycle" if child.ready:
                self.set(replace(child, recycle=True))
            case "overdue" if child.ready:
                self.set(replace(child, overdue=(b"job",)))
            case "stalls":
                self.set(replace(child, stalled=not child.stalled))

    def settles(self) -> None:
        """From now on all goes well: children boot, leave when told, and time passes."""
        for _ in range(400):
            self.round()
            if self.over:
                return
            for child in self.view.children:
                if not child.serving:
                    self.dies(child)
                elif not child.ready:
                    self.boots(child)
            self.passes(1.0)


def world() -> World:
    """Return an empty fleet of three roles, with room for one roll at a time."""
    roles = (WORKERS, WARDEN, SERVER)
    view = FleetView(now_s=0.0, roles=roles, children=(), free_slots=10)
    return World(view)


RUNNING = ("boots", "boots", "dies", "hup", "ttin", "ttou", "recycle", "overdue", "stalls", "time")


def happenings(*kinds: str) -> st.SearchStrategy[list[tuple[str, int, float]]]:
    """Return what may happen: the kind, to which child, for how long."""
    one = st.tuples(st.sampled_from(kinds), st.integers(0, 9), st.floats(0, 40))
    return st.lists(one, max_size=40)


@settings(deadline=None, max_examples=250)
@given(happenings(*RUNNING * 3, "term", "quit"))
def test_no_rule_is_ever_broken(events: list[tuple[str, int, float]]) -> None:
    """Whatever happens, in whatever order, each single action keeps the promises."""
    it = world()
    for what, which, seconds in events:
        it.happens(what, which, seconds)
        it.round()
        if it.over:
            break


@settings(deadline=None, max_examples=100)
@given(happenings(*RUNNING))
def test_counts_converge(events: list[tuple[str, int, float]]) -> None:
    """Once things go well again, each role has its count, all READY and of the last wave."""
    it = world()
    for what, which, seconds in events:
        it.happens(what, which, seconds)
        it.round()
    ended = it.view.phase is not Phase.RUNNING  # five boot failures in a row
    it.settles()
    if ended:
        assert it.over
        return
    assert decide(it.view, it.limits) == []
    for role in it.view.roles:
        mine = [c for c in it.view.children if c.role == role.role]
        assert len(mine) == role.wanted
        assert all(c.ready and c.serving for c in mine)
        assert role.execs or all(c.wave == it.view.wave and not c.recycle for c in mine)


@settings(deadline=None, max_examples=100)
@given(happenings(*RUNNING), st.sampled_from([Phase.DRAINING, Phase.CUTTING]))
def test_a_stop_ends_in_time(events: list[tuple[str, int, float]], phase: Phase) -> None:
    """Told to stop, the fleet is gone by its deadlines although no child obeys."""
    it = world()
    for what, which, seconds in events:
        it.happens(what, which, seconds)
        it.round()
    it.enter(phase)
    start_s = it.view.now_s
    while not it.over and it.view.now_s - start_s < 60:
        it.round()
        for child in it.view.children:
            if child.sent is Sent.KILL:
                it.dies(child)
        it.passes(0.25)
    assert it.over
    # drain, then two late ranks of two seconds each, and the looks between them
    bound_s = LIMITS.drain_s + 6 if phase is Phase.DRAINING else 8
    assert it.view.now_s - start_s <= bound_s


@settings(deadline=None)
@given(st.lists(st.floats(0, 200), max_size=30))
def test_own_time_never_runs_backward_nor_ahead(rounds: list[float]) -> None:
    """Own time only grows, and never faster than the machine's."""
    own, raw_ns = OwnTime(0), 0
    for seconds in rounds:
        raw_ns += int(seconds * 1e9)
        later = own.advance(raw_ns, 0.5, 1.5)
        assert own.now_s <= later.now_s <= raw_ns / 1e9
        assert later.now_s - own.now_s <= 2.0 + 1e-6
        own = later
