"""What the scripts are to do, said once more in plain Python: the reference of the state machine.

`State` holds the whole queue as values, lists with the next to be taken first, and one
method a transition.  Where a script may choose (which jobs of a lease fill a chunk), the
method is told what the server chose; that the choice was allowed is for the caller to check.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from bananas.broker import Entry, Settlement

Full = Literal["full"]


@dataclass
class State:
    """Everything under one prefix."""

    records: dict[str, tuple[bytes, bool]] = field(default_factory=dict)  # with: has it a TTL
    common: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    looked_through: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    marked: set[str] = field(default_factory=set)
    scheduled: dict[str, float] = field(default_factory=dict)
    dead: dict[str, float] = field(default_factory=dict)
    leases: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    owners: dict[str, str] = field(default_factory=dict)  # token -> epoch
    epochs: dict[str, float] = field(default_factory=dict)
    workers: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    crashes: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    places: set[str] = field(default_factory=set)
    specials: dict[str, float] = field(default_factory=dict)
    version: int = 0
    requests: dict[str, str] = field(default_factory=dict)
    results: dict[str, dict[str, bytes]] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    """What the server remembers of operators' calls, by request; not compared, a copy shows it."""

    # --- words for what several transitions do --------------------------------------------------

    def leased_ids(self, epoch: str | None = None) -> set[str]:
        """Return the ids that an epoch holds, or any."""
        tokens = [token for token, owner in self.owners.items() if epoch in (None, owner)]
        return {job_id for token in tokens for job_id in self.leases[token]}

    def _forget_token_when_empty(self, token: str) -> None:
        if not self.leases[token]:
            del self.leases[token]
            self.owners.pop(token, None)

    def give_back(self, moved: Collection[str], place_of: Mapping[str, str]) -> None:
        """Move ids from whatever lease holds them to the front of their places."""
        for token in list(self.owners):
            self.leases[token] -= set(moved)
            self._forget_token_when_empty(token)
        for job_id in sorted(moved, reverse=True):
            self.common[place_of[job_id]].insert(0, job_id)
            self.places.add(place_of[job_id])
            self.marked.add(place_of[job_id])

    # --- transitions ----------------------------------------------------------------------------

    def enqueue(
        self, request: str, entries: Sequence[Entry], version: str, now_ms: int, *, full: bool
    ) -> list[bool] | Full | None:
        """Accept jobs; None when the caller's view of the specials is old."""
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.due is None:
                groups.setdefault(entry.place, []).append(entry)
        order = [entry for group in groups.values() for entry in group]
        order += [entry for entry in entries if entry.due is not None]
        if request not in self.requests:
            if version != str(self.version):
                return None
            if full:
                return "full"
            letters = "".join("d" if entry.job_id in self.records else "a" for entry in order)
            self.requests[request] = letters if "d" in letters else ""
            self.places.update(groups)
            for entry, letter in zip(order, letters, strict=True):
                if letter == "a":
                    self._accept(entry, now_ms)
        letters = self.requests[request] or "a" * len(order)
        verdict = {
            entry.job_id: letter == "a" for entry, letter in zip(order, letters, strict=True)
        }
        return [verdict[entry.job_id] for entry in entries]

    def _accept(self, entry: Entry, now_ms: int) -> None:
        self.records[entry.job_id] = (entry.record, False)
        self.counters["accepted"] += 1
        if entry.due is None:
            self.common[entry.place].append(entry.job_id)
            self.marked.add(entry.place)
        else:
            relative = entry.due.startswith("+")
            due = (now_ms + int(entry.due)) / 1000 if relative else float(entry.due)
            self.scheduled[entry.job_id] = round(due, 6)

    def dequeue(  # noqa: PLR0913, PLR0917 - as the script's
        self, request: str, epoch: str, places: Sequence[str], limit: int, room: int, version: str
    ) -> list[str] | Literal["fenced"] | None:
        """Return the ids leased, in their order; None when the view of the specials is old."""
        if not self.epochs.get(epoch):
            return "fenced"
        if request in self.requests:
            return sorted(self.leases[request]) if request in self.leases else []
        if version != str(self.version):
            return None
        taken: list[str] = []
        full = False
        for place in places:
            for waiting in (self.looked_through[place], self.common[place]):
                while waiting and not full:
                    size = len(self.records.get(waiting[0], (b"",))[0])
                    if len(taken) == limit or (size > room and taken):
                        full = True
                    else:
                        room -= size
                        taken.append(waiting.pop(0))
        if taken:
            self.marked |= {place for place in places if self.waits(place)}
            self.leases[request] |= set(taken)
            self.owners[request] = epoch
            self.requests[request] = "1"
            self.counters["leased"] += len(taken)
        return taken

    def waits(self, place: str) -> bool:
        """Whether anything waits in a place."""
        return bool(self.looked_through[place] or self.common[place])

    def settle(self, settlement: Settlement, now_ms: int) -> set[str]:  # noqa: C901 - it is flat
        """Apply outcomes to what the token still holds; returns the stale ids."""
        s = settlement
        held = set(self.leases[s.request]) if s.request in self.leases else set()
        stale = {job_id.decode() for job_id in s.ids()} - held

        def names(items: Iterable[bytes]) -> list[str]:
            return [job_id for job_id in map(bytes.decode, items) if job_id in held]

        def ours(items: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
            named = [(job_id.decode(), *rest) for job_id, *rest in items]
            return [item for item in named if item[0] in held]

        for job_id in names(s.dropped):
            self._end(job_id, "completed", None)
        for kept in s.kept.values():
            for job_id, data in ours(kept):
                self._end(job_id, "completed", data)
        for job_id, data, delay_ms, counter in ours(s.later):
            self.records[job_id] = (data, False)
            self.scheduled[job_id] = round((now_ms + delay_ms) / 1000, 6)
            self.counters[counter] += 1
        for job_id, data in ours(s.failed):
            if job_id in self.dead:
                self.counters["purged"] += 1
            self._end(job_id, "failed", data)
            self.dead[job_id] = round(now_ms / 1000, 6)
        for job_id, place in reversed(ours(s.released)):
            self.common[place].insert(0, job_id)
            self.counters["released"] += 1
            self.marked.add(place)
            self.places.add(place)
        for job_id, place in ours(s.routed):
            self.common[place].append(job_id)
            self.counters["routed"] += 1
            self.marked.add(place)
            self.places.add(place)
        for job_id, data in ours(s.lapsed):
            self._end(job_id, "expired", data)
        for job_id in names(s.forgotten):
            self.cancelled.discard(job_id)
            self.crashes.pop(job_id, None)
            self.records[job_id] = (self.records[job_id][0], True)
        self.counters["accepted"] += len(names(s.foreign))
        for job_id, _, _, values in ours(s.results):
            self.results[job_id] = dict(zip(values[::2], values[1::2], strict=True))
        if held:
            self.leases[s.request] -= {job_id.decode() for job_id in s.ids()}
            self._forget_token_when_empty(s.request)
        return stale

    def _end(self, job_id: str, counter: str, data: bytes | None) -> None:
        self.counters[counter] += 1
        self.crashes.pop(job_id, None)
        if data is None:
            self.records.pop(job_id, None)
        else:
            self.records[job_id] = (data, True)

    def register(self, request: str, epoch: str, deadline_ms: int, places: Iterable[str]) -> bool:
        """Add or extend an epoch; a fenced one stays fenced, and a copy does nothing."""
        if self.epochs.get(epoch) == 0:
            return False
        if request in self.answers:
            return epoch in self.epochs
        self.answers[request] = True
        self.epochs[epoch] = max(self.epochs.get(epoch, 0), deadline_ms)
        self.workers.add(epoch)
        self.places.update(places)
        return True

    def beat(self, epochs: Sequence[str], deadline_ms: int) -> list[bool]:
        """Extend epochs."""
        for epoch in epochs:
            if self.epochs.get(epoch):
                self.epochs[epoch] = max(self.epochs[epoch], deadline_ms)
        return [bool(self.epochs.get(epoch)) for epoch in epochs]

    def reclaim(
        self, epoch: str, moved: Collection[str], place_of: Mapping[str, str], charged: set[str]
    ) -> str:
        """Give back what the server chose; the state it is to answer."""
        self.give_back(moved, place_of)
        self.crashes.update(charged & set(moved))
        self.counters["reclaimed"] += len(moved)
        if self.leased_ids(epoch):
            self.epochs[epoch] = 0
            return "more"
        self.epochs.pop(epoch, None)
        self.workers.discard(epoch)
        return "done"

    def promote(
        self, served: Sequence[str], place_of: Mapping[str, str], limit: int, now_ms: int
    ) -> tuple[int, list[str]]:
        """Move due jobs; returns how many, and the due ones without a place."""
        due = sorted((at, job_id) for job_id, at in self.scheduled.items() if at * 1000 <= now_ms)
        ids = [job_id for _, job_id in due[:limit]]
        moving = [job_id for job_id in ids if job_id in place_of]
        self.marked |= {place for place in served if self.common[place]}
        for job_id in moving:
            del self.scheduled[job_id]
            self.common[place_of[job_id]].append(job_id)
            self.marked.add(place_of[job_id])
            self.places.add(place_of[job_id])
        self.counters["promoted"] += len(moving)
        return len(moving), [job_id for job_id in ids if job_id not in place_of]

    def cancel(self, job_id: str, seen: bytes, data: bytes, ttl_s: int, *, foreign: bool) -> str:
        """End a waiting or scheduled job; a copy of the call finds what it wrote."""
        found = self.records.get(job_id, (None,))[0]
        if found == data:
            return "cancelled"
        if found != seen:
            return "changed"
        if job_id in self.dead:
            return "failed"
        if job_id in self.leased_ids():
            return "processing"
        self.crashes.pop(job_id, None)
        if self.scheduled.pop(job_id, None) is None:
            self.records[job_id] = (data, False)
            self.cancelled.add(job_id)
        elif ttl_s:
            self.records[job_id] = (data, True)
        else:
            del self.records[job_id]
        self.counters["accepted"] += foreign
        self.counters["cancelled"] += 1
        return "cancelled"

    def revive(self, request: str, place: str, jobs: Sequence[tuple[str, bytes]]) -> list[str]:
        """Put dead jobs back, without results; returns the ids for which nothing was done."""
        if request in self.answers:
            return list(self.answers[request])
        missing = self.answers[request] = []
        for job_id, data in jobs:
            if job_id not in self.dead or not self.records.get(job_id, (b"", True))[1]:
                missing.append(job_id)
                continue
            del self.dead[job_id]
            self.results.pop(job_id, None)
            self.records[job_id] = (data, False)
            self.common[place].append(job_id)
            self.counters["revived"] += 1
            self.marked.add(place)
            self.places.add(place)
        return list(missing)

    def purge(self, request: str, ids: Sequence[str]) -> int:
        """Bury jobs by an operator's order, with their results."""
        if request not in self.answers:
            for job_id in set(ids) & set(self.dead):
                self.results.pop(job_id, None)
            self.answers[request] = self.bury(ids)
        return int(self.answers[request])

    def bury(self, ids: Sequence[str]) -> int:
        """Drop dead jobs for good; a record of an id accepted anew stays."""
        buried = [job_id for job_id in dict.fromkeys(ids) if job_id in self.dead]
        for job_id in buried:
            del self.dead[job_id]
            if self.records.get(job_id, (b"", False))[1]:
                del self.records[job_id]
        self.counters["purged"] += len(buried)
        return len(buried)

    def prune(self, retention_ms: int, limit: int, now_ms: int) -> int:
        """Bury what is older than the retention."""
        old = [
            (at, job_id) for job_id, at in self.dead.items() if at * 1000 < now_ms - retention_ms
        ]
        return self.bury([job_id for _, job_id in sorted(old)[:limit]])

    def sort(self, source: str, jobs: Sequence[tuple[str, str | None]]) -> int:
        """Move the oldest of a list by decisions made earlier."""
        waiting = self.common[source]
        ids = [job_id for job_id, _ in jobs]
        if not waiting or waiting[0] not in ids:
            return 0
        moved = 0
        for job_id, place in jobs[ids.index(waiting[0]) :]:
            if not waiting or waiting[0] != job_id:
                break
            waiting.pop(0)
            moved += 1
            (self.looked_through[source] if place is None else self.common[place]).append(job_id)
            self.marked.add(source if place is None else place)
            if place is not None:
                self.places.add(place)
        return moved

    def merge(self, source: str, place: str, limit: int) -> int:
        """Move the newest of a list to the front of another."""
        moving = self.common[source][-limit:]
        if moving:
            del self.common[source][-limit:]
            self.common[place][:0] = moving
            self.marked.add(place)
            self.places.add(place)
        return len(moving)

    def vacate(self, places: Iterable[str], epochs: Collection[str]) -> int:
        """Forget places where nothing waits, unless a worker came that the caller does not know."""
        if self.workers - set(epochs):
            return -1
        empty = {where for where in places if not self.waits(where)}
        forgotten = len(self.places & empty)
        self.places -= empty
        self.marked -= empty
        return forgotten

    def specialise(self, tasks: Iterable[str], now_ms: int, ttl_ms: int) -> None:
        """Keep lists of their own for tasks."""
        lapsed = {task for task, deadline in self.specials.items() if deadline <= now_ms}
        leaving = lapsed - set(tasks)
        for task in leaving:
            del self.specials[task]
        if leaving or set(tasks) - set(self.specials):
            self.version += 1
        for task in tasks:
            self.specials[task] = max(self.specials.get(task, 0), now_ms + ttl_ms)

    # --- reading a real one ---------------------------------------------------------------------

    def canonical(self) -> dict[str, Any]:
        """Return the state as plain values, without what is empty."""
        values = dict(vars(self))
        del values["answers"]
        for name in ("common", "looked_through", "leases"):
            values[name] = {key: value for key, value in values[name].items() if value}
        for name in ("crashes", "counters"):
            values[name] = {key: value for key, value in values[name].items() if value}
        return values

    @classmethod
    def read(cls, snapshot: Mapping[str, tuple[str, Any, int]]) -> State:
        """Make a state of what a server holds, as `BareQueue.snapshot` gives it."""
        state = cls()
        for name, (_, content, ends) in snapshot.items():
            state._take(name, content, has_ttl=ends != -1)
        return state

    def _take(self, name: str, content: Any, *, has_ttl: bool) -> None:  # noqa: ANN401, C901, PLR0912
        if name.startswith("job:"):
            self.records[name.removeprefix("job:")] = (content, has_ttl)
        elif name.startswith("request:"):
            assert has_ttl
            self.requests[name.removeprefix("request:")] = content.decode()
        elif name.startswith("result:"):
            assert has_ttl
            self.results[name.removeprefix("result:")] = content
        elif name.startswith("queue:processing:lease:"):
            self.leases[name.removeprefix("queue:processing:lease:")] = content
        elif name.startswith("queue:processing:epoch:"):
            epoch = name.removeprefix("queue:processing:epoch:")
            self.owners.update(dict.fromkeys(content, epoch))
        elif name == "queue:processing:epochs":
            self.epochs = content
        elif name in {"queue:scheduled", "queue:dead", "cancelled", "places", "specials"}:
            setattr(self, name.removeprefix("queue:"), content)
        elif name in {"crashes", "counters"}:
            setattr(self, name, Counter({key: int(count) for key, count in content.items()}))
        elif name == "specials:version":
            self.version = int(content)
        elif name == "workers":
            self.workers = set(content)
        elif name.endswith(":wake"):
            assert content == ["1"], f"{name} holds {content}"
            self.marked.add(name.removesuffix(":wake"))
        elif name.startswith("sorted:"):
            self.looked_through[name.removeprefix("sorted:")] = content[::-1]
        else:
            assert "queue:" in name, name
            self.common[name] = content[::-1]
