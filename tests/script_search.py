"""The scripts as they are shipped, searched: every order of calls on two jobs and two epochs.

A state is what a real server holds, read by one script and put back by another, in a form in
which states that mean the same are the same: sets without order, times as "ahead" or "past",
epochs and requests without names.  `Searched.steps` puts a state on the server, makes one
call of the real broker with the real script, and reads what became of it; all the calls of
a state travel in one write.  `search` in `breadth_first.py` does the rest.

What a call may do is checked without a model of it: a job is in one place, the counters
agree, what has ended stays ended, and a call whose guard does not hold (a token that holds
nothing, an epoch that is fenced, a request that was answered before) changes nothing at all.
"""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import hiredis
import orjson

from bananas.broker import Broker, Entry, Retention, Settlement
from bananas.keys import Keys
from bananas.scripts import load_all
from bare_queue import CLOCK, CLOCK_KEY, NORMAL, START_MS, record
from breadth_first import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    from bananas.scripts import Script
    from servers import Server

# --- what is promised -----------------------------------------------------------------------------

PLACEMENT: Final = "I1 placement: an accepted job is not in exactly one place"
CONSERVATION: Final = "I2 conservation: the counters disagree with what is there"
FENCING: Final = "I3 fencing: a call without a right to it changed something"
FINALITY: Final = "I4 finality: an ended job is somewhere again"
BOOKKEEPING: Final = "bookkeeping: a lease without its epoch, or an epoch without its lease"
IDEMPOTENCE: Final = "idempotence: a copy of a call that took effect changed something"
ANSWERS: Final = "answers: the answer does not tell what is there"
WAKING: Final = "waking: a job waits in a list and nobody was told"
ATOMICITY: Final = "atomicity: a call failed"

EPOCHS: Final = ("e1", "e2")
EXTRA: Final = "s:extra"
"""A key that mutants of the scripts may use."""

_LEASE_MS: Final = 15_000
_DRAWS: Final = 3
_RETENTION: Final = Retention(completed_s=0, failed_s=900)


class Slot(NamedTuple):
    """One request of an epoch."""

    ids: str = ""  # what it has leased
    answered: bool = False  # says the server's memory
    made: bool = False  # in truth: a copy of it may still come


class Epoch(NamedTuple):
    """One process epoch; it has no name, so that two that could be exchanged are one case."""

    status: str = ""  # "" = gone, ahead, past, fenced
    registered: bool = False  # says the server's memory
    made: bool = False  # in truth
    slots: tuple[Slot, ...] = ()


class Job(NamedTuple):
    """One job: where it is, and what has become of it in truth."""

    fate: str = "new"  # new, live, cancelled (and not met yet), ended
    where: str = ""  # "", list, due, later, dead, leased
    record: str = ""  # "", live, failed, cancelled; with a "+" it has a TTL
    tombstone: bool = False


class State(NamedTuple):
    """All under the prefix, without names and times."""

    jobs: tuple[Job, ...]
    waiting: str = ""  # the next one first
    epochs: tuple[Epoch, ...] = ()
    answered: frozenset[str] = frozenset()  # other requests, says the server's memory
    made: frozenset[str] = frozenset()  # in truth
    place_known: bool = False
    extra: str = ""  # what a mutant has read

    def canonical(self) -> State:
        """Return the state in its one form."""
        epochs = (epoch._replace(slots=tuple(sorted(epoch.slots))) for epoch in self.epochs)
        return self._replace(epochs=tuple(sorted(epochs)))

    def core(self) -> tuple[object, ...]:
        """Return it without memories: what a call without a right to it may not change."""
        epochs = [(e.status, [slot.ids for slot in e.slots]) for e in self.epochs]
        return self.jobs, self.waiting, epochs


@dataclass(frozen=True)
class Scope:
    """How much of it is visited."""

    jobs: int = 2
    slots: int = 2  # requests of one epoch at a time
    outcomes: tuple[str, ...] = ("complete", "later", "fail", "release", "lapse")
    operator: tuple[str, ...] = ()  # of cancel, revive, purge


@dataclass
class Call:
    """One call on one state, and what it may do there."""

    label: str
    words: Callable[[], tuple[Any, ...]]
    may: bool  # whether it may change anything but memories
    otherwise: str = FENCING  # the promise that it breaks when it may not, and does
    helps: bool = True  # a step that a fleet without faults takes
    touches: str = ""  # the jobs that it may change
    ends: dict[str, str] = field(default_factory=dict)  # job -> its fate thereafter
    request: str = ""  # remembered, and made once
    slot: tuple[int, int] | None = None
    check: Callable[[Any, State], bool] | None = None  # of the answer, and what it led to
    lie: str = ANSWERS  # the promise that it breaks otherwise


class _CaughtError(Exception):
    """Not an error: how a call is looked at instead of being sent."""

    def __init__(self, words: tuple[Any, ...]) -> None:
        super().__init__()
        self.words = words


class _Looker:
    """A transport that shows what would be sent."""

    async def call(self, script: Script, keys: Sequence[Any] = (), args: Sequence[Any] = ()) -> Any:  # noqa: ANN401
        raise _CaughtError((b"EVALSHA", script.sha, len(keys), *keys, *args))


def _words_of(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, ...]:
    """Return the words of the one call that a broker method makes."""
    try:
        coroutine.send(None)
    except _CaughtError as caught:
        return caught.words
    raise AssertionError("no call was made")


class Wire:
    """A connection on which many commands leave in one write."""

    def __init__(self, path: str) -> None:
        """Connect."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60.0)
        self._socket.connect(path)
        self._reader = hiredis.Reader()

    def send(self, commands: list[bytes]) -> list[Any]:
        """Return the answers; errors are among them."""
        self._socket.sendall(b"".join(commands))
        answers: list[Any] = []
        while len(answers) < len(commands):
            answer = self._reader.gets()
            if answer is False:
                self._reader.feed(self._socket.recv(1 << 18))
            else:
                answers.append(answer)
        return answers

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def _pack(*words: Any) -> bytes:  # noqa: ANN401
    return hiredis.pack_command(words)


#: After `local keys = {…}`, all that there may be: ARGV[1] = the commands that make what is to be.
_RESTORE = """
redis.call('DEL', unpack(keys))
for _, command in ipairs(cjson.decode(ARGV[1])) do redis.call(unpack(command)) end
return 'restored'
"""
_RESTORED: Final = b"restored"

#: After `local keys = {…}`: returns {number of the key, content, has a TTL} of each that is there.
_LOOK = """
local found = {}
local read = {
  string = function(key) return redis.call('GET', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  set = function(key) return redis.call('SMEMBERS', key) end,
  hash = function(key) return redis.call('HGETALL', key) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
}
for i, key in ipairs(keys) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' then found[#found + 1] = {i, read[kind](key), redis.call('PTTL', key) >= 0} end
end
return cjson.encode(found)
"""


class _Seen(NamedTuple):
    """What a server holds, before anything is known of how that came about."""

    jobs: tuple[Job, ...]  # without their fates
    copies: tuple[int, ...]  # of each job, in all places
    waiting: str
    epochs: tuple[Epoch, ...]  # without what was made
    answered: frozenset[str]
    place_known: bool
    extra: str
    woken: bool
    broken: str  # the promise that it breaks whatever came before


class Searched:
    """The scripts on one server of their own."""

    def __init__(
        self, server: Server, scope: Scope, instead: Mapping[str, str] | None = None
    ) -> None:
        """Load the scripts; `instead` has texts to take in place of files, as `load_all` takes."""
        self.scope = scope
        self.names = "AB"[: scope.jobs]
        self.requests = [
            [f"{epoch}-r{number}" for number in range(scope.slots)] for epoch in EPOCHS
        ]
        self._keys = Keys("s")
        scripts = load_all({"lib/now.lua": CLOCK, **(instead or {})})
        self._broker = Broker(_Looker(), self._keys, scripts)  # type: ignore[arg-type]
        self._records = {
            (name, kind): record(name) if kind == "live" else record(name, status=kind)
            for name in self.names
            for kind in ("live", "failed", "cancelled")
        }
        self._kinds = {data: kind for (_, kind), data in self._records.items()}
        self._all = self._all_keys()
        self._packed: dict[str, bytes] = {}
        self._seen: dict[bytes, _Seen] = {}
        named = "local keys = {" + ", ".join(f"'{key}'" for key in self._all) + "}\n"
        self._wire = Wire(str(server.socket))
        sources = [getattr(scripts, name).source for name in type(scripts).__slots__]
        answers = self._wire.send(
            [_pack("FLUSHALL"), _pack("SET", CLOCK_KEY, START_MS)]
            + [
                _pack("SCRIPT", "LOAD", source)
                for source in (named + _RESTORE, named + _LOOK, *sources)
            ]
        )
        for answer in answers:
            assert not isinstance(answer, Exception), answer
        self._restore, look = answers[2:4]
        self._looking = _pack("EVALSHA", look, 0)

    def close(self) -> None:
        """Leave the server."""
        self._wire.close()

    def start(self) -> State:
        """Nothing is there yet."""
        return State(
            jobs=tuple(Job() for _ in self.names),
            epochs=tuple(Epoch(slots=(Slot(),) * self.scope.slots) for _ in EPOCHS),
        )

    @staticmethod
    def is_end(state: State) -> bool:
        """Whether every job has ended, well or in the dead-letter queue."""
        return all(job.fate == "ended" or job.where == "dead" for job in state.jobs)

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Make every call on the state, and judge what became of it."""
        # first what may change nothing: it needs no new beginning, and if it does, here it ends
        calls = sorted(self._calls(state), key=lambda call: call.may)
        restoring, core = self._restoring(state), state.core()
        commands = []
        for number, call in enumerate(calls):
            if call.label not in self._packed:
                self._packed[call.label] = _pack(*call.words())
            if number == 0 or calls[number - 1].may:
                commands.append(restoring)
            commands += (self._packed[call.label], self._looking)
        answers = [answer for answer in self._wire.send(commands) if answer != _RESTORED]
        for call, answer, seen in zip(calls, answers[::2], answers[1::2], strict=True):
            after, broken = self._judge(state, core, call, answer, seen)
            yield Step(call.label, after.canonical(), not call.helps, broken)
        later = _time_passes(state)
        if later != state:
            yield Step("time: a minute passes", later.canonical())

    # --- putting a state there --------------------------------------------------------------------

    def _all_keys(self) -> list[str]:
        keys = self._keys
        names = [keys.waiting(NORMAL), keys.wake(NORMAL), keys.sorted(NORMAL)]
        names += [keys.scheduled, keys.dead, keys.epochs, keys.counters, keys.cancelled]
        names += [keys.places(), keys.workers, keys.crashes, EXTRA]
        names += [keys.job(name) for name in self.names]
        names += [keys.epoch_leases(epoch) for epoch in EPOCHS]
        for request in (request for requests in self.requests for request in requests):
            names += [keys.lease(request), keys.request(request)]
        single = [f"{kind} {name}" for kind in ("revive", "purge") for name in self.names]
        registers = [f"register {epoch}" for epoch in EPOCHS]
        return names + [
            keys.request(name) for name in ("enqueue", "enqueue again", *single, *registers)
        ]

    def _restoring(self, state: State) -> bytes:
        commands = orjson.dumps(list(self._commands(state)))
        return _pack("EVALSHA", self._restore, 0, commands)

    def _commands(self, state: State) -> Iterator[list[Any]]:
        keys = self._keys
        if state.waiting:
            yield ["RPUSH", keys.waiting(NORMAL), *reversed(state.waiting)]
        for name, job in zip(self.names, state.jobs, strict=True):
            yield from self._commands_of_job(name, job)
        for number, epoch in enumerate(state.epochs):
            yield from self._commands_of_epoch(number, epoch)
        for name in state.answered:
            answer = {"enqueue": "", "purge A": "=1", "purge B": "=1"}.get(name, "=")
            yield ["SET", keys.request(name), answer, "PX", 60_000]
        if state.extra:
            yield ["SADD", EXTRA, *state.extra]
        if state.place_known:
            yield ["SADD", keys.places(), NORMAL]
        accepted = sum(job.fate != "new" for job in state.jobs)
        if accepted:
            gone = sum(job.fate in {"ended", "cancelled"} for job in state.jobs)
            yield ["HSET", keys.counters, "accepted", accepted, "completed", gone]

    def _commands_of_epoch(self, number: int, epoch: Epoch) -> Iterator[list[Any]]:
        keys, name, requests = self._keys, EPOCHS[number], self.requests[number]
        if epoch.status:
            deadline = {"ahead": START_MS + _LEASE_MS, "past": START_MS - 1, "fenced": 0}
            yield ["ZADD", keys.epochs, deadline[epoch.status], name]
            yield ["HSET", keys.workers, name, "{}"]
        if epoch.registered:
            yield ["SET", keys.request(f"register {name}"), "=", "PX", 60_000]
        for request, slot in zip(requests, epoch.slots, strict=True):
            if slot.ids:
                yield ["SADD", keys.lease(request), *slot.ids]
                yield ["SADD", keys.epoch_leases(name), request]
            if slot.answered:
                yield ["SET", keys.request(request), "1", "PX", 60_000]

    def _commands_of_job(self, name: str, job: Job) -> Iterator[list[Any]]:
        keys = self._keys
        if job.record:
            data = self._records[name, job.record.rstrip("+")].decode()
            has_ttl = job.record.endswith("+")
            yield ["SET", keys.job(name), data, *(["PX", 900_000] if has_ttl else [])]
        if job.where in {"due", "later"}:
            yield ["ZADD", keys.scheduled, START_MS // 1000 + (1, -1)[job.where == "due"], name]
        elif job.where == "dead":
            yield ["ZADD", keys.dead, START_MS // 1000 - 1, name]
        if job.tombstone:
            yield ["SADD", keys.cancelled, name]

    # --- reading what became of it ----------------------------------------------------------------

    def _judge(
        self,
        before: State,
        core: tuple[object, ...],
        call: Call,
        answer: Any,  # noqa: ANN401
        raw: bytes,
    ) -> tuple[State, str]:
        """Return what became of a state, and the promise that was broken on the way."""
        if isinstance(answer, Exception):
            return before, f"{ATOMICITY}: {answer}"
        if raw not in self._seen:
            self._seen[raw] = self._read(raw)
        seen = self._seen[raw]
        after, broken = self._follow(before, call, seen)
        changed = after.core() != core
        if changed and not call.may:
            broken = call.otherwise
        broken = broken or self._wrong(before, after, call, answer, woken=seen.woken)
        return _note_made(after, call) if changed else after, broken

    @staticmethod
    def _follow(before: State, call: Call, seen: _Seen) -> tuple[State, str]:
        """Return what is there together with what is true of it, and the promise it breaks."""
        jobs, broken = [], seen.broken
        names = "AB"[: len(seen.jobs)]
        for name, job, found, copies in zip(
            names, before.jobs, seen.jobs, seen.copies, strict=True
        ):
            fate = call.ends.get(name, job.fate) if call.may else job.fate
            if copies != (fate in {"live", "cancelled"}):
                broken = FINALITY if fate == "ended" and copies else PLACEMENT
            jobs.append(Job(fate, *found[1:]))
        epochs = tuple(
            Epoch(
                found.status,
                found.registered,
                epoch.made,
                tuple(
                    Slot(slot.ids, slot.answered, old.made)
                    for slot, old in zip(found.slots, epoch.slots, strict=True)
                ),
            )
            for found, epoch in zip(seen.epochs, before.epochs, strict=True)
        )
        after = State(
            tuple(jobs),
            seen.waiting,
            epochs,
            seen.answered,
            before.made,
            seen.place_known,
            seen.extra,
        )
        return after, broken

    def _read(self, raw: bytes) -> _Seen:
        keys = self._keys
        found = {self._all[n - 1]: (content, has_ttl) for n, content, has_ttl in orjson.loads(raw)}

        def texts(key: str) -> list[str]:
            return list(found[key][0]) if key in found else []

        def scores(key: str) -> dict[str, float]:
            values = texts(key)
            return dict(zip(values[::2], map(float, values[1::2]), strict=True))

        waiting = [*texts(keys.waiting(NORMAL)), *texts(keys.sorted(NORMAL))][::-1]
        scheduled, dead = scores(keys.scheduled), scores(keys.dead)
        deadlines = scores(keys.epochs)
        tombstones = texts(keys.cancelled)
        places = Counter([*waiting, *scheduled, *dead])
        epochs, broken = [], ""
        for name, requests in zip(EPOCHS, self.requests, strict=True):
            slots = tuple(
                Slot("".join(sorted(texts(keys.lease(request)))), keys.request(request) in found)
                for request in requests
            )
            places.update("".join(slot.ids for slot in slots))
            status = _status(deadlines.get(name))
            holding = {r for r, slot in zip(requests, slots, strict=True) if slot.ids}
            if holding != set(texts(keys.epoch_leases(name))) or (holding and not status):
                broken = BOOKKEEPING
            registered = keys.request(f"register {name}") in found
            epochs.append(Epoch(status, registered, slots=slots))
        leased = {job_id for epoch in epochs for slot in epoch.slots for job_id in slot.ids}
        jobs = []
        for name in self.names:
            data, has_ttl = found.get(keys.job(name), ("", False))
            kind = self._kinds[data.encode()] + "+" * has_ttl if data else ""
            where = _where(name, waiting, scheduled, dead, leased)
            jobs.append(Job("", where, kind, name in tombstones))
        counts = texts(keys.counters)
        counters = Counter(dict(zip(counts[::2], map(int, counts[1::2]), strict=True)))
        gone = sum(counters[name] for name in ("completed", "cancelled", "expired", "purged"))
        if places.total() - len(tombstones) + gone != counters["accepted"]:
            broken = broken or CONSERVATION
        single = (f"{kind} {name}" for kind in ("revive", "purge") for name in self.names)
        return _Seen(
            tuple(jobs),
            tuple(places[name] for name in self.names),
            "".join(waiting),
            tuple(epochs),
            frozenset(name for name in ("enqueue", *single) if keys.request(name) in found),
            NORMAL in texts(keys.places()),
            "".join(sorted(texts(EXTRA))),
            keys.wake(NORMAL) in found,
            broken,
        )

    def _wrong(
        self,
        before: State,
        after: State,
        call: Call,
        answer: Any,  # noqa: ANN401
        *,
        woken: bool,
    ) -> str:
        """Return the promise that this transition breaks."""
        for name, old, new in zip(self.names, before.jobs, after.jobs, strict=True):
            if old != new and name not in call.touches:
                return FENCING
        if call.check is not None and not call.check(answer, after):
            return call.lie
        more = set(after.waiting) - set(before.waiting)
        left = after.waiting and len(after.waiting) < len(before.waiting)
        return WAKING if (more or left) and not woken else ""

    # --- the calls --------------------------------------------------------------------------------

    def _calls(self, state: State) -> Iterator[Call]:
        yield from self._enqueues(state)
        for number, epoch in enumerate(state.epochs):
            yield from self._calls_of_epoch(state, number, epoch)
            for index, slot in enumerate(epoch.slots):
                if slot.ids or slot.made:
                    yield from self._settles(state, (number, index), slot)
        for limit in range(1, len(self.names) + 1):
            due = "".join(
                n for n, job in zip(self.names, state.jobs, strict=True) if job.where == "due"
            )
            yield Call(
                f"promote: up to {limit}",
                lambda limit=limit: _words_of(self._broker.promote((NORMAL,), limit=limit)),
                may=bool(due),
                touches=due,
            )
        for name, job in zip(self.names, state.jobs, strict=True):
            yield from self._operated(state, name, job)

    def _enqueues(self, state: State) -> Iterator[Call]:
        names = self.names
        entries = [Entry(name, NORMAL, self._records[name, "live"]) for name in names]
        made = "enqueue" in state.made
        if made or all(job.fate == "new" for job in state.jobs):
            yield Call(
                "enqueue: all",
                lambda: _words_of(self._broker.enqueue("enqueue", entries)),
                may=not made,
                otherwise=IDEMPOTENCE,
                touches=names,
                ends=dict.fromkeys(names, "live"),
                request="enqueue",
                check=lambda answer, _: answer == [0, b""],
            )
        if state.jobs[0].record:
            yield Call(
                "enqueue: A under another request",
                lambda: _words_of(self._broker.enqueue("enqueue again", entries[:1])),
                may=False,
                otherwise=IDEMPOTENCE,
                helps=False,
                check=lambda answer, _: answer == [0, b"d"],
            )

    def _calls_of_epoch(self, state: State, number: int, epoch: Epoch) -> Iterator[Call]:
        name, broker = EPOCHS[number], self._broker
        lives = epoch.status in {"ahead", "past"}
        held = "".join(slot.ids for slot in epoch.slots)
        if not epoch.status or epoch.made:
            yield Call(
                f"register: {name}",
                lambda: self._under(f"register {name}", broker.register(name, 15, {}, [NORMAL])),
                may=epoch.status == "past" or not (epoch.status or epoch.made),
                otherwise=IDEMPOTENCE if epoch.made else FENCING,
                helps=not epoch.made,
                request=f"register {name}",
            )
        yield Call(
            f"beat: {name}",
            lambda: _words_of(broker.beat(15, [name])),
            may=epoch.status == "past",
            helps=False,
            check=lambda answer, _: answer == [int(lives)],
        )
        fresh = next((i for i, slot in enumerate(epoch.slots) if slot == Slot()), None)
        for index, slot in enumerate(epoch.slots):
            if index == fresh or slot.made:
                yield from self._dequeues(state, (number, index), lives=lives)
        for limit, draw in self._limits(epoch.slots):
            # where its deadline has passed, proof of its death changes nothing
            for proven in (False, True)[: 1 + (epoch.status == "ahead")]:
                yield Call(
                    f"reclaim: {name}, {'proven' if proven else 'lapsed'}, up to {limit}{draw}",
                    lambda limit=limit, proven=proven: _words_of(
                        broker.reclaim(name, proven=proven, limit=limit)
                    ),
                    may=epoch.status in {"past", "fenced"} or (proven and lives),
                    helps=not (proven and lives),
                    touches=held,
                    check=lambda answer, after: self._is_fenced(answer, after, number),
                    lie=FENCING,
                )
        for other, requests in enumerate(self.requests):
            for index, request in enumerate(requests):
                ids = state.epochs[other].slots[index].ids
                if not ids:
                    continue
                for limit, draw in self._limits((state.epochs[other].slots[index],)):
                    yield Call(
                        f"reconcile: {name} gives {request} up, up to {limit}{draw}",
                        lambda request=request, limit=limit: _words_of(
                            broker.reconcile(name, [request], limit=limit)
                        ),
                        may=lives and other == number,
                        touches=ids,
                    )

    def _limits(self, slots: Iterable[Slot]) -> list[tuple[int, str]]:
        """Return the limits to call with; where the server draws a job by chance, several draws."""
        whole = (len(self.names), "")
        if sum(len(slot.ids) for slot in slots) < 2:
            return [whole]
        return [whole, *((1, f", draw {number}") for number in range(_DRAWS))]

    @staticmethod
    def _is_fenced(answer: list[Any], after: State, number: int) -> bool:
        """Tell whether the answer fits, and an epoch that was reclaimed can lease no more."""
        status = after.epochs[number].status
        allowed = {b"done": {""}, b"gone": {""}, b"more": {"fenced"}, b"alive": {"ahead"}}
        return status in allowed[answer[0]]

    def _dequeues(self, state: State, where: tuple[int, int], *, lives: bool) -> Iterator[Call]:
        number, index = where
        name, request = EPOCHS[number], self.requests[number][index]
        made = state.epochs[number].slots[index].made

        def fits(answer: list[Any], after: State) -> bool:
            if not lives:
                return answer == [b"fenced"]
            ids = sorted(job_id.decode() for part in answer[2:] for job_id in part[1])
            return "".join(ids) == after.epochs[number].slots[index].ids

        for limit in range(1, len(self.names) + 1):
            if not made or limit == len(self.names):
                yield Call(
                    f"dequeue: {name} by {request}, up to {limit}",
                    lambda limit=limit: _words_of(
                        self._broker.dequeue(
                            request, name, [NORMAL], limit=limit, room_bytes=1 << 20
                        )
                    ),
                    may=lives and not made and bool(state.waiting),
                    otherwise=IDEMPOTENCE if made else FENCING,
                    helps=not made,
                    touches=state.waiting,
                    slot=where,
                    check=fits,
                    lie=ANSWERS if lives else FENCING,
                )

    def _settles(self, state: State, where: tuple[int, int], slot: Slot) -> Iterator[Call]:
        for name, job in zip(self.names, state.jobs, strict=True):
            held = name in slot.ids
            outcomes: Sequence[str] = self.scope.outcomes
            if not held:
                outcomes = ("complete", "release")  # what is refused is refused alike
            elif job.tombstone:
                outcomes = ("forget", "release")
            for outcome in outcomes:
                yield self._settle(where, slot, {name: outcome})
        if len(self.names) > 1 and not any(job.tombstone for job in state.jobs):
            yield self._settle(where, slot, {"A": "complete", "B": "release"})
            yield self._settle(where, slot, {"A": "later", "B": "complete"})

    def _settle(self, where: tuple[int, int], slot: Slot, outcomes: dict[str, str]) -> Call:
        number, index = where
        request = self.requests[number][index]
        held = {name: outcome for name, outcome in outcomes.items() if name in slot.ids}
        ending = {"complete", "lapse", "forget"}
        stale = [name for name in outcomes if name not in slot.ids]
        said = ", ".join(f"{name} {outcome}" for name, outcome in outcomes.items())
        return Call(
            f"settle: by {request}, {said}",
            lambda: self._settle_words(EPOCHS[number], request, outcomes),
            may=bool(held),
            helps=slot.made,  # else its holder may know of it no more
            touches="".join(held),
            ends={name: "ended" for name, outcome in held.items() if outcome in ending},
            check=lambda answer, _: len(answer) == len(stale),
        )

    def _settle_words(self, epoch: str, request: str, outcomes: dict[str, str]) -> tuple[Any, ...]:
        settlement = Settlement(request)
        for name, outcome in outcomes.items():
            job_id, live = name.encode(), self._records[name, "live"]
            if outcome == "complete":
                settlement.dropped.append(job_id)
            elif outcome == "later":
                settlement.later.append((job_id, live, 1000, "retried"))
            elif outcome == "fail":
                settlement.failed.append((job_id, self._records[name, "failed"]))
            elif outcome == "release":
                settlement.released.append((job_id, NORMAL))
            elif outcome == "lapse":
                settlement.lapsed.append((job_id, live))
            else:
                settlement.forgotten.append(job_id)
        return _words_of(self._broker.settle(epoch, settlement, _RETENTION))

    def _operated(self, state: State, name: str, job: Job) -> Iterator[Call]:
        broker, operator = self._broker, self.scope.operator
        live, cancelled = self._records[name, "live"], self._records[name, "cancelled"]
        if "cancel" in operator and job.record:
            may = job.record == "live" and job.where in {"list", "due", "later"}
            answered = job.record.startswith("cancelled")
            yield Call(
                f"cancel: {name}",
                lambda: _words_of(broker.cancel(name, live, cancelled, ttl_s=60, foreign=False)),
                may=may,
                otherwise=IDEMPOTENCE if answered else FENCING,
                helps=False,
                touches=name,
                ends={name: "cancelled" if job.where == "list" else "ended"},
                check=lambda answer, _: (answer == b"cancelled") == (may or answered),
            )
        for kind, ends in (("revive", "live"), ("purge", "ended")):
            request = f"{kind} {name}"
            made = request in state.made
            if kind not in operator or not (made or job.where == "dead"):
                continue
            yield Call(
                f"{kind}: {name}",
                lambda kind=kind, request=request: self._under(
                    request,
                    broker.revive(NORMAL, [(name, live)])
                    if kind == "revive"
                    else broker.purge([name]),
                ),
                may=not made,
                otherwise=IDEMPOTENCE,
                helps=False,
                touches=name,
                ends={name: ends},
                request=request,
                check=lambda answer, _, kind=kind: answer == ([] if kind == "revive" else 1),
            )

    def _under(self, request: str, coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, ...]:
        """Return the words of a call under this request, in place of the fresh one it takes."""
        prefix = self._keys.request("")
        return tuple(
            self._keys.request(request)
            if isinstance(word, str) and word.startswith(prefix)
            else word
            for word in _words_of(coroutine)
        )


def _status(deadline: float | None) -> str:
    if deadline is None:
        return ""
    if deadline == 0:
        return "fenced"
    return "ahead" if deadline > START_MS else "past"


def _where(
    name: str,
    waiting: list[str],
    scheduled: dict[str, float],
    dead: dict[str, float],
    leased: set[str],
) -> str:
    if name in waiting:
        return "list"
    if name in scheduled:
        return "due" if scheduled[name] * 1000 <= START_MS else "later"
    if name in dead:
        return "dead"
    return "leased" if name in leased else ""


def _note_made(state: State, call: Call) -> State:
    """Note that a call took effect: from now on it is a copy."""
    if call.slot is not None:
        number, index = call.slot
        epoch = state.epochs[number]
        slots = list(epoch.slots)
        slots[index] = slots[index]._replace(made=True)
        epochs = list(state.epochs)
        epochs[number] = epoch._replace(slots=tuple(slots))
        return state._replace(epochs=tuple(epochs))
    if call.request.startswith("register"):
        number = EPOCHS.index(call.request.removeprefix("register "))
        epochs = list(state.epochs)
        epochs[number] = epochs[number]._replace(made=True)
        return state._replace(epochs=tuple(epochs))
    return state._replace(made=state.made | {call.request}) if call.request else state


def _time_passes(state: State) -> State:
    """Let deadlines pass, jobs become due, requests be forgotten: no copies of them are left."""
    jobs = tuple(
        job._replace(
            where="due" if job.where == "later" else job.where,
            # a cancelled job's record has ended with its minute
            record="" if job.record == "cancelled+" else job.record,
        )
        for job in state.jobs
    )
    epochs = tuple(
        Epoch(
            "past" if epoch.status == "ahead" else epoch.status,
            slots=tuple(Slot(slot.ids) for slot in epoch.slots),
        )
        for epoch in state.epochs
    )
    return State(jobs, state.waiting, epochs, place_known=state.place_known, extra=state.extra)
