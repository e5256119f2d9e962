"""All scripts together, in any order, against the model: no job is lost, doubled or uncounted.

After every step the server holds exactly what the model says, and the audit finds no drift.
Copies of earlier calls of every kind come at any time; the server is full now and then,
forgets its scripts, or falls back to an older state, as after a failover.
"""

from __future__ import annotations

import copy
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import OutOfMemoryError, RedisError

from bananas.broker import Entry, Fenced, Retention, Settlement, Specials
from bananas.keys import place
from bananas.scripts import load_all
from bare_queue import CLOCK, BareQueue, guarded_scripts, ids_of, record
from queue_model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis import Redis

    from bananas.broker import Batch, GiveBack, Promotion
    from bananas.scripts import Scripts
    from bare_queue import Call
    from servers import Kind, Server

T = TypeVar("T")

HIGH, LOW = "queue:high", "queue:low"
TASKS = ("t1", "t2")
PLACES = (HIGH, *(place("low", task=task) for task in TASKS), LOW)
EPOCHS = ("e1", "e2", "e3")
END_MS = 2**53 + 1000
ROUNDS = 4
RETENTION = Retention(completed_s=90, failed_s=900)
RESULT_S = 700
DUES = (None, None, None, "+0", "+700", "+3000", "-1.5", "1800000000.25", "9007199254740.992")
"""Relative and not, past, equal, between two milliseconds, and at the end of exact numbers."""

#: Reached in every run of the size below; a run that never saw one has tested less than it says.
SOMETIMES = (
    "enqueued",
    "enqueue repeated",
    "duplicate",
    "enqueue with old specials",
    "enqueue refused when full",
    "leased",
    "dequeue repeated",
    "dequeue cut by room",
    "fenced",
    "settled",
    "stale",
    "stale beside valid",
    "reclaimed in part",
    "reclaimed whole",
    "alive",
    "reconciled",
    "unplaced",
    "promoted",
    "cancelled",
    "cancelled while scheduled",
    "not cancelled: processing",
    "tombstone dropped",
    "revived",
    "pruned",
    "purged",
    "sorted",
    "merged",
    "rolled back",
    "full",
    "scripts forgotten",
    "places forgotten",
    "places kept: another worker came",
    "result",
    "old call: settle",
    "old call: cancel",
    "old call: revive",
    "old call: purge",
    "old call: register",
)


#: Chooses among what there is at the time. Drawing from the state itself would not do: the
#: server chooses at random which jobs fill a chunk, so a repeat of a run would draw differently.
PICK = st.integers(0, 60)


def pick(values: Sequence[T], number: int) -> T:
    """Return one of the values."""
    return values[number % len(values)]


class Machine(RuleBasedStateMachine):
    """A producer, workers, a warden and an operator, each with one call at a time."""

    client: ClassVar[Redis]
    scripts: ClassVar[Scripts | None] = None
    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        """Begin with an empty server and two registered epochs."""
        super().__init__()
        self.client.config_set("maxmemory", 0)
        self.client.flushdb()
        self.queue = BareQueue(self.client, "bananas", self.scripts)
        self.model = State()
        self.full = False
        self.jobs = 0
        self.edits = 0
        self.uncounted: set[str] = set()  # foreign jobs that nothing has accepted yet
        self.task: dict[str, str] = {}
        self.enqueues: list[tuple[str, list[Entry]]] = []
        self.dequeues: list[tuple[str, str, list[str], int, int]] = []
        self.tokens: dict[str, str] = {}
        self.again: list[tuple[str, Callable[[], None]]] = []
        self.named: dict[bytes, str] = {}
        self.view: list[tuple[str, str | None]] = []
        self.saved: tuple[dict[bytes, tuple[bytes, int]], State, set[str]] | None = None

    def teardown(self) -> None:
        """Whatever happened: the queue drains to nothing and every job is accounted for."""
        if self.full:
            self.client.config_set("maxmemory", 0)
            self.full = False
        self._drain()

    # --- help -----------------------------------------------------------------------------------

    def saw(self, event: str, *, when: object = True) -> None:
        """Count an event that every run must have seen."""
        if when:
            self.reached[event] += 1

    def room_for_the_test(self) -> _Room:
        """Return a context in which the test itself may write on a full server."""
        return _Room(self.client, self.full)

    def edit(self, job_id: str) -> bytes:
        """Return a new record of a job, in our form, unlike any before."""
        self.edits += 1
        where = self.record_place(job_id) or HIGH
        return record(job_id, where, edit=self.edits)

    def record_place(self, job_id: str) -> str | None:
        """Return the place that a job's record tells."""
        data = self.model.records.get(job_id, (b"",))[0]
        for where in PLACES:
            if data.endswith(b'"list":"%s"}' % where.encode()):
                return where
        return None

    def places_of(self, ids: set[str], named: dict[bytes, str]) -> dict[str, str]:
        """Return the place of every id that tells one or for which one is named."""
        found = {job_id: self.record_place(job_id) for job_id in ids}
        found |= {job_id.decode(): where for job_id, where in named.items()}
        return {job_id: where for job_id, where in found.items() if where is not None}

    def known_ids(self) -> list[str]:
        """Return every id ever made, in order."""
        return [f"j{number:04}" for number in range(self.jobs)]

    # --- time, harm -----------------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        """Begin in the middle of things: jobs everywhere, some leased, some dead."""
        for epoch in EPOCHS[:2]:
            self.register(epoch)
        self.push_foreign(2, scheduled=False)
        self.push_foreign(1, scheduled=True)
        self.enqueue([(n % 2 == 0, TASKS[n % 2], None, 150 * (n % 3)) for n in range(8)], [])
        self.enqueue([(True, "t1", f"+{700 * n}", 0) for n in range(3)], [])
        self._dequeue(self.queue.request(), "e1", list(PLACES), 5, 1 << 20)
        self._dequeue(self.queue.request(), "e2", list(PLACES), 3, 1 << 20)
        self.reclaim("e2", proven=True, limit=1, place_all=True, deaths=[])
        self.reclaim("e2", proven=True, limit=500, place_all=True, deaths=[0, 1])
        self.register("e2")
        self._dequeue(self.queue.request(), "e2", list(PLACES), 3, 1 << 20)
        self._cancel(next(job_id for where in PLACES for job_id in self.model.common[where]), 60)
        self.specialise({"t1"}, 10)
        for _ in range(2):  # the first one is told of the specials
            self.enqueue([(False, "t1", None, 0)] * 2, [])
        dying = next(iter(self.tokens))
        settlement = Settlement(dying)
        for job_id in sorted(self.model.leases[dying])[-4:]:
            self._decide(settlement, job_id, 4, ours=True)
        self._settle(settlement)
        self.revive([0], strangers=False)
        self.purge([0])

    @rule(ms=st.sampled_from([1, 500, 1000, 4000, 20_000]))
    def time_passes(self, ms: int) -> None:
        """Move the clock; a server that was full has room again."""
        self.full = False
        self.client.config_set("maxmemory", 0)
        self.queue.now_ms += ms

    @rule(scripts_too=st.booleans())
    def fill(self, scripts_too: bool) -> None:
        """Let the server run full, and perhaps forget its scripts."""
        self.full = True
        self.client.config_set("maxmemory", 1)
        if scripts_too:
            self.client.script_flush()
        self.saw("full")

    @rule()
    def forget_scripts(self) -> None:
        """Let the server forget its scripts, between any two calls."""
        self.client.script_flush()
        self.saw("scripts forgotten")

    @rule()
    def save(self) -> None:
        """Keep a copy of everything."""
        keys = list(self.client.scan_iter("bananas:*", count=1000))
        dumped = {key: (self.client.dump(key), self.client.pexpiretime(key)) for key in keys}
        self.saved = (dumped, copy.deepcopy(self.model), set(self.uncounted))

    @rule()
    def roll_back(self) -> None:
        """Fall back to the copy; clients still have everything they had."""
        if self.saved is None:
            self.save()
            return
        dumped, model, uncounted = self.saved
        with self.room_for_the_test():
            self.queue.clear()
            for key, (data, ends_ms) in dumped.items():
                self.client.restore(key, max(0, ends_ms), data, absttl=True)
        self.model, self.uncounted = copy.deepcopy(model), set(uncounted)
        self.saw("rolled back")

    # --- producers ------------------------------------------------------------------------------

    @rule(
        jobs=st.lists(
            st.tuples(
                st.booleans(),
                st.sampled_from(TASKS),
                st.sampled_from(DUES),
                st.sampled_from([0, 0, 150, 400]),
            ),
            min_size=1,
            max_size=6,
        ),
        known=st.lists(st.integers(0, 30), max_size=2),
    )
    def enqueue(self, jobs: list[tuple[bool, str, str | None, int]], known: list[int]) -> None:
        """Enqueue new jobs, with some known ids among them."""
        entries = []
        tasks = self.queue.broker.specials.tasks
        ids = [f"j{self.jobs + number:04}" for number in range(len(jobs))]
        again = [f"j{number:04}" for number in sorted(set(known)) if number < self.jobs]
        self.jobs += len(jobs)
        for job_id, (high, task, due, size) in zip(
            [*again, *ids], [*jobs, *jobs, *jobs], strict=False
        ):
            own = task if task in tasks and not high else None
            where = place("high" if high else "low", task=own)
            self.task.setdefault(job_id, task)
            entries.append(Entry(job_id, where, record(job_id, where, size=size), due))
        self._enqueue(self.queue.request(), entries)

    @rule(which=PICK)
    def enqueue_again(self, which: int) -> None:
        """Let a copy of an earlier call arrive."""
        request, entries = pick(self.enqueues, which)
        self.saw("enqueue repeated", when=request in self.model.requests)
        self._enqueue(request, entries)

    def _enqueue(self, request: str, entries: list[Entry]) -> None:
        version = self.queue.broker.specials.version
        expected = self.model.enqueue(request, entries, version, self.queue.now_ms, full=self.full)
        self.enqueues.append((request, entries))
        try:
            verdicts = self.queue.run(self.queue.broker.enqueue(request, entries))
        except OutOfMemoryError:
            verdicts = "full"
        assert verdicts == expected
        self.saw("enqueue refused when full", when=verdicts == "full")
        self.saw("enqueue with old specials", when=verdicts is None)
        if isinstance(verdicts, list):
            self.saw("enqueued", when=True in verdicts)
            self.saw("duplicate", when=False in verdicts)

    @rule(count=st.integers(1, 3), scheduled=st.booleans())
    def push_foreign(self, count: int, scheduled: bool) -> None:
        """Do what a foreign client does, with plain commands."""
        for _ in range(count):
            job_id = f"j{self.jobs:04}"
            self.jobs += 1
            with self.room_for_the_test():
                if scheduled:
                    self.client.set(self.queue.keys.job(job_id), record(job_id, None))
                    due = self.queue.now_ms / 1000
                    self.client.zadd(self.queue.keys.scheduled, {job_id: due})
                    self.model.scheduled[job_id] = due
                else:
                    self.queue.push_foreign(job_id, HIGH)
                    self.model.common[HIGH].append(job_id)
            self.model.records[job_id] = (record(job_id, None), False)
            self.uncounted.add(job_id)

    # --- workers --------------------------------------------------------------------------------

    @rule(epoch=st.sampled_from(EPOCHS))
    def register(self, epoch: str) -> None:
        """Register an epoch, perhaps one that is gone."""
        answer = self.queue.register(epoch, 15, PLACES)
        call = self.queue.last
        request = str(call.keys[3])

        def expected() -> bool:
            return self.model.register(request, epoch, self.queue.now_ms + 15_000, PLACES)

        assert answer == expected()
        self.keep("register", call, lambda answer: answer == expected())

    @rule(
        epoch=st.sampled_from(EPOCHS),
        places=st.permutations(PLACES).map(lambda order: list(order)[:3]),
        limit=st.sampled_from([1, 2, 3, 8, 100]),
        room=st.sampled_from([1, 300, 700, 1 << 20]),
    )
    def dequeue(self, epoch: str, places: list[str], limit: int, room: int) -> None:
        """Lease a batch."""
        request = self.queue.request()
        self._dequeue(request, epoch, places, limit, room)

    @rule(which=PICK)
    def dequeue_again(self, which: int) -> None:
        """Let a copy of an earlier call arrive."""
        request, epoch, places, limit, room = pick(self.dequeues, which)
        self.saw("dequeue repeated", when=self.model.leases.get(request))
        self._dequeue(request, epoch, places, limit, room)

    def _dequeue(self, request: str, epoch: str, places: list[str], limit: int, room: int) -> None:
        version = self.queue.broker.specials.version
        waiting = sum(len(self.model.common[where]) for where in places)
        expected = self.model.dequeue(request, epoch, places, limit, room, version)
        batch: Batch | Fenced | None = self.queue.dequeue(
            *places, epoch=epoch, limit=limit, room=room, request=request
        )
        self.dequeues.append((request, epoch, places, limit, room))
        if batch is None or isinstance(batch, Fenced):
            assert expected == (None if batch is None else "fenced")
            self.saw("fenced", when=batch)
            return
        assert ids_of(batch) == expected
        for job in batch.jobs:
            data = self.model.records.get(job.job_id.decode(), (None,))[0]
            assert (job.record, job.crashes) == (data, self.model.crashes[job.job_id.decode()])
        if batch.jobs:
            self.tokens[request] = epoch
            self.saw("leased")
            self.saw("dequeue cut by room", when=len(batch.jobs) < min(limit, waiting))

    @rule(which=PICK, outcomes=st.dictionaries(PICK, st.integers(0, 7), min_size=1, max_size=8))
    def settle(self, which: int, outcomes: dict[int, int]) -> None:
        """Settle jobs of a token, old or new, with jobs among them that it never had."""
        live = [token for token in self.tokens if token in self.model.leases]
        token = pick(live + list(self.tokens)[-3:], which)
        held = sorted(self.model.leases[token]) if token in live else []
        settlement = Settlement(token)
        chosen = {pick(held + self.known_ids()[-6:], key): out for key, out in outcomes.items()}
        for job_id, outcome in chosen.items():
            self._decide(settlement, job_id, outcome, ours=job_id in held)
        self._settle(settlement)

    def _settle(self, settlement: Settlement) -> None:
        chosen = settlement.ids()
        token = settlement.request
        stale = self.model.settle(settlement, self.queue.now_ms)
        counted = {job_id.decode() for job_id in settlement.foreign} - stale
        self.uncounted -= counted
        answered = self.queue.run(
            self.queue.broker.settle(self.tokens[token], settlement, RETENTION)
        )
        assert {job_id.decode() for job_id in answered} == stale
        call = self.queue.last
        for job_id, ttl_s, _, _ in settlement.results:
            if job_id.decode() not in stale:
                left_s = self.queue.ttl_s(self.queue.keys.result(job_id.decode()))
                assert ttl_s - 30 <= left_s <= ttl_s
                self.saw("result")

        def fits(numbers: list[int]) -> bool:
            late = self.model.settle(settlement, self.queue.now_ms)
            self.uncounted -= {job_id.decode() for job_id in settlement.foreign} - late
            return len(numbers) == len(late)

        self.keep("settle", call, fits)
        self.saw("settled", when=len(stale) < len(chosen))
        self.saw("stale", when=stale)
        self.saw("stale beside valid", when=0 < len(stale) < len(chosen))
        self.saw("tombstone dropped", when=settlement.forgotten)

    def _decide(  # noqa: C901 - it is flat
        self, s: Settlement, job_id: str, outcome: int, *, ours: bool
    ) -> None:
        raw = job_id.encode()
        if ours and job_id in self.model.cancelled:
            if outcome < 6:
                s.forgotten.append(raw)
            else:
                s.released.append((raw, HIGH))
            return
        if job_id in self.uncounted and outcome < 6:
            s.foreign.append(raw)
        if outcome in {0, 4}:
            s.results.append((raw, RESULT_S, b"over", ("status", b"%d" % outcome)))
        if outcome == 0:
            s.dropped.append(raw)
        elif outcome == 1:
            s.kept.setdefault(90, []).append((raw, self.edit(job_id)))
        elif outcome in (2, 3):
            counter = "retried" if outcome == 2 else "snoozed"
            s.later.append((raw, self.edit(job_id), 600 * outcome, counter))
        elif outcome == 4:
            s.failed.append((raw, self.edit(job_id)))
        elif outcome == 5:
            s.lapsed.append((raw, self.edit(job_id)))
        elif outcome == 6:
            s.released.append((raw, self.record_place(job_id) or HIGH))
        else:
            s.routed.append((raw, LOW))

    @rule(
        epoch=st.sampled_from(EPOCHS), outcomes=st.lists(st.integers(0, 7), min_size=1, max_size=4)
    )
    def work_off(self, epoch: str, outcomes: list[int]) -> None:
        """Lease whatever waits and settle all of it, as a worker does that has nothing to fear."""
        request = self.queue.request()
        self._dequeue(request, epoch, list(PLACES), 100, 1 << 20)
        if request not in self.tokens:
            return
        settlement = Settlement(request)
        for number, job_id in enumerate(sorted(self.model.leases[request])):
            self._decide(settlement, job_id, outcomes[number % len(outcomes)], ours=True)
        self._settle(settlement)

    def keep(self, kind: str, call: Call, fits: Callable[[Any], bool]) -> None:
        """Keep a call, so that a copy of it may come at any time."""

        def send() -> None:
            answer = self.queue.again(call)
            assert fits(answer), f"a copy of {kind} was answered {answer}"

        self.again.append((kind, send))

    @rule(which=PICK)
    def an_old_call_arrives(self, which: int) -> None:
        """Let a copy of any call arrive, byte by byte the same, however long ago it was made."""
        kinds = sorted({kind for kind, _ in self.again})
        if kinds:
            kind = pick(kinds, which)
            pick([send for name, send in self.again if name == kind][-4:], which)()
            self.saw(f"old call: {kind}")

    @rule(epochs=st.lists(st.sampled_from([*EPOCHS, "never"]), min_size=1, max_size=3, unique=True))
    def beat(self, epochs: list[str]) -> None:
        """Beat for epochs, dead and unknown ones too."""
        expected = self.model.beat(epochs, self.queue.now_ms + 15_000)
        assert self.queue.run(self.queue.broker.beat(15, epochs)) == expected

    # --- the warden -----------------------------------------------------------------------------

    @rule()
    def lapsed(self) -> None:
        """Ask who has lapsed."""
        now = self.queue.now_ms
        late = [
            (deadline, epoch) for epoch, deadline in self.model.epochs.items() if deadline <= now
        ]
        found = self.queue.run(self.queue.broker.lapsed()).epochs
        assert found == [epoch for _, epoch in sorted(late)]

    @rule(
        epoch=st.sampled_from(EPOCHS),
        proven=st.booleans(),
        limit=st.sampled_from([1, 3, 500]),
        place_all=st.booleans(),
        deaths=st.lists(PICK, max_size=2),
    )
    def reclaim(
        self, epoch: str, proven: bool, limit: int, place_all: bool, deaths: list[int]
    ) -> None:
        """Take one step of giving an epoch's jobs back."""
        held = self.model.leased_ids(epoch)
        charged = {pick(sorted(held), number) for number in deaths if held}
        named = self._named(held) if place_all else {}
        deadline = self.model.epochs.get(epoch)
        step: GiveBack = self.queue.run(
            self.queue.broker.reclaim(
                epoch,
                proven=proven,
                charged=[job_id.encode() for job_id in sorted(charged)],
                placed=named,
                limit=limit,
            )
        )
        if deadline is None and not held:
            assert (step.state, step.moved) == ("gone", 0)
        elif deadline is not None and not proven and deadline > self.queue.now_ms:
            assert (step.state, step.moved) == ("alive", 0)
            self.saw("alive")
        else:
            moved, place_of = self._check_give_back(step, held, named, limit)
            assert self.model.reclaim(epoch, moved, place_of, charged) == step.state
            self.saw("reclaimed in part", when=moved and step.state == "more")
            self.saw("reclaimed whole", when=moved and step.state == "done")

    @rule(
        epoch=st.sampled_from(EPOCHS),
        limit=st.sampled_from([1, 3, 500]),
        place_all=st.booleans(),
        knows=st.lists(st.booleans(), min_size=1, max_size=5),
    )
    def reconcile(self, epoch: str, limit: int, place_all: bool, knows: list[bool]) -> None:
        """Give back what a process does not know of."""
        tokens = sorted(token for token, owner in self.model.owners.items() if owner == epoch)
        unknown = [token for number, token in enumerate(tokens) if not pick(knows, number)]
        lost = {job_id for token in unknown for job_id in self.model.leases[token]}
        named = self._named(lost) if place_all else {}
        step: GiveBack = self.queue.run(
            self.queue.broker.reconcile(epoch, unknown, named, limit=limit)
        )
        if not self.model.epochs.get(epoch):
            assert (step.state, step.moved) == ("fenced", 0)
            return
        moved, place_of = self._check_give_back(step, lost, named, limit)
        assert step.state == ("more" if lost else "done")
        self.model.give_back(moved, place_of)
        self.model.counters["reconciled"] += len(moved)
        self.saw("reconciled", when=moved)

    def _named(self, ids: set[str]) -> dict[bytes, str]:
        return {job_id.encode(): HIGH for job_id in ids if self.record_place(job_id) is None}

    def _check_give_back(
        self, step: GiveBack, held: set[str], named: dict[bytes, str], limit: int
    ) -> tuple[set[str], dict[str, str]]:
        place_of = self.places_of(held, named)
        still = {
            job_id.decode()
            for token in self.model.owners
            for job_id in self.client.smembers(self.queue.keys.lease(token))
        }
        moved = held - still
        unplaced = {job_id.decode() for job_id in step.unplaced}
        assert len(moved) == step.moved
        assert len(moved) + len(unplaced) == min(limit, len(held))
        assert moved <= place_of.keys()
        assert unplaced <= held - place_of.keys()
        self.saw("unplaced", when=unplaced)
        return moved, place_of

    @rule(limit=st.sampled_from([1, 3, 500]), place_all=st.booleans(), looked_before=st.booleans())
    def promote(self, limit: int, place_all: bool, looked_before: bool) -> None:
        """Move due jobs, as a scheduler that has just looked where they belong, or long ago."""
        scheduled = set(self.model.scheduled)
        if not looked_before:
            self.named = self._named(scheduled) if place_all else {}
        named = self.named
        place_of = {
            job_id: where
            for job_id, where in self.places_of(scheduled, named).items()
            if job_id in scheduled
        }
        now = self.queue.now_ms
        expected = self.model.promote((HIGH, LOW), place_of, limit, now)
        step: Promotion = self.queue.run(self.queue.broker.promote((HIGH, LOW), named, limit=limit))
        assert (step.moved, [job_id.decode() for job_id in step.unplaced]) == expected
        first = min(self.model.scheduled.values(), default=None)
        if first is None:
            assert step.wait_ms is None
        else:
            assert step.wait_ms is not None
            assert abs(step.wait_ms - max(0, first * 1000 - now)) <= 1
        self.saw("promoted", when=step.moved)
        self.saw("unplaced", when=step.unplaced)

    @rule(limit=st.sampled_from([1, 500]), retention_s=st.sampled_from([0, 0, 3]))
    def prune(self, limit: int, retention_s: int) -> None:
        """Drop what failed long ago."""
        with self.room_for_the_test():
            self.queue.now_ms += 1
        expected = self.model.prune(retention_s * 1000, limit, self.queue.now_ms)
        assert self.queue.run(self.queue.broker.prune(retention_s, limit=limit)) == expected
        self.saw("pruned", when=expected)

    # --- operators ------------------------------------------------------------------------------

    @rule(which=PICK, ttl_s=st.sampled_from([0, 60]))
    def cancel(self, which: int, ttl_s: int) -> None:
        """Cancel a job, as its record and an older one let it seem right."""
        live = [job_id for job_id, (_, ends) in sorted(self.model.records.items()) if not ends]
        if self.model.records:
            self._cancel(pick(live or sorted(self.model.records), which), ttl_s)

    def _cancel(self, job_id: str, ttl_s: int) -> None:
        seen = self.model.records[job_id][0]
        if job_id in self.model.cancelled or self.model.records[job_id][1]:
            seen = b"an older record"
        foreign = job_id in self.uncounted
        scheduled = job_id in self.model.scheduled
        cancelled = self.edit(job_id)
        expected = self.model.cancel(job_id, seen, cancelled, ttl_s, foreign=foreign)
        answer = self.queue.run(
            self.queue.broker.cancel(job_id, seen, cancelled, ttl_s=ttl_s, foreign=foreign)
        )
        assert answer == expected

        def fits(again: bytes) -> bool:
            said = self.model.cancel(job_id, seen, cancelled, ttl_s, foreign=foreign)
            self.uncounted -= {job_id} if said == "cancelled" else set()
            return again.decode() == said

        self.keep("cancel", self.queue.last, fits)
        if answer == "cancelled":
            self.uncounted.discard(job_id)
            self.saw("cancelled")
            self.saw("cancelled while scheduled", when=scheduled)
        self.saw(f"not cancelled: {answer}", when=answer != "cancelled")

    @rule(which=st.lists(PICK, min_size=1, max_size=3), strangers=st.booleans())
    def revive(self, which: list[int], strangers: bool) -> None:
        """Let failed jobs run again, perhaps named twice, or with others that did not fail."""
        dead = sorted(self.model.dead) or self.known_ids()
        ids = [pick(dead, number) for number in which] + self.known_ids()[-2:] * strangers
        jobs = [(job_id, record(job_id, LOW, revived=len(ids))) for job_id in ids]
        missing = self.queue.run(self.queue.broker.revive(LOW, jobs))
        request = str(self.queue.last.keys[5])
        expected = self.model.revive(request, LOW, jobs)
        assert missing == expected
        self.keep(
            "revive",
            self.queue.last,
            lambda answer: [ids[n - 1] for n in answer] == self.model.revive(request, LOW, jobs),
        )
        self.saw("revived", when=len(expected) < len(ids))

    @rule(which=st.lists(PICK, min_size=1, max_size=3))
    def purge(self, which: list[int]) -> None:
        """Delete failed jobs, perhaps named twice, and others that did not fail."""
        dead = sorted(self.model.dead) or self.known_ids()
        ids = [pick(dead, number) for number in which] + self.known_ids()[-1:]
        count = self.queue.run(self.queue.broker.purge(ids))
        request = str(self.queue.last.keys[2])
        expected = self.model.purge(request, ids)
        assert count == expected
        self.keep("purge", self.queue.last, lambda answer: answer == self.model.purge(request, ids))
        self.saw("purged", when=expected)

    @rule()
    def failed_records_expire(self) -> None:
        """Let the TTL of failed jobs' records end before their entries are pruned."""
        for job_id in self.model.dead:
            if self.model.records.get(job_id, (b"", False))[1]:
                self.client.delete(self.queue.keys.job(job_id))
                del self.model.records[job_id]

    # --- tasks with lists of their own ----------------------------------------------------------

    @rule(tasks=st.sets(st.sampled_from(TASKS)), ttl_s=st.sampled_from([1, 10]))
    def specialise(self, tasks: set[str], ttl_s: int) -> None:
        """Let another worker keep, or drop, lists of their own."""
        other = self.queue.new_broker()
        self.model.specialise(sorted(tasks), self.queue.now_ms, ttl_s * 1000)
        found = self.queue.run(other.specialise(ttl_s, sorted(tasks)))
        assert found == Specials(str(self.model.version), frozenset(self.model.specials))

    @rule(count=st.integers(1, 5))
    def look_at_low(self, count: int) -> None:
        """Decide where the oldest of the common list belong."""
        decisions: list[tuple[str, str | None]] = []
        for job_id in self.model.common[LOW][:count]:
            task = self.task.get(job_id)
            own = task in self.model.specials
            decisions.append((job_id, place("low", task=task) if own else None))
        self.view = decisions

    @rule(look_again=st.booleans())
    def sort_low(self, look_again: bool) -> None:
        """Move by the last decisions, however old, or by fresh ones."""
        if look_again or not self.view:
            self.look_at_low(3)
        if not self.view:
            return
        expected = self.model.sort(LOW, self.view)
        jobs = [(job_id.encode(), where) for job_id, where in self.view]
        moved = self.queue.run(self.queue.broker.sort(LOW, jobs, sorted_place=LOW))
        assert moved == expected
        self.saw("sorted", when=moved)

    @rule(task=st.sampled_from(TASKS), limit=st.sampled_from([1, 2, 1000]))
    def merge(self, task: str, limit: int) -> None:
        """Give a task's own list up, one step."""
        source = place("low", task=task)
        expected = self.model.merge(source, LOW, limit)
        moved = self.queue.run(
            self.queue.broker.merge(self.queue.keys.waiting(source), LOW, limit=limit)
        )
        assert moved == expected
        self.saw("merged", when=moved)

    @rule(
        places=st.lists(st.sampled_from(PLACES), min_size=1, unique=True), knows_all=st.booleans()
    )
    def vacate(self, places: list[str], knows_all: bool) -> None:
        """Forget places, with an old or a new look at the workers."""
        known = sorted(self.model.workers)[: None if knows_all else 1]
        expected = self.model.vacate(places, known)
        forgotten = self.queue.run(
            self.queue.broker.vacate(places, [epoch.encode() for epoch in known])
        )
        assert forgotten == expected
        self.saw("places forgotten", when=forgotten > 0)
        self.saw("places kept: another worker came", when=forgotten < 0)

    # --- always ---------------------------------------------------------------------------------

    @invariant()
    def server_holds_what_the_model_says(self) -> None:
        """Compare everything, and the audit with the foreign jobs that wait."""
        assert State.read(self.queue.snapshot()).canonical() == self.model.canonical()
        if self.model.places >= {HIGH}:  # the audit sees foreign jobs where a worker registered
            assert self.queue.drift() == len(self.uncounted)

    def _drain(self) -> None:
        """Give everything back, lease it, end it; then nothing is left but history."""
        queue = self.queue
        run = queue.run
        for epoch in EPOCHS:
            placed = self._named(set(self.known_ids()))
            for _ in range(100):
                if run(queue.broker.reclaim(epoch, proven=True, placed=placed)).state != "more":
                    break
            else:
                raise AssertionError(f"reclaim never ends for {epoch}")
        queue.now_ms = END_MS
        run(queue.broker.specialise(1))
        run(queue.broker.promote(placed=self._named(set(self.known_ids()))))
        queue.register("last", places=PLACES)
        started: Counter[str] = Counter()
        tombstones = self.client.smembers(queue.keys.cancelled)
        while (batch := queue.dequeue(*PLACES, epoch="last", limit=50)).jobs:
            started.update(ids_of(batch))
            settlement = Settlement(batch.request)
            for job in batch.jobs:
                ends = settlement.forgotten if job.job_id in tombstones else settlement.dropped
                ends.append(job.job_id)
                if job.job_id.decode() in self.uncounted:
                    settlement.foreign.append(job.job_id)
            assert run(queue.broker.settle("last", settlement, RETENTION)) == []
        run(queue.broker.prune(1))
        audit = run(queue.broker.audit())
        assert set(started.values()) <= {1}, "a job was in two places"
        assert (audit.waiting, audit.scheduled, audit.leased, audit.dead) == (0, 0, 0, 0)
        assert audit.cancelled_waiting == 0
        assert audit.drift == 0


class _Room:
    """Lifts the limit of a full server while the test itself writes."""

    def __init__(self, client: Redis, full: bool) -> None:
        self.client = client
        self.full = full

    def __enter__(self) -> None:
        if self.full:
            self.client.config_set("maxmemory", 0)

    def __exit__(self, *_: object) -> None:
        if self.full:
            self.client.config_set("maxmemory", 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_order_of_all_scripts(server_kind: Kind, make_server: Callable[..., Server]) -> None:
    """Conservation, order, fencing and idempotence hold over any sequence of transitions."""
    with make_server(server_kind).client() as client:
        Machine.client = client
        Machine.reached = Counter()
        for number in range(ROUNDS):
            if settings().derandomize:  # under CI, where rounds of one seed would be one round
                seed(number)(Machine)
            run_state_machine_as_test(
                Machine,
                settings=settings(max_examples=60, stateful_step_count=50, deadline=None),
            )
            never = [event for event in SOMETIMES if not Machine.reached[event]]
            if not never:
                break
    assert never == []


#: Defects that only some order of calls, a full server or a fall back shows: (file, text, instead).
MUTANTS: dict[str, tuple[str, str, str]] = {
    "settle writes before it removes": (
        "settle.lua",
        "local leaving = redis.call('SREM'",
        "redis.call('HINCRBY', KEYS[3], 'completed', 0)\nlocal leaving = redis.call('SREM'",
    ),
    "settle keeps what a job's crashes were": (
        "settle.lua",
        "if crashed and #cleared > 0 then redis.call('HDEL', KEYS[6], unpack(cleared)) end\n",
        "",
    ),
    "settle tells results of jobs it does not hold": (
        "settle.lua",
        "if held[tonumber(ARGV[at])] == 1 then\n        -- pcall",
        "if true then\n        -- pcall",
    ),
    "enqueue does not look at the specials": (
        "enqueue.lua",
        "if version ~= ARGV[2] then",
        "if false then",
    ),
    "sort leaves one behind": ("sort.lua", "0, -1 - count)", "0, -count)"),
    "merge puts the jobs behind": ("merge.lua", "'RPUSH', KEYS[2]", "'LPUSH', KEYS[2]"),
    "prune takes the youngest": (
        "prune.lua",
        "'-inf', '(' .. before,",
        "'(' .. before, '+inf',",
    ),
    "revive answers a copy anew": ("revive.lua", "if answer then", "if false then"),
    "vacate does not look at the workers": (
        "vacate.lua",
        "if not known[epoch] then return -1 end",
        "",
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_the_machine_finds_defects(make_server: Callable[..., Server], name: str) -> None:
    """A script with a defect does not get through as many runs as the scripts have to."""
    file, text, instead = MUTANTS[name]
    source = (files("bananas") / "lua" / file).read_text()
    assert source.count(text) == 1, "the script has changed: let the mutant follow it"
    mutated = load_all({"lib/now.lua": CLOCK, file: source.replace(text, instead)})

    class Mutated(Machine):
        scripts = guarded_scripts(mutated)
        reached: ClassVar[Counter[str]] = Counter()

    with make_server().client() as client:
        Mutated.client = client
        with pytest.raises((AssertionError, RedisError)):
            run_state_machine_as_test(
                Mutated,
                settings=settings(
                    max_examples=ROUNDS * 60,
                    stateful_step_count=50,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    report_multiple_bugs=False,
                ),
            )
