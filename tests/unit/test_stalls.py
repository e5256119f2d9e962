"""Which workers have stopped asking for jobs: told by the table alone, whatever the cause."""

from __future__ import annotations

import pytest

from bananas.settings import Settings
from bananas.stalls import find_stalls, patience_s
from bananas.table import SlotState, Table

SECOND_NS = 1_000_000_000
NOW_NS = 1000 * SECOND_NS


def table_with(role: str = "worker", state: SlotState = SlotState.READY, **words: int) -> Table:
    """Return a table with one child, which asked for jobs 60 s ago and whose loop ticks."""
    table = Table.create(2, 1)
    slot = table.slot(1)
    slot.claim(role, now_ns=1)
    slot.state = state
    slot.pid, slot.ready_ns, slot.tick_ns = 7, SECOND_NS, NOW_NS
    slot.fetched_ns = NOW_NS - 60 * SECOND_NS
    for name, value in words.items():
        setattr(slot, name, value)
    return table


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({}, "Redis does not answer it, or its lease is over"),
        ({"cannot_settle": True}, "it cannot settle what it has done"),
        (
            {"tick_ns": NOW_NS - 30 * SECOND_NS, "cannot_settle": True},
            "its event loop has stood still for 30 s",
        ),
        ({"fetched_ns": 0, "ready_ns": NOW_NS - 60 * SECOND_NS}, "Redis does not answer it"),
    ],
)
def test_a_worker_that_does_not_ask_is_told_with_its_reason(
    words: dict[str, int], why: str
) -> None:
    """It is named by its pid, with how long and why."""
    (stall,) = find_stalls(table_with(**words), 30, NOW_NS)
    assert (stall.pid, stall.since_s) == (7, 60)
    assert str(stall).startswith(f"worker process 7 has not asked for jobs for 60 s: {why}")


@pytest.mark.parametrize("state", [s for s in SlotState if s is not SlotState.READY])
def test_who_should_take_no_jobs_is_not_stalled(state: SlotState) -> None:
    """Booting, quiet, draining and ended ones have reason not to ask."""
    assert find_stalls(table_with(state=state), 30, NOW_NS) == []


def test_others_are_not_stalled() -> None:
    """Not a warden, not one who asked within the limit, not one just ready, not an empty table."""
    assert find_stalls(table_with("warden"), 30, NOW_NS) == []
    assert find_stalls(table_with(), 60, NOW_NS) == []
    assert find_stalls(table_with(ready_ns=NOW_NS - SECOND_NS), 30, NOW_NS) == []
    assert find_stalls(Table.create(3, 1), 30, NOW_NS) == []


def test_patience_is_longer_than_a_wait_for_work() -> None:
    """An idle worker asks once per poll interval."""
    assert patience_s(Settings(poll_interval_s=20)) > 20 + 5
