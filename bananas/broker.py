"""The seam to Redis: one typed method a transition, none of them knows a handler or a process.

Every method is one script call (or says so), atomic on the server and safe to repeat with
the same request id; the transport repeats by itself. What a script answers is turned into
values here and nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bananas.errors import ScriptError
from bananas.ids import request_id
from bananas.keys import Keys
from bananas.scripts import Scripts, load_all
from bananas.settlement import MAX_JOBS, Retention, SettleCall, Settlement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bananas.transport import Transport

__all__ = [
    "MAX_JOBS",
    "Audit",
    "Batch",
    "Broker",
    "Entry",
    "Fenced",
    "GiveBack",
    "Lapsed",
    "Leased",
    "Promotion",
    "Retention",
    "Settlement",
    "Specials",
    "Waiting",
]

MEMORY_MS: Final = 60_000
"""How long the server remembers a request: twice the longest time a client repeats it."""


class Entry(NamedTuple):
    """One job to enqueue: where it goes and its record; `due` = unix seconds or `+ms`."""

    job_id: str
    place: str
    record: bytes
    due: str | None = None


class Leased(NamedTuple):
    """One job of a batch; `record` None = missing, `place` None = from a repeated answer."""

    job_id: bytes
    record: bytes | None
    place: str | None
    crashes: int


class Group(NamedTuple):
    """Jobs of a batch from one place; lists, as an object for each job is 4 % of a no-op one."""

    place: str | None
    ids: list[bytes]
    records: list[bytes | None]
    crashes: list[int]
    """By job; empty = none."""

    def leased(self, at: int) -> Leased:
        """Return the job at an index."""
        crashes = self.crashes[at] if self.crashes else 0
        return Leased(self.ids[at], self.records[at], self.place, crashes)


@dataclass(slots=True)
class Batch:
    """What a dequeue gave, in the order to start them."""

    request: str
    now_ms: int
    groups: list[Group]

    def __len__(self) -> int:
        """Return how many jobs."""
        return sum([len(group.ids) for group in self.groups])

    @property
    def jobs(self) -> list[Leased]:
        """The jobs one by one."""
        return [group.leased(at) for group in self.groups for at in range(len(group.ids))]


class Fenced(NamedTuple):
    """The epoch may lease no more; its jobs are or will be given to others."""

    epoch: str


class Lapsed(NamedTuple):
    """What a look for lapsed epochs found, and Redis's time then."""

    now_ms: int
    epochs: list[str]


@dataclass(frozen=True, slots=True)
class Specials:
    """The tasks that have lists of their own, and the version of that set."""

    version: str = "0"
    tasks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GiveBack:
    """What a reclaim or reconcile step did; `unplaced` ids need their place named."""

    state: str
    moved: int
    unplaced: list[bytes]


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promote step did; `wait_ms` = until the next job is due, None = none scheduled."""

    now_ms: int
    wait_ms: int | None
    moved: int
    woken: int
    unplaced: list[bytes]


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many ids wait in one place."""

    place: str
    count: int


@dataclass(frozen=True, slots=True)
class Audit:
    """Where every job is and what the counters say, at one instant."""

    scheduled: int
    dead: int
    leased: int
    cancelled_waiting: int
    waiting: int
    places: list[Waiting]
    counters: dict[str, int]

    @property
    def drift(self) -> int:
        """Return jobs present minus jobs accepted; 0 = conserved, unless foreign jobs wait."""
        c = self.counters
        present = self.waiting + self.scheduled + self.leased + self.dead - self.cancelled_waiting
        gone = sum(c.get(name, 0) for name in ("completed", "cancelled", "expired", "purged"))
        return present + gone - c.get("accepted", 0)


def name_of(value: bytes) -> str:
    """Return a name; one that is no text was written by a stranger, and is only shown."""
    return value.decode("utf-8", "backslashreplace")


def _number(value: bytes) -> int:
    """Return a counter; one that was overwritten by hand counts nothing."""
    try:
        return int(value)
    except ValueError:
        return 0


class Broker:
    """One prefix on one server, spoken to through one transport."""

    def __init__(
        self, transport: Transport, keys: Keys | None = None, scripts: Scripts | None = None
    ) -> None:
        """Speak through `transport`; the caller owns and closes it."""
        self.transport = transport
        self.keys = keys or Keys()
        self.scripts = scripts or load_all()
        self.specials = Specials()

    # --- enqueue ----------------------------------------------------------------------------

    async def enqueue(self, request: str, entries: Sequence[Entry]) -> list[bool] | None:
        """Accept jobs; repeated with the same request it gives the same answer and no effect.

        Args:
            request: Fresh for every call, kept for its repeats.
            entries: 1..500 jobs, no id twice, places chosen by `self.specials`.

        Returns:
            For each entry True = accepted, False = that id exists already; or None when the
            specials changed: nothing was done, place the jobs anew and call again.

        Raises:
            BrokerFullError: Redis is at maxmemory; nothing was accepted.
            BrokerUnavailableError: No answer in time; the outcome is unknown.

        Moves: nothing -> pending | scheduled. Atomic: `enqueue.lua`.
        """
        keys = self.keys
        groups: dict[str, list[int]] = {}
        later: list[int] = []
        for index, entry in enumerate(entries):
            if entry.due is not None:
                later.append(index)
            elif entry.place in groups:
                groups[entry.place].append(index)
            else:
                groups[entry.place] = [index]
        order = [index for indexes in groups.values() for index in indexes] + later

        script_keys = [
            keys.request(request),
            keys.counters,
            keys.scheduled,
            keys.specials_version,
            keys.specials,
            keys.places(),
        ]
        args: list[Any] = [MEMORY_MS, self.specials.version, len(entries), len(later), len(groups)]
        job_prefix = keys.job_prefix
        for index in order:
            entry = entries[index]
            args.append(job_prefix + entry.job_id)
            args.append(entry.record)
        for place, indexes in groups.items():
            script_keys.append(keys.waiting(place))
            script_keys.append(keys.wake(place))
            args.append(place)
            args.append(len(indexes))
            args.extend(entries[index].job_id for index in indexes)
        for index in later:
            args.append(entries[index].due)
            args.append(entries[index].job_id)

        reply = await self.transport.call(self.scripts.enqueue, script_keys, args)
        if reply[0] == 1:
            self.specials = Specials(name_of(reply[1]), frozenset(map(name_of, reply[2:])))
            return None
        letters = reply[1]
        if not letters:
            return [True] * len(entries)
        verdicts = [False] * len(entries)
        for index, letter in zip(order, letters, strict=True):
            verdicts[index] = letter == ord("a")
        return verdicts

    # --- the life of a lease ------------------------------------------------------------------

    async def register(
        self, epoch: str, ttl_s: float, info: Mapping[str, object], places: Iterable[str] = ()
    ) -> bool:
        """Let an epoch lease jobs; False when it was fenced already. Atomic: `register.lua`."""
        keys = self.keys
        args: list[Any] = [epoch, int(ttl_s * 1000), json.dumps(info), MEMORY_MS, *places]
        script_keys = [keys.epochs, keys.workers, keys.places(), keys.request(request_id())]
        return bool(await self.transport.call(self.scripts.register, script_keys, args))

    async def beat(self, ttl_s: float, epochs: Sequence[str]) -> list[bool]:
        """Extend the leases of epochs; for each, False = fenced. Atomic: `beat.lua`."""
        reply = await self.transport.call(
            self.scripts.beat, [self.keys.epochs], [int(ttl_s * 1000), *epochs]
        )
        return [alive == 1 for alive in reply]

    async def dequeue(
        self, request: str, epoch: str, places: Sequence[str], *, limit: int, room_bytes: int
    ) -> Batch | Fenced | None:
        """Lease the oldest jobs of the first places that have any.

        Args:
            request: Fresh for every call, kept for its repeats; the lease's token.
            epoch: Registered, of the process that will run the jobs.
            places: In the order of service, chosen by `self.specials`.
            limit: Most jobs, 1..1000.
            room_bytes: Most bytes of records; one job comes whatever its size.

        Returns:
            The batch, perhaps empty; `Fenced`; or None when the specials changed: nothing was
            leased, choose the places anew and call again.

        Moves: pending -> processing. Atomic: `dequeue.lua`.
        """
        keys = self.keys
        script_keys = [
            keys.request(request),
            keys.lease(request),
            keys.epoch_leases(epoch),
            keys.epochs,
            keys.counters,
            keys.specials_version,
            keys.specials,
            keys.crashes,
        ]
        for place in places:
            script_keys += keys.served(place)
        args: list[Any] = [epoch, request, limit, room_bytes, MEMORY_MS]
        args += [self.specials.version, keys.job_prefix]
        reply = await self.transport.call(self.scripts.dequeue, script_keys, args)
        state = reply[0]
        if state == b"ok":
            return Batch(request, reply[1], self._groups(reply, places))
        if state == b"specials":
            self.specials = Specials(name_of(reply[1]), frozenset(map(name_of, reply[2:])))
            return None
        if state == b"fenced":
            return Fenced(epoch)
        raise ScriptError("broker.dequeue", f"answered {state!r}")

    @staticmethod
    def _groups(reply: list[Any], places: Sequence[str]) -> list[Group]:
        groups: list[Group] = []
        for number, ids, records, crashes in reply[2:]:
            place = places[int(number) - 1] if number else None
            counts = [_number(count or b"0") for count in reversed(crashes)]
            ids.reverse()
            records.reverse()
            groups.append(Group(place, ids, records, counts))
        return groups

    async def settle(self, epoch: str, settlement: Settlement, retention: Retention) -> list[bytes]:
        """Send gathered outcomes, at most 500; returns the ids that the token no longer holds.

        Moves: processing -> completed | scheduled | failed | pending | expired.
        Atomic: `settle.lua`.
        """
        call = SettleCall(self.keys, epoch, settlement, retention)
        reply = await self.transport.call(self.scripts.settle, call.keys, call.args)
        return [call.ids[number - 1] for number in reply]

    async def reconcile(
        self,
        epoch: str,
        unknown: Sequence[str],
        placed: Mapping[bytes, str] | None = None,
        *,
        limit: int = MAX_JOBS,
    ) -> GiveBack:
        """Give back the leases of requests that the epoch's process does not know of.

        What is to go is named, not what is to stay: requests are never used again, so a call
        that the server gets to see late, or twice, can take nothing that was leased meanwhile.

        Moves: processing -> pending. Atomic: `reconcile.lua`, one chunk a call.
        """
        keys = self.keys
        args: list[Any] = [epoch, limit, keys.prefix, len(unknown), *unknown]
        for job_id, place in (placed or {}).items():
            args += (job_id, place)
        reply = await self.transport.call(
            self.scripts.reconcile, [keys.epochs, keys.epoch_leases(epoch), keys.counters], args
        )
        return GiveBack(name_of(reply[0]), reply[1], reply[2:])

    async def stands(self, epoch: str) -> bool:
        """Tell whether an epoch was never fenced, lapsed or not: what it leased is its own."""
        score = await self.transport.command("ZSCORE", self.keys.epochs, epoch, repeat=True)
        return bool(score and float(score))

    async def requests_of(self, epoch: str) -> list[str]:
        """Return the requests whose leases an epoch holds; reads only."""
        key = self.keys.epoch_leases(epoch)
        return [name_of(r) for r in await self.transport.command("SMEMBERS", key, repeat=True)]

    async def leases_of(self, epoch: str, job_ids: Sequence[bytes]) -> dict[str, list[bytes]]:
        """Return which of these ids an epoch holds, by request. Two reads, not atomic."""
        keys, command = self.keys, self.transport.command
        found: dict[str, list[bytes]] = {}
        for request in await command("SMEMBERS", keys.epoch_leases(epoch), repeat=True):
            name = name_of(request)
            held = await command("SMISMEMBER", keys.lease(name), *job_ids, repeat=True)
            ids = [job_id for job_id, is_held in zip(job_ids, held, strict=True) if is_held]
            if ids:
                found[name] = ids
        return found

    async def lapsed(self, limit: int = 100) -> Lapsed:
        """Return epochs past their deadline, or fenced and not yet emptied; reads only."""
        reply = await self.transport.call(self.scripts.lapsed, [self.keys.epochs], [limit])
        return Lapsed(reply[0], [name_of(epoch) for epoch in reply[1:]])

    async def reclaim(
        self,
        epoch: str,
        *,
        proven: bool,
        charged: Sequence[bytes] = (),
        placed: Mapping[bytes, str] | None = None,
        limit: int = MAX_JOBS,
    ) -> GiveBack:
        """Fence an epoch and give its jobs back, one chunk a call.

        Args:
            epoch: Whose jobs.
            proven: The caller knows that the process is gone; else its deadline decides.
            charged: Ids that the process was running when it died: one crash each.
            placed: Places of ids that an earlier chunk reported as unplaced.
            limit: Most jobs, 1..1000.

        Moves: processing -> pending. Atomic: `reclaim.lua`.
        """
        keys = self.keys
        args: list[Any] = [epoch, int(proven), limit, keys.prefix, len(charged), *charged]
        for job_id, place in (placed or {}).items():
            args += (job_id, place)
        script_keys = [
            keys.epochs,
            keys.epoch_leases(epoch),
            keys.counters,
            keys.crashes,
            keys.workers,
        ]
        reply = await self.transport.call(self.scripts.reclaim, script_keys, args)
        return GiveBack(name_of(reply[0]), reply[1], reply[2:])

    # --- time -----------------------------------------------------------------------------

    async def promote(
        self,
        served: Sequence[str] = (),
        placed: Mapping[bytes, str] | None = None,
        *,
        limit: int = MAX_JOBS,
    ) -> Promotion:
        """Move due jobs to their queues; wake workers where `served` places wait unmarked.

        Moves: scheduled -> pending. Atomic: `promote.lua`, one chunk a call.
        """
        keys = self.keys
        script_keys = [keys.scheduled, keys.counters, keys.places()]
        for place in served:
            script_keys += (keys.waiting(place), keys.wake(place))
        args: list[Any] = [limit, keys.prefix]
        for job_id, place in (placed or {}).items():
            args += (job_id, place)
        reply = await self.transport.call(self.scripts.promote, script_keys, args)
        now_ms, wait_ms, moved, woken, *unplaced = reply
        return Promotion(now_ms, None if wait_ms < 0 else wait_ms, moved, woken, unplaced)

    async def prune(self, retention_s: float, *, limit: int = MAX_JOBS) -> int:
        """Drop failed jobs older than the retention; returns how many, the limit = call again.

        Moves: failed -> deleted. Atomic: `prune.lua`, one chunk a call.
        """
        keys = self.keys
        reply = await self.transport.call(
            self.scripts.prune,
            [keys.dead, keys.counters],
            [int(retention_s * 1000), limit, keys.job_prefix],
        )
        return int(reply)

    # --- operators --------------------------------------------------------------------------

    async def cancel(
        self, job_id: str, seen: bytes, record: bytes, *, ttl_s: int, foreign: bool
    ) -> str:
        """End a waiting or scheduled job.

        Returns:
            `cancelled`; `changed` = read the record again; `processing` or `failed` = left alone.

        Moves: pending | scheduled -> cancelled. Atomic: `cancel.lua`.
        """
        keys = self.keys
        script_keys = [
            keys.job(job_id),
            keys.scheduled,
            keys.dead,
            keys.epochs,
            keys.counters,
            keys.cancelled,
            keys.crashes,
        ]
        args: list[Any] = [job_id, seen, record, ttl_s, int(foreign), keys.prefix]
        return name_of(await self.transport.call(self.scripts.cancel, script_keys, args))

    async def locate(self, job_ids: Sequence[str]) -> list[tuple[bytes | None, str]]:
        """Read up to 100 records and where their ids are: `scheduled`, `dead`, `leased` or ``.

        Atomic: `locate.lua`, which reads only.
        """
        keys = self.keys
        script_keys = [keys.scheduled, keys.dead, keys.epochs, *map(keys.job, job_ids)]
        reply = await self.transport.call(self.scripts.locate, script_keys, [keys.prefix, *job_ids])
        return [(record, name_of(where)) for record, where in reply]

    async def revive(self, place: str, jobs: Sequence[tuple[str, bytes]]) -> list[str]:
        """Put failed jobs, (id, new record), back into one place; returns ids that were not dead.

        Their old results go.

        Moves: failed -> pending. Atomic: `revive.lua`, at most 500.
        """
        keys = self.keys
        ids = [job_id for job_id, _ in jobs]
        script_keys = [
            keys.dead,
            keys.counters,
            keys.waiting(place),
            keys.wake(place),
            keys.places(),
            keys.request(request_id()),
        ]
        script_keys += map(keys.job, ids)
        script_keys += map(keys.result, ids)
        args: list[Any] = [len(jobs), place, MEMORY_MS, *ids, *(record for _, record in jobs)]
        reply = await self.transport.call(self.scripts.revive, script_keys, args)
        return [ids[number - 1] for number in reply]

    async def purge(self, job_ids: Sequence[str | bytes]) -> int:
        """Delete failed jobs for good, at most 500; returns how many were there.

        An id may be any bytes: a foreign producer's can be.

        Moves: failed -> deleted. Atomic: `purge.lua`.
        """
        keys = self.keys
        ids = [job_id.encode() if isinstance(job_id, str) else job_id for job_id in job_ids]
        script_keys: list[str | bytes] = [keys.dead, keys.counters, keys.request(request_id())]
        script_keys += [keys.job_prefix.encode() + job_id for job_id in ids]
        script_keys += [keys.result_prefix.encode() + job_id for job_id in ids]
        args: list[Any] = [MEMORY_MS, *ids]
        return int(await self.transport.call(self.scripts.purge, script_keys, args))

    async def restore(
        self, place: str, jobs: Sequence[tuple[str, str]], counters: Mapping[str, int]
    ) -> int:
        """Put jobs back that have records and are nowhere, at most 500.

        Args:
            place: Where those go that wait.
            jobs: (id, way): `w` = waiting, `s<unix s>` = scheduled, `d<unix s>` = dead.
            counters: As they were before the caller looked for these jobs.

        Returns:
            How many were put back; -1 = jobs have moved since, look again.

        Moves: nothing -> pending | scheduled | failed. Atomic: `restore.lua`.
        """
        keys = self.keys
        script_keys = [
            keys.counters,
            keys.scheduled,
            keys.dead,
            keys.waiting(place),
            keys.wake(place),
            keys.places(),
        ]
        script_keys += (keys.job(job_id) for job_id, _ in jobs)
        args: list[Any] = [len(jobs), place, len(counters)]
        for name, count in counters.items():
            args += (name, count)
        for job in jobs:
            args += job
        return int(await self.transport.call(self.scripts.restore, script_keys, args))

    # --- tasks with lists of their own ---------------------------------------------------------

    async def specialise(self, ttl_s: float, tasks: Sequence[str] = ()) -> Specials:
        """Keep lists of their own for tasks until the ttl; drops what lapsed. `specialise.lua`."""
        keys = self.keys
        version, *names = await self.transport.call(
            self.scripts.specialise,
            [keys.specials, keys.specials_version],
            [int(ttl_s * 1000), *tasks],
        )
        self.specials = Specials(name_of(version), frozenset(map(name_of, names)))
        return self.specials

    async def sort(
        self, source: str, jobs: Sequence[tuple[bytes, str | None]], *, sorted_place: str
    ) -> int:
        """Move the oldest ids of a common list to where they belong, if they still are its oldest.

        Args:
            source: The place whose list is sorted.
            jobs: (id, place), oldest first, at most 500; None = it belongs where it is.
            sorted_place: The place whose sorted list takes those that belong; usually `source`.

        Returns:
            How many were moved. Moves: pending -> pending. Atomic: `sort.lua`.
        """
        keys = self.keys
        numbers: dict[str | None, int] = {}
        for _, place in jobs:
            numbers.setdefault(place, len(numbers) + 1)
        script_keys = [keys.waiting(source), keys.places()]
        names: list[str] = []
        for place in numbers:
            if place is None:
                script_keys += (keys.sorted(sorted_place), keys.wake(sorted_place))
                names.append("")
            else:
                script_keys += (keys.waiting(place), keys.wake(place))
                names.append(place)
        args: list[Any] = [len(jobs), len(numbers)]
        args += (job_id for job_id, _ in jobs)
        args += (numbers[place] for _, place in jobs)
        args += names
        return int(await self.transport.call(self.scripts.sort, script_keys, args))

    async def merge(self, source_key: str, place: str, *, limit: int = MAX_JOBS) -> int:
        """Move ids of a list nobody serves to the front of a place; the limit = call again.

        Moves: pending -> pending. Atomic: `merge.lua`, one chunk a call.
        """
        keys = self.keys
        script_keys = [source_key, keys.waiting(place), keys.wake(place), keys.places()]
        return int(await self.transport.call(self.scripts.merge, script_keys, [limit, place]))

    async def vacate(self, places: Sequence[str], epochs: Sequence[bytes]) -> int:
        """Forget places where nothing waits, at most 200.

        Args:
            places: Served by none of the workers below.
            epochs: The workers there are; when another has come, nothing is done.

        Returns:
            How many were forgotten; -1 = there are other workers. Atomic: `vacate.lua`.
        """
        keys = self.keys
        script_keys = [keys.places(), keys.workers]
        for place in places:
            script_keys += keys.served(place)
        args: list[Any] = [len(epochs), *epochs, *places]
        return int(await self.transport.call(self.scripts.vacate, script_keys, args))

    # --- reading ------------------------------------------------------------------------------

    async def audit(self) -> Audit:
        """Count where every job is, with the counters, in one instant. `audit.lua`, reads only."""
        keys = self.keys
        script_keys = [
            keys.counters,
            keys.scheduled,
            keys.dead,
            keys.epochs,
            keys.cancelled,
            keys.places(),
        ]
        reply = await self.transport.call(self.scripts.audit, script_keys, [keys.prefix])
        scheduled, dead, leased, cancelled, waiting, lists, counters = reply
        return Audit(
            scheduled=scheduled,
            dead=dead,
            leased=leased,
            cancelled_waiting=cancelled,
            waiting=waiting,
            places=[Waiting(name_of(place), common + own) for place, common, own in lists],
            counters={
                name_of(name): _number(count)
                for name, count in zip(counters[::2], counters[1::2], strict=True)
            },
        )
