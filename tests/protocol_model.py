"""The protocol of `docs/protocol.md` as an abstract machine: one job, two processes, a bad network.

Not the scripts but the agreement that they and their callers keep: request ids that are
remembered, leases that belong to a request of an epoch, epochs that are fenced when they are
reclaimed, a reconcile that names what its process does not know.  `steps` gives everything
that can happen from a state, `search` in `breadth_first.py` visits it all.

The network holds calls.  Each may be there twice, is carried out at any later time, in any
order, and its answer may be lost.  A process may be killed, and its lease may lapse while it
lives.  `Rules` names each thing that the protocol does about that; with one of them turned
off the search must find what goes wrong, or the model would show nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from breadth_first import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

# --- what is promised -----------------------------------------------------------------------------

LOST: Final = "lost: an accepted job is nowhere"
ONE_PLACE: Final = "one place: a job is in two places"
FINALITY: Final = "finality: an ended job is alive again"
FENCING: Final = "fencing: an outcome of an old lease took effect"
EXPLAINED: Final = "explained: a job began again without a fault or a retry"
CANCELLED: Final = "cancelled: a job began after its cancellation was answered"
ONCE: Final = "once: one call of an operator took effect twice"
SAME_ANSWER: Final = "same answer: a repeat was answered otherwise than the call"


@dataclass(frozen=True)
class Rules:
    """What the protocol does; each is turned off by one mutant."""

    enqueue_remembers: bool = True  # the request, and the ids there are
    dequeue_remembers: bool = True  # a repeat gives the same batch, a late copy nothing
    memory_outlives_copies: bool = True  # 60 s against 25 s of repeating
    lease_with_the_pop: bool = True  # one script, not a pop and then a note
    dequeue_checks_epoch: bool = True  # a fenced or forgotten epoch leases nothing
    settle_checks: str = "request"  # the token: "request", "epoch" or "" for the id alone
    reclaim_rechecks: bool = True  # the deadline, in the script that moves
    reclaim_in_one_step: bool = True  # reads what it moves in the same script
    reclaims: bool = True
    reconciles: bool = True
    reconcile_names: str = "unknown"  # what is to go; "known" = what is to stay
    in_flight_is_known: bool = True  # a request that waits for its answer is held
    promote_in_one_step: bool = True
    cancel_checks_leases: bool = True
    cancel_remembers: bool = True
    revive_remembers: bool = True
    intake_looks_at_record: bool = True  # a cancelled job in a batch is not begun


@dataclass(frozen=True)
class Bounds:
    """How much may go wrong; all combinations within are visited."""

    network: int = 3  # calls under way
    copies: int = 2  # of one call at a time
    kills: int = 1
    lapses: int = 1  # of the lease of a process that lives
    retries: int = 1
    operator: tuple[str, ...] = ()  # of "cancel", "revive": one call each


class Process(NamedTuple):
    """A worker process as it sees itself."""

    epoch: int
    phase: str  # starting idle asking holding running settling dead
    request: int = -1
    grant: int = -1  # which lease that is in truth: for the check alone
    outcome: str = ""
    sees_cancelled: bool = False  # the record as it came with the batch


class Call(NamedTuple):
    """One copy of a call under way."""

    kind: str
    epoch: int = -1
    request: int = -1
    grant: int = -1
    outcome: str = ""


class Lease(NamedTuple):
    """Who holds the job."""

    request: int
    epoch: int
    grant: int


class State(NamedTuple):
    """Server, processes, network, and what is left of the bounds."""

    places: tuple[str, ...] = ()
    """waiting, buried (waiting, cancelled), scheduled, leased, completed, failed, cancelled"""
    record: str = ""  # "" = none
    lease: Lease | None = None
    epochs: tuple[tuple[int, str], ...] = ()  # -> alive, lapsed, fenced
    remembered: tuple[int, ...] = ()  # dequeue requests
    registered: tuple[int, ...] = ()  # epochs whose registration is remembered
    enqueue_remembered: bool = False
    operator_remembered: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()
    network: tuple[Call, ...] = ()
    snapshots: tuple[str, ...] = ()  # what a two-step script has read
    kills: int = 0
    lapses: int = 0
    retries: int = 0
    operator: tuple[str, ...] = ()  # calls not made yet
    effects: tuple[str, ...] = ()  # operators' calls that took effect
    begins: int = 1  # runs that have an explanation and have not begun

    def but(self, **changes: object) -> State:
        """Return the state with members changed, in its one form."""
        return _tidy(self._replace(**changes))  # type: ignore[arg-type]

    def without(self, call: Call) -> State:
        """Return the state after one copy of a call was carried out."""
        rest = list(self.network)
        rest.remove(call)
        return self._replace(network=tuple(rest))

    def epoch(self, epoch: int) -> str:
        """Return what the server thinks of an epoch; "" = nothing."""
        return dict(self.epochs).get(epoch, "")

    def with_epoch(self, epoch: int, status: str) -> tuple[tuple[int, str], ...]:
        """Return the epochs with one changed; "" forgets it."""
        found = dict(self.epochs)
        found.pop(epoch, None)
        if status:
            found[epoch] = status
        return tuple(sorted(found.items()))

    def with_process(self, number: int, process: Process) -> tuple[Process, ...]:
        """Return the processes with one changed."""
        return (*self.processes[:number], process, *self.processes[number + 1 :])

    def moved(self, source: str, target: str) -> tuple[str, ...]:
        """Return the places after the job went from one to another."""
        rest = list(self.places)
        rest.remove(source)
        return tuple(sorted((*rest, target)))


ENDED: Final = frozenset({"completed", "failed", "cancelled"})


def start(bounds: Bounds) -> State:
    """Two processes register, and a producer has sent its call."""
    enqueues = (Call("enqueue"),) * bounds.copies
    return State(
        epochs=((0, "alive"), (1, "alive")),
        processes=(Process(0, "idle"), Process(1, "idle")),
        network=enqueues,
        kills=bounds.kills,
        lapses=bounds.lapses,
        retries=bounds.retries,
        operator=bounds.operator,
    )


def is_end(state: State) -> bool:
    """Whether the job has ended."""
    return bool(state.places) and set(state.places) <= ENDED


def is_accepted(state: State) -> bool:
    """Whether the job was accepted: from then on it must be possible to end it."""
    return bool(state.places)


def _tidy(state: State) -> State:
    """Give states that differ in names alone, or in memories nobody can ask for, one form.

    Two processes that could be exchanged are one case; requests, epochs and leases are
    numbered as they are met.
    """
    lease, processes, network = state.lease, state.processes, state.network
    if len(network) > 1:
        network = tuple(sorted(network, key=_nameless))
    if len(processes) > 1:
        held = lease.epoch if lease else -1
        processes = tuple(sorted(processes, key=lambda p: _weight(p, held, network)))
    requests, epochs, grants = {-1: -1}, {-1: -1}, {-1: -1}
    for named in (*processes, *([lease] if lease else []), *network):
        requests.setdefault(named.request, len(requests) - 1)
        epochs.setdefault(named.epoch, len(epochs) - 1)
        grants.setdefault(named.grant, len(grants) - 1)
    for epoch, _ in sorted(state.epochs, key=_status):
        epochs.setdefault(epoch, len(epochs) - 1)
    remembered = state.remembered
    if remembered:
        asking = {c.request for c in network if c.kind == "dequeue"}
        asking |= {p.request for p in processes if p.phase == "asking"}
        remembered = tuple(sorted(requests[r] for r in remembered if r in asking))
    registered = state.registered
    if registered:
        starting = {c.epoch for c in network if c.kind == "register"}
        starting |= {p.epoch for p in processes if p.phase == "starting"}
        registered = tuple(sorted(epochs[e] for e in registered if e in starting))
    return State(
        state.places,
        state.record,
        lease and Lease(requests[lease.request], epochs[lease.epoch], grants[lease.grant]),
        tuple(sorted((epochs[epoch], status) for epoch, status in state.epochs)),
        remembered,
        registered,
        state.enqueue_remembered and Call("enqueue") in network,
        state.operator_remembered,
        tuple(
            Process(epochs[e], phase, requests[r], grants[g], outcome, sees)
            for e, phase, r, g, outcome, sees in processes
        ),
        tuple(
            sorted(
                Call(kind, epochs[e], requests[r], grants[g], outcome)
                for kind, e, r, g, outcome in network
            )
        ),
        *state[10:],
    )


def _nameless(call: Call) -> tuple[str, str, int]:
    return call.kind, call.outcome, call.epoch


def _status(epoch: tuple[int, str]) -> str:
    return epoch[1]


def _weight(p: Process, held: int, network: tuple[Call, ...]) -> tuple[object, ...]:
    """Order processes by what they are at, not by their names."""
    calls = [call.kind for call in network if call.epoch == p.epoch]
    return p.phase, p.outcome, p.epoch != held, p.sees_cancelled, calls, p.epoch


class Protocol:
    """Names every step from a state."""

    def __init__(self, rules: Rules | None = None, bounds: Bounds | None = None) -> None:
        """Play by `rules` within `bounds`."""
        self.rules = rules or Rules()
        self.bounds = bounds or Bounds()

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Give every step, each judged."""
        for step in self._all(state):
            yield step if step.broken else step._replace(broken=self._harm(state, step.state))

    @staticmethod
    def _harm(before: State, after: State) -> str:
        if before.places and not after.places:
            return LOST
        if len(after.places) > 1:
            return FINALITY if ENDED & set(after.places) else ONE_PLACE
        if after.begins < 0:
            return EXPLAINED
        return ""

    def _all(self, state: State) -> Iterator[Step[State]]:
        for call in dict.fromkeys(state.network):
            yield from getattr(self, f"_{call.kind}")(state, state.without(call), call)
        for number in range(len(state.processes)):
            yield from self._process(state, number)
        yield from self._warden(state)
        yield from self._operator(state)
        if not self.rules.memory_outlives_copies:
            if state.enqueue_remembered:
                yield Step("memory: the enqueue is forgotten", state.but(enqueue_remembered=False))
            for request in state.remembered:
                rest = tuple(r for r in state.remembered if r != request)
                yield Step("memory: a dequeue is forgotten", state.but(remembered=rest))

    # --- the server carries calls out -------------------------------------------------------------

    def _enqueue(self, state: State, rest: State, _: Call) -> Iterator[Step[State]]:
        known = self.rules.enqueue_remembers and (state.enqueue_remembered or state.record)
        if known:
            yield Step("enqueue: a copy, without effect", rest.but(enqueue_remembered=True))
        else:
            places = tuple(sorted((*state.places, "waiting")))
            yield Step(
                "enqueue: accepted",
                rest.but(places=places, record="live", enqueue_remembered=True),
            )

    def _register(self, state: State, rest: State, call: Call) -> Iterator[Step[State]]:
        status = state.epoch(call.epoch)
        if status != "fenced" and (status or call.epoch not in state.registered):
            rest = rest._replace(
                epochs=rest.with_epoch(call.epoch, "alive"),
                registered=(*{*rest.registered, call.epoch},),
            )
        for number, process in enumerate(state.processes):
            if (process.epoch, process.phase) == (call.epoch, "starting"):
                told = rest.with_process(number, process._replace(phase="idle"))
                yield Step("register: done", rest.but(processes=told))
                yield Step("register: done, the answer lost", rest.but(), fault=True)
                return
        yield Step("register: done, nobody listens", rest.but())

    def _dequeue(self, state: State, rest: State, call: Call) -> Iterator[Step[State]]:
        asker = next(
            (
                number
                for number, p in enumerate(state.processes)
                if (p.epoch, p.phase, p.request) == (call.epoch, "asking", call.request)
            ),
            None,
        )
        if self.rules.dequeue_checks_epoch and state.epoch(call.epoch) in {"", "fenced"}:
            yield from self._told_fenced(rest, asker, "dequeue")
            return
        source = next((p for p in ("waiting", "buried") if p in state.places), None)
        known = self.rules.dequeue_remembers and call.request in state.remembered
        if not known and source:
            if not self.rules.lease_with_the_pop:
                rest_of = list(state.places)
                rest_of.remove(source)
                yield Step("dequeue: popped, dead before the note", rest.but(places=tuple(rest_of)))
            used = [n.grant for n in (*state.processes, *state.network)]
            lease = Lease(call.request, call.epoch, max(used, default=-1) + 1)
            rest = rest._replace(
                places=rest.moved(source, "leased"),
                lease=lease,
                remembered=(*rest.remembered, call.request),
            )
        held = rest.lease if rest.lease and rest.lease.request == call.request else None
        if asker is None:
            yield Step("dequeue: carried out, nobody listens", rest.but())
            return
        yield Step("dequeue: carried out, the answer lost", rest.but(), fault=True)
        process = rest.processes[asker]
        if held:
            got = process._replace(
                phase="holding", grant=held.grant, sees_cancelled=rest.record == "cancelled"
            )
            yield Step("dequeue: leased", rest.but(processes=rest.with_process(asker, got)))
        else:
            idle = Process(process.epoch, "idle")
            yield Step("dequeue: nothing", rest.but(processes=rest.with_process(asker, idle)))

    def _told_fenced(self, rest: State, number: int | None, by: str) -> Iterator[Step[State]]:
        """Let a process that hears of its end take a new epoch."""
        if number is None:
            yield Step(f"{by}: fenced, nobody listens", rest.but())
            return
        yield Step(f"{by}: fenced, the answer lost", rest.but(), fault=True)
        used = [n.epoch for n in (*rest.processes, *rest.network)] + [e for e, _ in rest.epochs]
        fresh = Process(max(used) + 1, "starting")
        yield Step(f"{by}: fenced", rest.but(processes=rest.with_process(number, fresh)))

    def _settle(self, state: State, rest: State, call: Call) -> Iterator[Step[State]]:
        lease = state.lease
        held = lease is not None and (
            {"request": lease.request == call.request, "epoch": lease.epoch == call.epoch}.get(
                self.rules.settle_checks, True
            )
        )
        broken = ""
        if lease is not None and held:
            if lease.grant != call.grant:
                broken = FENCING
            rest = self._settled(rest, call.outcome)
        listening = (call.epoch, "settling", call.request)
        for number, p in enumerate(state.processes):
            if (p.epoch, p.phase, p.request) == listening:
                idle = rest.with_process(number, Process(p.epoch, "idle"))
                effect = "in effect" if held else "without effect"
                yield Step(
                    f"settle: {call.outcome}, {effect}", rest.but(processes=idle), False, broken
                )
                yield Step(
                    f"settle: {call.outcome}, {effect}, the answer lost", rest.but(), True, broken
                )
                return
        effect = "in effect" if held else "without effect"
        yield Step(f"settle: {call.outcome}, a late copy {effect}", rest.but(), False, broken)

    @staticmethod
    def _settled(state: State, outcome: str) -> State:
        target = {
            "complete": "completed",
            "fail": "failed",
            "later": "scheduled",
            "release": "buried" if state.record == "cancelled" else "waiting",
            "forget": "cancelled",
        }[outcome]
        # the hardest case for ids: nothing is kept of a completed job
        record = "" if outcome == "complete" else "kept" if outcome == "fail" else state.record
        again = outcome == "later"
        return state._replace(
            places=state.moved("leased", target),
            record=record,
            lease=None,
            begins=state.begins + again,
        )

    def _reconcile(self, state: State, rest: State, call: Call) -> Iterator[Step[State]]:
        asker = next(
            (
                number
                for number, p in enumerate(state.processes)
                if p.epoch == call.epoch and p.phase not in {"dead", "starting"}
            ),
            None,
        )
        if state.epoch(call.epoch) in {"", "fenced"}:
            yield from self._told_fenced(rest, asker, "reconcile")
            return
        lease = state.lease
        if lease is not None and lease.epoch == call.epoch:
            named = lease.request == call.request
            if named is (self.rules.reconcile_names == "unknown"):
                yield Step("reconcile: given back", self._given_back(rest).but())
                return
        yield Step("reconcile: nothing to do", rest.but())

    @staticmethod
    def _given_back(state: State) -> State:
        target = "buried" if state.record == "cancelled" else "waiting"
        return state._replace(places=state.moved("leased", target), lease=None)

    def _reclaim(self, state: State, rest: State, call: Call) -> Iterator[Step[State]]:
        """Carry out a call that was made when the epoch had lapsed."""
        status = state.epoch(call.epoch)
        if self.rules.reclaim_rechecks and status == "alive":
            yield Step("reclaim: alive again, nothing done", rest.but())
        elif status:
            yield from self._reclaimed(rest, call.epoch, explained=status != "alive")
        else:
            yield Step("reclaim: gone", rest.but())

    def _reclaimed(self, state: State, epoch: int, *, explained: bool) -> Iterator[Step[State]]:
        if state.lease is None or state.lease.epoch != epoch:
            yield Step("reclaim: empty", state.but(epochs=state.with_epoch(epoch, "")))
            return
        fenced = state.but(epochs=state.with_epoch(epoch, "fenced"))
        yield Step("reclaim: fenced, other jobs first", fenced)
        back = self._given_back(state)
        yield Step(
            "reclaim: given back",
            back.but(epochs=back.with_epoch(epoch, ""), begins=state.begins + explained),
        )

    def _cancel(self, state: State, rest: State, _: Call) -> Iterator[Step[State]]:
        if "cancel" in state.effects:
            same = self.rules.cancel_remembers
            broken = "" if same else SAME_ANSWER
            yield Step("cancel: a copy", rest.but(), broken=broken)
            return
        place = state.places[0] if state.places else ""
        free = place in {"waiting", "scheduled"} or (
            place == "leased" and not self.rules.cancel_checks_leases
        )
        if state.record != "live" or not free:
            yield Step("cancel: too late", rest.but())
            return
        if place != "leased":
            target = "cancelled" if place == "scheduled" else "buried"
            rest = rest._replace(places=rest.moved(place, target))
        yield Step(
            "cancel: done",
            rest.but(record="cancelled", effects=(*state.effects, "cancel")),
        )

    def _revive(self, state: State, rest: State, _: Call) -> Iterator[Step[State]]:
        if self.rules.revive_remembers and "revive" in state.operator_remembered:
            yield Step("revive: a copy", rest.but())
        elif "failed" in state.places:
            yield Step(
                "revive: done",
                rest.but(
                    places=state.moved("failed", "waiting"),
                    record="live",
                    begins=state.begins + 1,
                    effects=(*state.effects, "revive"),
                    operator_remembered=(*state.operator_remembered, "revive"),
                ),
                broken=ONCE if "revive" in state.effects else "",
            )
        else:
            yield Step("revive: not failed", rest.but())

    # --- processes --------------------------------------------------------------------------------

    def _sent(self, state: State, call: Call, **changes: object) -> Iterator[State]:
        """Give the state after a call was sent; to send it once more is another step."""
        there = state.network.count(call)
        if there < self.bounds.copies and len(state.network) < self.bounds.network:
            yield state.but(network=(*state.network, call), **changes)

    def _process(self, state: State, number: int) -> Iterator[Step[State]]:
        p = state.processes[number]
        if p.phase == "dead":
            return
        if state.kills:
            dead = state.with_process(number, Process(p.epoch, "dead"))
            yield Step("kill: a process", state.but(processes=dead, kills=state.kills - 1), True)
        yield from getattr(self, f"_{p.phase}")(state, number, p)
        yield from self._compare(state, p)

    def _starting(self, state: State, _number: int, p: Process) -> Iterator[Step[State]]:
        for after in self._sent(state, Call("register", p.epoch)):
            yield Step("send: a process registers", after)

    def _idle(self, state: State, number: int, p: Process) -> Iterator[Step[State]]:
        named = (*state.processes, *state.network, *([state.lease] if state.lease else []))
        request = max([n.request for n in named] + list(state.remembered)) + 1
        asking = state.with_process(number, Process(p.epoch, "asking", request))
        for after in self._sent(state, Call("dequeue", p.epoch, request), processes=asking):
            yield Step("send: a process dequeues", after)

    def _asking(self, state: State, number: int, p: Process) -> Iterator[Step[State]]:
        for after in self._sent(state, Call("dequeue", p.epoch, p.request)):
            yield Step("send: a process repeats its dequeue", after)
        idle = state.with_process(number, Process(p.epoch, "idle"))
        yield Step("give up: a process waits no more", state.but(processes=idle), True)

    def _holding(self, state: State, number: int, p: Process) -> Iterator[Step[State]]:
        if p.sees_cancelled and self.rules.intake_looks_at_record:
            yield from self._ends(state, number, p, "forget")
            return
        running = state.with_process(number, p._replace(phase="running"))
        yield Step(
            "begin: a process runs the job",
            state.but(processes=running, begins=state.begins - 1),
            broken=CANCELLED if "cancel" in state.effects else "",
        )
        yield from self._ends(state, number, p, "release")

    def _running(self, state: State, number: int, p: Process) -> Iterator[Step[State]]:
        yield from self._ends(state, number, p, "complete")
        yield from self._ends(state, number, p, "fail")
        if state.retries:
            yield from self._ends(state, number, p, "later", retries=state.retries - 1)

    def _ends(
        self, state: State, number: int, p: Process, outcome: str, **changes: object
    ) -> Iterator[Step[State]]:
        settling = state.with_process(number, p._replace(phase="settling", outcome=outcome))
        call = Call("settle", p.epoch, p.request, p.grant, outcome)
        for after in self._sent(state, call, processes=settling, **changes):
            yield Step(f"send: a process settles, {outcome}", after)

    def _settling(self, state: State, _number: int, p: Process) -> Iterator[Step[State]]:
        """Repeat until it is answered, however long that takes."""
        call = Call("settle", p.epoch, p.request, p.grant, p.outcome)
        for after in self._sent(state, call):
            yield Step("send: a process repeats its settle", after)

    def _compare(self, state: State, p: Process) -> Iterator[Step[State]]:
        """Compare what the process holds with what the server holds for it."""
        if not self.rules.reconciles or p.phase == "starting":
            return
        known = p.request
        if p.phase == "asking" and not self.rules.in_flight_is_known:
            known = -1
        if self.rules.reconcile_names == "known":
            call = Call("reconcile", p.epoch, known)
        elif state.lease and state.lease.epoch == p.epoch and state.lease.request != known:
            call = Call("reconcile", p.epoch, state.lease.request)
        elif state.epoch(p.epoch) in {"", "fenced"}:
            call = Call("reconcile", p.epoch)  # names nothing, and hears that it is fenced
        else:
            return
        for after in self._sent(state, call):
            yield Step("send: a process reconciles", after)

    # --- the warden -------------------------------------------------------------------------------

    def _warden(self, state: State) -> Iterator[Step[State]]:
        alive = {p.epoch for p in state.processes if p.phase not in {"dead", "starting"}}
        dead = {p.epoch for p in state.processes if p.phase == "dead"}
        for epoch, status in state.epochs:
            if status == "alive" and (epoch not in alive or state.lapses):
                fault = epoch in alive
                lapsed = state.but(
                    epochs=state.with_epoch(epoch, "lapsed"), lapses=state.lapses - fault
                )
                yield Step("lapse: a deadline passes", lapsed, fault)
            if status == "lapsed" and epoch in alive:
                beaten = state.but(epochs=state.with_epoch(epoch, "alive"))
                yield Step("beat: in time after all", beaten)
            if self.rules.reclaims and self.rules.reclaim_in_one_step:
                if epoch in dead:
                    yield from self._reclaimed(state, epoch, explained=True)
                elif status in {"lapsed", "fenced"}:
                    call = Call("reclaim", epoch)
                    if call not in state.network and len(state.network) < self.bounds.network:
                        sent = state.but(network=(*state.network, call))
                        yield Step("send: the warden reclaims", sent)
        if not self.rules.reclaim_in_one_step:
            yield from self._reclaim_in_two_steps(state)
        yield from self._promote(state)

    def _reclaim_in_two_steps(self, state: State) -> Iterator[Step[State]]:
        lease = state.lease
        if lease and state.epoch(lease.epoch) == "lapsed" and "leased" not in state.snapshots:
            yield Step(
                "read: the warden reads what is leased",
                state.but(snapshots=(*state.snapshots, "leased")),
            )
        if "leased" in state.snapshots:
            rest = tuple(p for p in state.places if p != "leased")
            snapshots = tuple(s for s in state.snapshots if s != "leased")
            yield Step(
                "move: the warden moves what it read",
                state.but(
                    places=tuple(sorted((*rest, "waiting"))),
                    lease=None,
                    snapshots=snapshots,
                    begins=state.begins + 1,
                ),
            )

    def _promote(self, state: State) -> Iterator[Step[State]]:
        if self.rules.promote_in_one_step:
            if "scheduled" in state.places:
                due = state.but(places=state.moved("scheduled", "waiting"))
                yield Step("promote: the job is due", due)
            return
        if "scheduled" in state.places and state.snapshots.count("due") < 2:
            yield Step(
                "read: a scheduler reads what is due",
                state.but(snapshots=(*state.snapshots, "due")),
            )
        if "due" in state.snapshots:
            rest = tuple(p for p in state.places if p != "scheduled")
            snapshots = list(state.snapshots)
            snapshots.remove("due")
            yield Step(
                "move: a scheduler moves what it read",
                state.but(places=tuple(sorted((*rest, "waiting"))), snapshots=tuple(snapshots)),
            )

    # --- operators --------------------------------------------------------------------------------

    def _operator(self, state: State) -> Iterator[Step[State]]:
        for kind in state.operator:
            if not state.places or (kind == "revive" and "failed" not in state.places):
                continue
            left = tuple(k for k in state.operator if k != kind)
            twice = (*state.network, *[Call(kind)] * self.bounds.copies)
            if len(twice) <= self.bounds.network:
                asked = state.but(network=twice, operator=left)
                yield Step(f"send: an operator asks to {kind}", asked)
