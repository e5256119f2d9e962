"""What is to become of leased jobs, and how one `settle` call says it.

The script takes the jobs in the order of their sections; the order of the sections is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bananas.keys import Keys

MAX_JOBS: Final = 500
"""Most jobs in one enqueue, settle, revive or purge call: keeps any script within a few ms."""


ResultNote = tuple[bytes, int, bytes, Sequence[bytes | str | int]]
"""(job id, ttl s, message to publish, (field, value, …))"""

Released = tuple[bytes, str]
"""(job id, place)"""

Recorded = tuple[bytes, bytes]
"""(job id, its new record)"""

Scheduled = tuple[bytes, bytes, int, str]
"""(job id, its new record, ms from now, counter)"""


@dataclass(slots=True)
class Settlement:
    """Outcomes of jobs of one lease, gathered until they are sent.

    Each job id in at most one of the lists. Records are the new ones, ready to store.
    """

    request: str
    dropped: list[bytes] = field(default_factory=list[bytes])
    kept: dict[int, list[Recorded]] = field(default_factory=dict[int, list[Recorded]])
    """Completed records by the seconds, > 0, that they stay."""
    later: list[Scheduled] = field(default_factory=list[Scheduled])
    failed: list[Recorded] = field(default_factory=list[Recorded])
    released: list[Released] = field(default_factory=list[Released])
    routed: list[Released] = field(default_factory=list[Released])
    lapsed: list[Recorded] = field(default_factory=list[Recorded])
    forgotten: list[bytes] = field(default_factory=list[bytes])
    spared: list[bytes] = field(default_factory=list[bytes])
    foreign: list[bytes] = field(default_factory=list[bytes])
    results: list[ResultNote] = field(default_factory=list[ResultNote])

    def __len__(self) -> int:
        """Return how many jobs have an outcome."""
        return (
            len(self.dropped)
            + sum(map(len, self.kept.values()))
            + len(self.later)
            + len(self.failed)
            + len(self.released)
            + len(self.routed)
            + len(self.lapsed)
            + len(self.forgotten)
            + len(self.spared)
        )

    def ids(self) -> list[bytes]:
        """Return the ids of all jobs that have an outcome."""
        ids = [*self.dropped, *self.forgotten, *self.spared]
        for entries in (self.later, self.failed, self.released, self.routed, self.lapsed):
            ids += [entry[0] for entry in entries]
        for kept in self.kept.values():
            ids += [job_id for job_id, _ in kept]
        return ids


@dataclass(frozen=True, slots=True)
class Retention:
    """How long ended records stay, seconds."""

    completed_s: int = 86_400
    failed_s: int = 604_800


class SettleCall:
    """The keys and arguments of one `settle` call.

    Attributes:
        keys: KEYS of the script.
        args: ARGV of the script.
        ids: The jobs in the order in which the script counts them.
    """

    def __init__(
        self, keys: Keys, epoch: str, settlement: Settlement, retention: Retention
    ) -> None:
        """Lay a settlement of at most MAX_JOBS jobs out."""
        self.ids: list[bytes] = []
        self._keys = keys
        self._sections: list[Any] = []
        self._lists: list[str] = []
        self._results: list[bytes] = []
        self._outcomes(settlement, retention)
        self._passed("R", settlement.released)
        self._passed("L", settlement.routed)
        self._notes(settlement)

        prefix = keys.job_prefix.encode()
        self.keys: list[Any] = [
            keys.lease(settlement.request),
            keys.epoch_leases(epoch),
            keys.counters,
            keys.scheduled,
            keys.dead,
            keys.crashes,
            keys.cancelled,
            keys.places(),
        ]
        self.keys += [prefix + job_id for job_id in self.ids]
        self.keys += self._lists
        self.keys += self._results
        self.args: list[Any] = [settlement.request, len(self.ids), *self.ids, *self._sections]

    def _outcomes(self, s: Settlement, retention: Retention) -> None:
        if s.dropped:
            self._sections += ("drop", len(s.dropped))
            self.ids += s.dropped
        for ttl_s, kept in s.kept.items():
            self._with_records("keep", ttl_s, kept)
        self._later(s.later)
        if s.failed:
            self._with_records("fail", retention.failed_s, s.failed)
        if s.lapsed:
            self._with_records("lapse", retention.completed_s, s.lapsed)
        if s.forgotten:
            self._sections += ("forget", len(s.forgotten), max(1, retention.completed_s))
            self.ids += s.forgotten
        if s.spared:
            self._sections += ("spare", len(s.spared))
            self.ids += s.spared

    def _with_records(self, op: str, ttl_s: int, jobs: Sequence[Recorded]) -> None:
        self._sections += (op, len(jobs), ttl_s)
        self.ids += [job_id for job_id, _ in jobs]
        self._sections += [record for _, record in jobs]

    def _later(self, later: Sequence[Scheduled]) -> None:
        by_counter: dict[str, list[Scheduled]] = {}
        for job in later:
            by_counter.setdefault(job[3], []).append(job)
        for counter, jobs in by_counter.items():
            self._sections += ("later", len(jobs), counter)
            for job_id, record, delay_ms, _ in jobs:
                self.ids.append(job_id)
                self._sections += (delay_ms, record)

    def _passed(self, end: str, jobs: Iterable[Released]) -> None:
        by_place: dict[str, list[bytes]] = {}
        for job_id, place in jobs:
            by_place.setdefault(place, []).append(job_id)
        for place, ids in by_place.items():
            # what goes back to the front is pushed oldest last, to be taken first
            self.ids += reversed(ids) if end == "R" else ids
            self._lists += (self._keys.waiting(place), self._keys.wake(place))
            self._sections += ("pass", len(ids), end, place)

    def _notes(self, s: Settlement) -> None:
        if not s.foreign and not s.results:
            return
        number = {job_id: index for index, job_id in enumerate(self.ids, 1)}
        if s.foreign:
            self._sections += ("foreign", len(s.foreign))
            self._sections += [number[job_id] for job_id in s.foreign]
        if s.results:
            self._sections += ("result", len(s.results))
        for job_id, ttl_s, message, fields in s.results:
            # a foreign id may be any bytes
            self._results.append(self._keys.result_prefix.encode() + job_id)
            channel = self._keys.notify_prefix.encode() + job_id
            note = (number[job_id], ttl_s, channel, message, len(fields))
            self._sections += note
            self._sections += fields
