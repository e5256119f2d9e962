"""The parts of a worker that need no server: gate, buffer, pace, room, places, notes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.broker import Specials
from bananas.job import Job
from bananas.registry import Batching, Definition, TaskOptions
from bananas.settlement import Settlement
from bananas.table import Table
from bananas.worker.attempt import Attempt, Bunch, Lease
from bananas.worker.begun import BegunBoard
from bananas.worker.buffer import Buffer
from bananas.worker.bunches import Gatherer, Items
from bananas.worker.gate import Gate
from bananas.worker.outcomes import RedisTime, describe
from bananas.worker.places import Service
from bananas.worker.room import Pace
from bananas.worker.settler import _parts

if TYPE_CHECKING:
    from collections.abc import Callable


def attempt(
    job_id: str = "j",
    priority: str = "normal",
    *,
    function: Callable[..., Any] = print,
    payload: bytes = b"null",
) -> Attempt:
    """Return a run of a job that nobody leased."""
    job = Job(job_id, "t", priority=priority, payload_json=payload, place=f"queue:{priority}")
    definition = Definition("t", function, "async", TaskOptions())
    return Attempt(Lease("e", "r", 1), job_id.encode(), job, definition, 60.0)


def bunch(*names: str) -> Bunch:
    """Return a bunch of runs."""
    runs = [attempt(name) for name in names]
    return Bunch(runs[0].definition, runs)


class Lane:
    """A lane that notes what the gate asks of it."""

    def __init__(self) -> None:
        """Start at rest."""
        self.busy = 0
        self.held = False
        self.alone: list[object] = []

    def hold(self) -> None:
        """Note it."""
        self.held = True

    def unhold(self) -> None:
        """Note it."""
        self.held = False

    def run_alone(self, unit: object) -> None:
        """Note it."""
        self.busy += 1
        self.alone.append(unit)


# --- buffer ---------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["high", "normal", "low"])))
def test_a_buffer_is_strict_in_priority_and_first_in_first_out(priorities: list[str]) -> None:
    """What comes out is sorted by priority, and by arrival within one."""
    buffer = Buffer()
    units = [attempt(str(n), priority) for n, priority in enumerate(priorities)]
    for unit in units:
        buffer.put(unit)
    rank = {"high": 0, "normal": 1, "low": 2}
    assert list(iter(buffer.pop, None)) == sorted(units, key=lambda unit: rank[unit.priority])
    assert len(buffer) == 0


def test_a_buffer_gives_up_the_last_ones_first_and_takes_back_at_the_front() -> None:
    """`pop_last` is the reverse of `pop`; `put_first` undoes a `pop`."""
    buffer = Buffer()
    units = [attempt("a", "high"), attempt("b"), attempt("c"), attempt("d", "low")]
    for unit in units:
        buffer.put(unit)
    assert buffer.pop_last() is units[3]
    first = buffer.pop()
    assert first is units[0]
    buffer.put_first(first)
    assert buffer.pop() is units[0]
    assert list(iter(buffer.pop, None)) == units[1:3]


def test_everything_is_taken_out_of_a_buffer_the_last_ones_first() -> None:
    """Runs, be they alone or in bunches; nothing is left."""
    buffer = Buffer()
    units = [attempt("a", "high"), bunch("x", "y"), attempt("b"), attempt("c", "low")]
    for unit in units:
        buffer.put(unit)
    assert [run.id for run in buffer.take_all()] == ["c", "b", "x", "y", "a"]
    assert len(buffer) == 0


def test_a_hoard_is_made_of_single_jobs_alone() -> None:
    """Bunches stay, in their order, whatever lies around them."""
    buffer = Buffer()
    units = [attempt("a"), bunch("x", "y"), attempt("b"), bunch("z"), attempt("c")]
    for unit in units:
        buffer.put(unit)
    assert buffer.take_hoard(2) == [units[4], units[2]]
    assert list(iter(buffer.pop, None)) == [units[0], units[1], units[3]]


@pytest.mark.parametrize(("keep", "taken"), [(3, ""), (2, "c"), (1, "cb"), (0, "cba")])
def test_a_hoard_is_what_exceeds_a_number(keep: int, taken: str) -> None:
    """Not one job more is taken out."""
    buffer = Buffer()
    for name, priority in (("a", "high"), ("b", "normal"), ("c", "low")):
        buffer.put(attempt(name, priority))
    assert [run.id for run in buffer.take_hoard(keep)] == list(taken)


@pytest.mark.parametrize(("keep_items", "taken"), [(3, ""), (2, "z"), (1, "zxy"), (0, "zxy")])
def test_bunches_are_taken_out_by_their_items(keep_items: int, taken: str) -> None:
    """The last ones first, and single jobs stay in their order."""
    buffer = Buffer()
    singles = [attempt("a"), attempt("b")]
    for unit in (singles[0], bunch("x", "y"), singles[1], bunch("z")):
        buffer.put(unit)
    assert [run.id for run in buffer.take_bunches(keep_items)] == list(taken)
    assert [unit for unit in iter(buffer.pop, None) if isinstance(unit, Attempt)] == singles


# --- gate -----------------------------------------------------------------------------------------


def test_a_suspect_waits_for_all_lanes_and_holds_them_until_it_is_over() -> None:
    """It runs when nobody else does, one suspect after the other; then the lanes are let go."""
    gate, first, second = Gate(), Lane(), Lane()
    gate.guard(first, second)  # type: ignore[arg-type]
    second.busy = 1
    suspects = [attempt("a"), attempt("b")]
    for suspect in suspects:
        gate.suspect(first, suspect)  # type: ignore[arg-type]
    assert first.held
    assert second.held
    assert first.alone == []
    second.busy = 0
    gate.settle()
    assert first.alone == suspects[:1]
    gate.settle()
    assert first.alone == suspects[:1]
    suspects[0].finished = True
    first.busy = 0
    gate.settle()
    assert first.alone == suspects
    suspects[1].finished = True
    first.busy = 0
    gate.settle()
    assert not first.held
    assert not second.held


def test_a_suspect_that_is_over_lets_go_although_a_neighbour_runs_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own end counts, not that of a neighbour that it did not wait for."""
    monkeypatch.setattr("bananas.worker.gate.PATIENCE_S", 0.0)
    gate, lane = Gate(), Lane()
    gate.guard(lane)  # type: ignore[arg-type]
    lane.busy = 1
    unit = bunch("a", "b")
    gate.suspect(lane, unit)  # type: ignore[arg-type]
    assert lane.alone == [unit]
    for run in unit.attempts:
        run.finished = True
    lane.busy = 1
    gate.settle()
    assert not lane.held


def test_a_suspect_waits_until_what_ended_before_it_is_settled() -> None:
    """Else its death takes outcomes of innocents with it, and they run again."""
    gate, lane = Gate(), Lane()
    gate.guard(lane)  # type: ignore[arg-type]
    settled = False
    gate.is_settled = lambda: settled
    gate.suspect(lane, attempt())  # type: ignore[arg-type]
    assert lane.held
    assert lane.alone == []
    settled = True
    gate.settle()
    assert len(lane.alone) == 1


def test_a_barred_gate_lets_nobody_through() -> None:
    """While the lease is over even a suspect with nobody beside it waits."""
    gate, lane = Gate(), Lane()
    gate.guard(lane)  # type: ignore[arg-type]
    gate.bar(barred=True)
    assert lane.held
    gate.suspect(lane, attempt())  # type: ignore[arg-type]
    assert lane.alone == []
    gate.bar(barred=False)
    assert len(lane.alone) == 1


# --- places ---------------------------------------------------------------------------------------


def test_places_of_a_general_worker() -> None:
    """Keys in order, priorities within; the lists of special tasks that it knows beside them."""
    service = Service(("gpu", "default"), ("high", "low"))
    assert service.places({"mine"}, Specials("1", frozenset({"mine", "other"}))) == [
        "route:gpu:queue:high",
        "route:gpu:task:mine:queue:high",
        "route:gpu:queue:low",
        "route:gpu:task:mine:queue:low",
        "queue:high",
        "task:mine:queue:high",
        "queue:low",
        "task:mine:queue:low",
    ]
    assert service.sources() == []


def test_places_by_priority_first() -> None:
    """High of all keys before low of any."""
    service = Service(("gpu", "default"), ("high", "low"), by_priority=True)
    assert service.places((), Specials()) == [
        "route:gpu:queue:high",
        "queue:high",
        "route:gpu:queue:low",
        "queue:low",
    ]


def test_sources_of_restricted_workers() -> None:
    """A specialist looks through common lists of its keys, a worker of one key the default ones."""
    default = ["queue:high", "queue:normal", "queue:low"]
    assert Service(("gpu",), ("high",)).sources() == default
    specialist = Service(("gpu",), ("high",), ("mine",))
    assert specialist.sources() == [f"route:gpu:{name}" for name in default] + default
    assert specialist.places((), Specials()) == ["route:gpu:task:mine:queue:high"]


# --- the rest -------------------------------------------------------------------------------------


def test_a_pace_rises_at_once_and_falls_slowly() -> None:
    """Half of a rise counts at once; a stall is forgotten within about half a second."""
    pace = Pace(0.0)
    pace.saw(100, 0.1)
    assert pace.per_s == pytest.approx(500)
    pace.saw(100, 0.2)
    assert pace.per_s == pytest.approx(400)
    pace.saw(100, 0.7)
    assert pace.per_s == pytest.approx(0)


def test_jobs_that_end_together_are_not_short() -> None:
    """Their time began when the last ones ended, or when somebody was at work again."""
    pace = Pace(0.0)
    for look in range(1, 16):
        pace.saw(0, look * 0.05, busy=10)
    pace.saw(10, 0.8, busy=0)  # all at once, 0.05 s after the last look
    assert pace.per_s == pytest.approx(10 / 0.8 / 2)
    pace.saw(10, 10.0, busy=0)
    assert pace.per_s == 0
    pace.saw(20, 10.1, busy=10)
    assert pace.per_s == pytest.approx(50), "the time at rest is no job's"


def test_a_pace_is_no_more_than_those_at_work_allow() -> None:
    """While none of four ends for two seconds, no more than two a second do."""
    pace = Pace(0.0)
    pace.saw(1_000, 0.1)
    pace.saw(1_000, 2.1, busy=4)
    assert pace.per_s == pytest.approx(2)
    pace.saw(1_004, 4.1, busy=4)
    assert pace.per_s == pytest.approx(1), "the four took all that time"


def test_notes_of_a_bunch_are_lent_and_returned() -> None:
    """No item takes none; more items than room leave the last ones unwritten."""
    table = Table.create(1, 6)
    slot = table.slot(0)
    board = BegunBoard(slot, 6, 2)
    assert board.begin_all([], 0) == []
    taken = board.begin_all([attempt(str(n)) for n in range(3)], 5)
    more = board.begin_all([attempt(str(n)) for n in range(3, 6)], 5)
    assert (len(taken), len(more)) == (3, 1)
    assert {entry.job_id for entry in slot.begun()} == {b"0", b"1", b"2", b"3"}
    board.end_all(taken)
    board.end_all(more)
    assert slot.begun() == []
    assert len(board.begin_all([attempt(str(n)) for n in range(4)], 5)) == 4


async def test_a_gatherer_sends_full_bunches_at_once_and_others_in_time() -> None:
    """Priorities gather apart; what was taken out is not sent."""
    sent: list[list[str]] = []
    definition = Definition("b", print, "batch", TaskOptions(), Batching(2, 0.02))
    gatherer = Gatherer(definition, lambda unit: sent.append([run.id for run in unit.attempts]))
    for name in "abc":
        gatherer.put(attempt(name))
    gatherer.put(attempt("h", "high"))
    assert sent == [["a", "b"]]
    assert len(gatherer) == 2
    await asyncio.sleep(0.05)
    assert sorted(sent[1:]) == [["c"], ["h"]]
    gatherer.put(attempt("z"))
    assert [run.id for run in gatherer.take()] == ["z"]
    await asyncio.sleep(0.05)
    assert len(sent) == 3


def test_items_that_do_not_decode_are_set_apart() -> None:
    """The handler gets the others; each broken one is known with its reason."""
    definition = Definition("b", print, "batch", TaskOptions(), Batching())
    items = Items(Bunch(definition, [attempt("a", payload=b"{"), attempt("b", payload=b"7")]))
    assert items.values == [7]
    assert [run.id for run, _ in items.broken] == ["a"]


def test_a_settlement_is_cut_so_that_nothing_is_lost_and_the_front_keeps_its_order() -> None:
    """Every entry is in exactly one part; what is given back goes newest part first."""
    whole = Settlement("r")
    whole.dropped = [b"d%d" % n for n in range(700)]
    whole.released = [(b"r%d" % n, "queue:normal") for n in range(1200)]
    whole.foreign = [b"d699", b"r3"]
    whole.results = [(b"d600", 1, b"completed", ["status", "completed"])]
    parts = _parts(whole)
    assert all(len(part) <= 500 for part in parts)
    assert [i for part in parts for i in part.dropped] == whole.dropped
    released = [part.released for part in parts if part.released]
    assert [entry for part in reversed(released) for entry in part] == whole.released
    for part in parts:
        assert set(part.foreign) <= set(part.ids())
        assert {result[0] for result in part.results} <= set(part.ids())
    assert sum(len(part.foreign) for part in parts) == 2
    assert _parts(Settlement("r")) == []


def test_a_settlement_is_cut_by_bytes_too() -> None:
    """Records and results of a call stay about a MiB, but for a job that has more alone."""
    whole = Settlement("r")
    whole.kept = {5: [(b"k%d" % n, b"x" * 300_000) for n in range(10)]}
    whole.failed = [(b"f%d" % n, b"x" * 3_000_000) for n in range(3)]
    whole.later = [(b"l%d" % n, b"x" * 600_000, 1, "retried") for n in range(3)]
    whole.dropped = [b"d%d" % n for n in range(20)]
    whole.results = [
        (b"d%d" % n, 1, b"completed", ["result", b"y" * 200_000, "duration_ms", 1])
        for n in range(20)
    ]
    parts = _parts(whole)
    assert sorted(i for part in parts for i in part.ids()) == sorted(whole.ids())
    assert [i for part in parts for i in part.dropped] == whole.dropped
    for part in parts:
        total = sum(len(result[3][1]) for result in part.results)  # type: ignore[arg-type]
        for entries in (part.failed, part.later, *part.kept.values()):
            total += sum(len(entry[1]) for entry in entries)
        assert total <= 1 << 20 or len(part) == 1
        assert {result[0] for result in part.results} <= set(part.ids())
    assert sum(len(part.results) for part in parts) == 20
    assert len(parts) == 4 + 3 + 3 + 4


def test_redis_time_follows_the_last_answer() -> None:
    """What Redis said last, and the time since; the text is at most a millisecond old."""
    clock = RedisTime()
    clock.heard(1_800_000_000_000)
    assert 0 <= clock.now_us() - 1_800_000_000_000_000 < 1_000_000
    assert clock.text().startswith("2027-01-15T08:00:0")


def test_an_error_is_described_whatever_its_text_does() -> None:
    """A text that raises is told by the names of both."""

    class Mute(Exception):  # noqa: N818 - it is about its text
        def __str__(self) -> str:
            raise KeyboardInterrupt

    assert describe(ValueError("x")) == "ValueError: x"
    assert describe(Mute()) == "Mute (its text raises KeyboardInterrupt)"
