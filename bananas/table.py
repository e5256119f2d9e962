"""The shared memory that a supervisor and its children see each other through.

One anonymous mapping, made before the first fork, with one slot a child. A child writes
what it does (state, loop tick, ids begun, counters); the supervisor writes what became of
it; the warden reads both. No lock: every number is one aligned 64-bit store, every text or
id is published by the word written last, and each field has one writer at a time.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_left
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self, overload

from bananas.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

JOB_ID_MAX_BYTES: Final = 128
ROLE_MAX_BYTES: Final = 15
DURATION_BOUNDS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""Upper bounds of the histograms' buckets; one more bucket holds what is longer."""

_WORD: Final = 8
_LINE_WORDS: Final = 8  # slots start on a cache line of their own, 64 bytes

# Entry of a begun job, culprit or not: id (zero padded), hard deadline, stamp.
# The stamp comes last: it is what makes the entry count.
_ENTRY: Final = struct.Struct("128sqq")
_pack_entry: Final = _ENTRY.pack_into
_ENTRY_WORDS: Final = _ENTRY.size // _WORD
_STAMP: Final = _ENTRY_WORDS - 1
# A stamp is `serial * 256 + length`, so that it differs from one job to the next and a reader
# who looks twice knows whether the id under it was exchanged in between.
_SERIAL: Final = 256


_LONGEST_S: Final = 1e7
"""Longest duration that a sum takes over whole: four months."""
_MOST_US: Final = (1 << 63) - 1


class SlotState(IntEnum):
    """What a slot's child is doing; the supervisor writes STARTING and EXITED, the child the rest.

    FREE is written by the warden once it has returned a dead child's jobs, or by the supervisor
    when the child held no lease (no epoch).
    """

    FREE = 0
    STARTING = 1
    READY = 2
    QUIET = 3
    DRAINING = 4
    EXITED = 5


class Begun(NamedTuple):
    """One job that a child's handler is working on."""

    runner: int
    """Which of the child's runners has it, from 0."""
    job_id: bytes
    hard_deadline_ns: int
    """CLOCK_MONOTONIC; 0 = none."""


class _Block(Protocol):
    """A stretch of the mapping, addressed in words."""

    @property
    def words(self) -> memoryview[int]: ...
    @property
    def octets(self) -> memoryview[int]: ...
    @property
    def base(self) -> int: ...


class _Word:
    """A signed 64-bit field: one store, one load, never torn."""

    __slots__ = ("_at",)

    def __init__(self, at: int) -> None:
        self._at = at

    @overload
    def __get__(self, block: None, owner: type) -> Self: ...
    @overload
    def __get__(self, block: _Block, owner: type) -> int: ...
    def __get__(self, block: _Block | None, owner: type) -> int | Self:
        return self if block is None else block.words[block.base + self._at]

    def __set__(self, block: _Block, value: int) -> None:
        block.words[block.base + self._at] = value


class _Flag:
    """A yes or no in a word of its own, so that no writer touches a neighbour's flag."""

    __slots__ = ("_at",)

    def __init__(self, at: int) -> None:
        self._at = at

    @overload
    def __get__(self, block: None, owner: type) -> Self: ...
    @overload
    def __get__(self, block: _Block, owner: type) -> bool: ...
    def __get__(self, block: _Block | None, owner: type) -> bool | Self:
        return self if block is None else bool(block.words[block.base + self._at])

    def __set__(self, block: _Block, value: bool) -> None:
        block.words[block.base + self._at] = int(value)


class _Text:
    """A short UTF-8 text, cut at `capacity` bytes; its length is written last."""

    __slots__ = ("_at", "_capacity")

    def __init__(self, at: int, capacity: int) -> None:
        self._at = at
        self._capacity = capacity

    @overload
    def __get__(self, block: None, owner: type) -> Self: ...
    @overload
    def __get__(self, block: _Block, owner: type) -> str: ...
    def __get__(self, block: _Block | None, owner: type) -> str | Self:
        if block is None:
            return self
        at = block.base + self._at
        length = min(max(block.words[at], 0), self._capacity)
        start = (at + 1) * _WORD
        return bytes(block.octets[start : start + length]).decode(errors="replace")

    def __set__(self, block: _Block, value: str) -> None:
        data = value.encode(errors="replace")[: self._capacity]
        data = data.decode(errors="ignore").encode()  # drops a character cut in two
        at = block.base + self._at
        start = (at + 1) * _WORD
        block.words[at] = 0
        block.octets[start : start + len(data)] = data
        block.words[at] = len(data)


class Histogram:
    """Durations counted by bucket (`DURATION_BOUNDS_S`); one writer, any reader."""

    WORDS: Final = len(DURATION_BOUNDS_S) + 2  # the buckets, the one above them, the sum
    __slots__ = ("base", "words")

    def __init__(self, words: memoryview[int], base: int) -> None:
        """View the histogram that starts at word `base`."""
        self.words = words
        self.base = base

    def observe(self, duration_s: float) -> None:
        """Count one duration, whatever it is: below 0 counts as 0."""
        words, total = self.words, self.base + self.WORDS - 1
        words[self.base + bisect_left(DURATION_BOUNDS_S, duration_s)] += 1
        # the oldest dates in use lie two thousand years back, and a sum must not overflow
        added_us = int(min(max(0.0, duration_s), _LONGEST_S) * 1e6)
        words[total] = min(words[total] + added_us, _MOST_US)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many fell into each bucket, the one above the last bound included; not cumulative."""
        return tuple(self.words[self.base : self.base + self.WORDS - 1])

    @property
    def sum_s(self) -> float:
        """The sum of all durations, to the microsecond."""
        return self.words[self.base + self.WORDS - 1] / 1e6


# Word offsets inside a slot. Texts take a word for the length, then their bytes.
_ROLE = 34
_EPOCH, _EPOCH_BYTES = 37, 32
_REASON, _REASON_BYTES = 42, 63
_RUN = 51
_WAIT = _RUN + Histogram.WORDS
_FIXED_WORDS = _WAIT + Histogram.WORDS


class Slot:
    """One child's part of the table, a view without state of its own but the serial of `begin`.

    Counters and histograms outlive the child: they only grow while the supervisor lives, as a
    scraper of metrics expects.
    """

    __slots__ = (
        "_begun_at",
        "_begun_bytes",
        "_culprits_at",
        "_deadlines",
        "_limit",
        "_serial",
        "_stamps",
        "base",
        "index",
        "octets",
        "run_time",
        "wait_time",
        "words",
    )

    state_word = _Word(0)
    pid = _Word(1)
    generation = _Word(2)
    """How many children this slot has had."""
    birth = _Word(3)
    """Start time of the process in kernel ticks (0 = unknown): pid and birth name it for ever."""
    started_ns = _Word(4)
    ready_ns = _Word(5)
    tick_ns = _Word(6)
    """CLOCK_MONOTONIC, written by the child's own loop at each round; 0 = has none."""
    lease_until_ns = _Word(7)
    """CLOCK_BOOTTIME up to which the epoch's lease holds; written by the warden."""
    quiet = _Flag(8)
    """Take no new jobs; written by the supervisor."""
    recycle = _Flag(9)
    """The child asks to be replaced."""
    cannot_settle = _Flag(10)
    rss_bytes = _Word(11)
    started = _Word(12)
    completed = _Word(13)
    retried = _Word(14)
    failed = _Word(15)
    released = _Word(16)
    stale = _Word(17)
    """Outcomes refused: the lease was no longer ours."""
    exit_code = _Word(18)
    """As `os.waitstatus_to_exitcode`: the exit status, or minus the signal."""
    exited_ns = _Word(19)
    culprit_count = _Word(20)
    killed = _Flag(21)
    """The supervisor ended the child; without culprits, for no job's sake."""
    fetched_ns = _Word(22)
    """CLOCK_MONOTONIC of a worker's last answer to a request for jobs, or of its last look that
    found no need to ask; 0 = not asked yet, or not a worker."""
    poisoned = _Word(23)
    """Jobs failed for taking down their process too often."""
    reconciled = _Word(24)
    """Jobs given back because the answer that brought them was lost."""
    fenced = _Word(25)
    """Epochs of its own that a worker lost."""
    reclaimed_epochs = _Word(26)
    """Epochs whose jobs a warden has given back."""
    reclaimed = _Word(27)
    """Jobs among them."""
    connects = _Word(28)
    """Connections to Redis made, the first ones included."""
    drops = _Word(29)
    """Connections to Redis lost or given up."""
    resends = _Word(30)
    """Calls sent again because their answer was lost."""
    script_loads = _Word(31)
    """Scripts sent anew because the server did not have them."""
    repeated = _Word(32)
    """Outcomes found in effect already by the repeat of their call."""
    named = _Flag(33)
    """The child itself has named the culprits, asked who has its loop."""
    role = _Text(_ROLE, ROLE_MAX_BYTES)
    epoch = _Text(_EPOCH, _EPOCH_BYTES)
    exit_reason = _Text(_REASON, _REASON_BYTES)

    def __init__(
        self, words: memoryview[int], octets: memoryview[int], base: int, index: int, limit: int
    ) -> None:
        """View slot `index`, which starts at word `base` and has `limit` entries."""
        self.words = words
        self.octets = octets
        self.base = base
        self.index = index
        self._limit = limit
        self._culprits_at = base + _FIXED_WORDS
        self._begun_at = self._culprits_at + limit * _ENTRY_WORDS
        self._begun_bytes = [(self._begun_at + i * _ENTRY_WORDS) * _WORD for i in range(limit)]
        # Every stamp and every deadline of the begun jobs, as arrays: read in one go.
        entries = words[self._begun_at : self._begun_at + limit * _ENTRY_WORDS]
        self._stamps = entries[_STAMP::_ENTRY_WORDS]
        self._deadlines = entries[_STAMP - 1 :: _ENTRY_WORDS]
        self._serial = 0
        self.run_time = Histogram(words, base + _RUN)
        """Of about one run in 16: to look at the clock costs each a little."""
        self.wait_time = Histogram(words, base + _WAIT)
        """From the creation of a job to its arrival here, of one job a batch."""

    @property
    def state(self) -> SlotState:
        """What the child is doing."""
        return SlotState(self.state_word)

    @state.setter
    def state(self, value: SlotState) -> None:
        self.state_word = value

    def begin(self, index: int, job_id: bytes, hard_deadline_ns: int) -> None:
        """Say that runner `index` starts the job; overwrites what the runner had before.

        Args:
            index: The runner, 0 <= index < `begun_per_slot`.
            job_id: At most `JOB_ID_MAX_BYTES`.
            hard_deadline_ns: CLOCK_MONOTONIC after which the process is ended; 0 = never.

        Raises:
            FieldError: The id is too long.
            IndexError: There is no such runner.
        """
        length = len(job_id)
        if length > JOB_ID_MAX_BYTES:
            raise FieldError("job_id", f"must have at most {JOB_ID_MAX_BYTES} bytes", length)
        self._serial = serial = self._serial + _SERIAL
        _pack_entry(
            self.octets, self._begun_bytes[index], job_id, hard_deadline_ns, serial + length
        )

    def end(self, index: int) -> None:
        """Say that runner `index` has nothing begun any more."""
        self.words[self._begun_at + index * _ENTRY_WORDS + _STAMP] = 0

    def begun(self) -> list[Begun]:
        """Return the jobs begun and not ended, by runner; safe while the child writes."""
        runners = [i for i, stamp in enumerate(self._stamps.tolist()) if stamp]
        return [*self._entries(self._begun_at, runners)]

    def overdue(self, now_ns: int) -> list[bytes]:
        """Return the ids of the jobs begun whose hard deadline is not after `now_ns`.

        As `begun`, for one who looks often: it costs little per runner that has nothing overdue.
        """
        runners = [i for i, at in enumerate(self._deadlines.tolist()) if 0 < at <= now_ns]
        entries = self._entries(self._begun_at, runners)
        return [e.job_id for e in entries if 0 < e.hard_deadline_ns <= now_ns]

    @property
    def culprits(self) -> list[bytes]:
        """The jobs that the supervisor ended the child for, by id; the child may name others."""
        count = min(self.culprit_count, self._limit)
        return [entry.job_id for entry in self._entries(self._culprits_at, range(count))]

    @culprits.setter
    def culprits(self, job_ids: list[bytes]) -> None:
        kept = job_ids[: self._limit]
        self.culprit_count = 0
        for index, job_id in enumerate(kept):
            at = (self._culprits_at + index * _ENTRY_WORDS) * _WORD
            _pack_entry(self.octets, at, job_id, 0, _SERIAL + len(job_id))
        self.culprit_count = len(kept)

    def claim(self, role: str, *, now_ns: int) -> None:
        """Make the slot ready for a new child, STARTING; counters and histograms stay."""
        self.pid = self.birth = self.ready_ns = self.tick_ns = self.lease_until_ns = 0
        self.fetched_ns = 0
        self.quiet = self.recycle = self.cannot_settle = self.killed = self.named = False
        self.rss_bytes = self.exit_code = self.exited_ns = self.culprit_count = 0
        self.epoch = self.exit_reason = ""
        for index in range(self._limit):
            self.end(index)
        self.role = role
        self.started_ns = now_ns
        self.generation += 1
        self.state = SlotState.STARTING

    def _entries(self, at: int, indexes: Iterable[int]) -> Iterator[Begun]:
        words = self.words
        for index in indexes:
            stamp_at = at + index * _ENTRY_WORDS + _STAMP
            stamp = words[stamp_at]
            while stamp > 0:
                start = (at + index * _ENTRY_WORDS) * _WORD
                job_id = bytes(self.octets[start : start + stamp % _SERIAL])
                deadline_ns = words[stamp_at - 1]
                seen, stamp = stamp, words[stamp_at]
                if stamp == seen:
                    yield Begun(index, job_id, deadline_ns)
                    break

    def __repr__(self) -> str:
        """Return the index, the role and the state."""
        return f"<Slot {self.index} {self.role or '-'} {self.state.name} pid={self.pid}>"


class Totals:
    """Counts of one child, added to those that its slot has from the children before it."""

    def __init__(self, slot: Slot) -> None:
        """Add to this slot."""
        self._slot = slot
        self._published: dict[str, int] = {}

    def publish(self, **counts: int) -> None:
        """Bring the slot's words of these names up to what the child has counted so far."""
        slot, published = self._slot, self._published
        for name, count in counts.items():
            seen = published.get(name, 0)
            if count != seen:
                setattr(slot, name, getattr(slot, name) + count - seen)
                published[name] = count


class Table:
    """All the slots of one supervisor, in one mapping that its children inherit by fork."""

    _HEADER_WORDS: Final = 8

    starts = _Word(0)
    """Children started so far, of all roles."""
    crashes = _Word(1)
    boot_failures = _Word(2)
    kills = _Word(3)
    """Children ended by SIGABRT or SIGKILL of ours."""
    supervisor_pid = _Word(4)

    def __init__(self, memory: mmap.mmap, slots: int, begun_per_slot: int) -> None:
        """View `memory`, laid out by `create`."""
        self._memory = memory
        self.octets = memoryview(memory)
        self.words: memoryview[int] = self.octets.cast("q")
        self.base = 0
        self.begun_per_slot = begun_per_slot
        stride = self._stride(begun_per_slot)
        self.slots = tuple(
            Slot(self.words, self.octets, self._HEADER_WORDS + i * stride, i, begun_per_slot)
            for i in range(slots)
        )

    @classmethod
    def create(cls, slots: int, begun_per_slot: int) -> Table:
        """Map a table of FREE slots; call it before any fork.

        Args:
            slots: Children at once, those that ended and wait for the warden included; >= 1.
            begun_per_slot: Jobs that a child may have begun at once; >= 1.

        Raises:
            FieldError: One of the two is below 1.
        """
        for name, value in (("slots", slots), ("begun_per_slot", begun_per_slot)):
            if value < 1:
                raise FieldError(name, "must be >= 1", value)
        words = cls._HEADER_WORDS + slots * cls._stride(begun_per_slot)
        return cls(mmap.mmap(-1, words * _WORD), slots, begun_per_slot)

    @staticmethod
    def _stride(begun_per_slot: int) -> int:
        words = _FIXED_WORDS + 2 * begun_per_slot * _ENTRY_WORDS
        return -(-words // _LINE_WORDS) * _LINE_WORDS

    def slot(self, index: int) -> Slot:
        """Return the view of one slot, 0 <= index < len(slots)."""
        return self.slots[index]

    def live(self) -> list[Slot]:
        """Return the slots that have a child, booting and draining ones included."""
        return [s for s in self.slots if SlotState.FREE < s.state < SlotState.EXITED]
