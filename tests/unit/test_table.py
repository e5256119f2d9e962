"""What a slot says is what was written to it, whoever looks, and whenever."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bananas.errors import FieldError
from bananas.table import DURATION_BOUNDS_S, JOB_ID_MAX_BYTES, Begun, Histogram, SlotState, Table

NUMBERS = (
    *("pid", "generation", "birth", "started_ns", "ready_ns", "tick_ns", "lease_until_ns"),
    *("rss_bytes", "started", "completed", "retried", "failed", "released", "stale"),
    *("fetched_ns", "poisoned", "reconciled", "fenced", "reclaimed_epochs", "reclaimed"),
    *("connects", "drops", "resends", "script_loads", "repeated"),
    *("exit_code", "exited_ns", "culprit_count"),
)
FLAGS = ("quiet", "recycle", "cannot_settle")
TEXTS = {"role": 15, "epoch": 32, "exit_reason": 63}


def test_new_slots_are_free_and_blank() -> None:
    """A new table has the slots asked for, all FREE, with nothing in them."""
    table = Table.create(3, 2)
    assert [slot.index for slot in table.slots] == [0, 1, 2]
    for slot in table.slots:
        assert slot.state is SlotState.FREE
        assert [getattr(slot, name) for name in NUMBERS] == [0] * len(NUMBERS)
        assert not any(getattr(slot, name) for name in FLAGS)
        assert [getattr(slot, name) for name in TEXTS] == ["", "", ""]
        assert slot.begun() == []
        assert slot.culprits == []
    assert table.live() == []


@pytest.mark.parametrize(("slots", "begun"), [(0, 1), (1, 0), (-1, 5)])
def test_an_empty_table_is_refused(slots: int, begun: int) -> None:
    """A table without slots, or slots without room for a job, cannot be made."""
    with pytest.raises(FieldError, match="must be >= 1"):
        Table.create(slots, begun)


def test_no_field_overlaps_another() -> None:
    """Every field of every slot keeps its own value when all are set."""
    table = Table.create(3, 4)
    for slot in table.slots:
        base = 1000 * (slot.index + 1)
        for offset, name in enumerate(NUMBERS[:-1]):
            setattr(slot, name, base + offset)
        for name in FLAGS:
            setattr(slot, name, True)
        for name, size in TEXTS.items():
            setattr(slot, name, name[0] * size)
        slot.culprits = [b"c%d" % base]
        for runner in range(4):
            slot.begin(runner, b"j" * JOB_ID_MAX_BYTES, base + runner)
        slot.run_time.observe(1e9)
        slot.wait_time.observe(0)
        slot.state = SlotState.DRAINING
    table.starts, table.crashes, table.boot_failures, table.kills = 1, 2, 3, 4
    for slot in table.slots:
        base = 1000 * (slot.index + 1)
        assert [getattr(slot, n) for n in NUMBERS[:-1]] == [*range(base, base + len(NUMBERS) - 1)]
        assert all(getattr(slot, name) for name in FLAGS)
        assert [getattr(slot, name) for name in TEXTS] == ["r" * 15, "e" * 32, "e" * 63]
        assert slot.culprits == [b"c%d" % base]
        assert slot.begun() == [Begun(r, b"j" * JOB_ID_MAX_BYTES, base + r) for r in range(4)]
        assert slot.run_time.counts == (*[0] * len(DURATION_BOUNDS_S), 1)
        assert slot.wait_time.counts == (1, *[0] * len(DURATION_BOUNDS_S))
        assert slot.state is SlotState.DRAINING
    assert (table.starts, table.crashes, table.boot_failures, table.kills) == (1, 2, 3, 4)


@settings(deadline=None)
@given(st.text())
def test_a_text_is_cut_between_characters(text: str) -> None:
    """A text that is too long keeps a beginning of whole characters, within its bytes."""
    slot = Table.create(1, 1).slot(0)
    slot.role = text
    kept = slot.role
    assert len(kept.encode()) <= 15
    seen = text.encode(errors="replace").decode()
    assert seen.startswith(kept)
    if len(seen.encode()) <= 15:
        assert kept == seen


def test_begin_and_end() -> None:
    """A runner has the job it began last, until it ends; ending twice is nothing."""
    slot = Table.create(1, 3).slot(0)
    slot.begin(0, b"a", 5)
    slot.begin(2, b"b", 0)
    assert slot.begun() == [Begun(0, b"a", 5), Begun(2, b"b", 0)]
    slot.begin(0, b"cc", 7)
    slot.end(2)
    slot.end(2)
    assert slot.begun() == [Begun(0, b"cc", 7)]


def test_overdue_jobs_are_those_past_their_deadline() -> None:
    """A begun job is overdue from its deadline on; one without a deadline, or ended, never is."""
    slot = Table.create(2, 4).slot(1)
    for runner, deadline_ns in enumerate((0, 100, 101, 50)):
        slot.begin(runner, b"job-%d" % runner, deadline_ns)
    slot.end(3)
    assert slot.overdue(99) == []
    assert slot.overdue(100) == [b"job-1"]
    assert slot.overdue(2**62) == [b"job-1", b"job-2"]


def test_begin_refuses_what_has_no_room() -> None:
    """An id above the limit and a runner above the count are refused, and change nothing."""
    slot = Table.create(2, 2).slot(0)
    with pytest.raises(FieldError, match="at most 128 bytes"):
        slot.begin(0, b"x" * (JOB_ID_MAX_BYTES + 1), 0)
    with pytest.raises(IndexError):
        slot.begin(2, b"x", 0)
    assert slot.begun() == []


def test_culprits_are_bounded_by_the_runners() -> None:
    """A slot blames as many jobs as it can have begun, and the last list counts."""
    slot = Table.create(1, 2).slot(0)
    slot.culprits = [b"a", b"b", b"c"]
    assert slot.culprits == [b"a", b"b"]
    slot.culprits = [b"z"]
    assert slot.culprits == [b"z"]


def test_claim_clears_the_child_and_keeps_the_counters() -> None:
    """A new child starts with a blank slot; what the host counted goes on."""
    slot = Table.create(1, 2).slot(0)
    slot.claim("worker", now_ns=1)
    slot.epoch, slot.exit_reason, slot.recycle, slot.tick_ns = "e" * 32, "gone", True, 9
    slot.completed = 7
    slot.run_time.observe(0.1)
    slot.culprits = [b"a"]
    slot.begin(1, b"a", 3)
    slot.state = SlotState.EXITED
    slot.claim("warden", now_ns=2)
    assert (slot.role, slot.state, slot.generation) == ("warden", SlotState.STARTING, 2)
    assert (slot.epoch, slot.exit_reason, slot.recycle, slot.tick_ns) == ("", "", False, 0)
    assert (slot.started_ns, slot.begun(), slot.culprits) == (2, [], [])
    assert (slot.completed, sum(slot.run_time.counts)) == (7, 1)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1000)))
def test_a_histogram_counts_each_duration_once(durations: list[float]) -> None:
    """Every duration falls into the first bucket whose bound is not below it."""
    slot = Table.create(1, 1).slot(0)
    for duration in durations:
        slot.wait_time.observe(duration)
    below = [sum(d <= bound for d in durations) for bound in DURATION_BOUNDS_S]
    counts = slot.wait_time.counts
    assert len(counts) == Histogram.WORDS - 1
    assert [sum(counts[: i + 1]) for i in range(len(below))] == below
    assert sum(counts) == len(durations)
    assert slot.wait_time.sum_s == pytest.approx(sum(durations), abs=1e-6 * (len(durations) + 1))


def test_a_reader_never_sees_a_torn_entry() -> None:
    """While a writer exchanges jobs, a reader sees whole ones with the deadline of their own."""
    slot = Table.create(1, 1).slot(0)
    over = threading.Event()

    def write() -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            size = turn % JOB_ID_MAX_BYTES + 1
            slot.begin(0, bytes([size]) * size, size)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [entry for _ in range(20_000) for entry in slot.begun()]
    finally:
        over.set()
        writer.join()
    assert seen
    for entry in seen:
        assert entry.job_id == bytes([entry.hard_deadline_ns]) * entry.hard_deadline_ns


def test_a_half_written_entry_does_not_count() -> None:
    """An entry whose stamp is not there yet is not there, whatever lies before the stamp."""
    slot = Table.create(1, 1).slot(0)
    slot.begin(0, b"whole", 1)
    stamp_at = slot.words.tolist().index(256 + len(b"whole"))
    slot.words[stamp_at] = 0
    assert b"whole" in bytes(slot.octets)
    assert slot.begun() == []


def test_live_slots_are_those_with_a_child() -> None:
    """FREE and EXITED slots have no child; all others have."""
    table = Table.create(len(SlotState), 1)
    for slot, state in zip(table.slots, SlotState, strict=True):
        slot.state = state
    assert [s.state for s in table.live()] == [
        *(SlotState.STARTING, SlotState.READY, SlotState.QUIET, SlotState.DRAINING)
    ]
    assert "READY" in repr(table.slot(SlotState.READY))


def test_it_is_shared_with_a_child() -> None:
    """What a forked child writes, its parent reads."""
    # In a process of its own: this one may have threads, which a fork would not carry over.
    code = """if True:
        import os
        from bananas.table import Table
        slot = Table.create(1, 1).slot(0)
        if os.fork() == 0:
            slot.begin(0, b"job", 42)
            slot.completed += 3
            os._exit(0)
        os.wait()
        print(slot.begun(), slot.completed)
    """
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == f"{[Begun(0, b'job', 42)]} 3\n"
