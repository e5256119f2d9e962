"""The loop lane without a server: what begins, what ends how, and who is told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from bananas.context import running_job
from bananas.job import Job
from bananas.registry import Batching, Definition, TaskOptions
from bananas.settings import Settings
from bananas.table import Table
from bananas.worker import loop_lane
from bananas.worker.attempt import Attempt, Bunch, Lease
from bananas.worker.begun import BegunBoard
from bananas.worker.gate import Gate
from bananas.worker.loop_lane import SLICE, LoopLane
from bananas.worker.outcomes import Outcomes, RedisTime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio

HARD_GRACE_S = 10.0


class Yard:
    """A lane behind a gate, and one lease for all its jobs."""

    def __init__(self, runners: int) -> None:
        """Start nothing yet."""
        self.slot = Table.create(1, 64).slots[0]
        self.outcomes = Outcomes(Settings(), RedisTime(), lambda _: None)
        self.gate = Gate()
        board = BegunBoard(self.slot, 64, runners)
        self.lane = LoopLane(runners, self.outcomes, board, self.gate, hard_grace_s=HARD_GRACE_S)
        self.gate.guard(self.lane)
        self.lease = Lease("e", "r", 0)

    @property
    def done(self) -> list[bytes]:
        """The jobs that were completed, in the order of their ends."""
        return [job_id for jobs in self.lease.settlement.kept.values() for job_id, _ in jobs]

    @property
    def later(self) -> list[bytes]:
        """The jobs that run again."""
        return [job[0] for job in self.lease.settlement.later]

    def attempt(
        self, job_id: str, function: Callable[..., Any], *, limit_s: float = 60.0
    ) -> Attempt:
        """Return a run of one more job."""
        self.lease.open += 1
        job = Job(job_id, "t", payload_json=b"{}", place="queue:normal")
        kind = "async" if asyncio.iscoroutinefunction(function) else "inline"
        definition = Definition("t", function, kind, TaskOptions())
        return Attempt(self.lease, job_id.encode(), job, definition, limit_s)

    def bunch(self, function: Callable[..., Any], *ids: str, limit_s: float = 60.0) -> Bunch:
        """Return a call for several jobs."""
        definition = Definition("t", function, "batch", TaskOptions(), batching=Batching(9, 0.0))
        runs = [self.attempt(job_id, function, limit_s=limit_s) for job_id in ids]
        return Bunch(definition, runs)

    def put(self, *units: Attempt | Bunch) -> None:
        """Buffer units and have them begun."""
        for unit in units:
            self.lane.waiting.put(unit)
        self.lane.nudge()

    async def rested(self) -> None:
        """Wait until every runner rests."""
        await reached(lambda: not self.lane.busy and (not len(self.lane.waiting) or self.gate.held))


@asynccontextmanager
async def yard(runners: int = 2) -> AsyncIterator[Yard]:
    """Open a yard whose runners rest."""
    one = Yard(runners)
    one.lane.start()
    await one.rested()
    try:
        yield one
    finally:
        await one.lane.stop()


async def reached(holds: Callable[[], object]) -> None:
    """Give the others their turns until something holds."""
    async with asyncio.timeout(5):
        for _ in iter(lambda: bool(holds()), True):
            await asyncio.sleep(0)


async def nothing() -> None:
    """Do nothing."""


async def test_nothing_begins_once_the_lease_has_ended() -> None:
    """The unit goes back to the front, and the gate is barred before anybody has looked."""
    async with yard() as one:
        one.lane.lease_until_s = monotonic() - 0.001
        first, second = one.attempt("a", nothing), one.attempt("b", nothing)
        one.put(first, second)
        await one.rested()
        assert (one.gate.held, one.done, first.started_s) == (True, [], 0.0)
        one.lane.lease_until_s = float("inf")
        one.gate.bar(barred=False)
        await one.rested()
        assert one.done == [b"a", b"b"]


async def test_a_suspect_that_comes_to_run_too_late_is_one_still() -> None:
    """The lease may end between the gate's word and the runner's turn."""
    async with yard() as one:
        one.lane.lease_until_s = monotonic() - 0.001
        suspect = one.attempt("a", nothing)
        one.gate.suspect(one.lane, suspect)
        await one.rested()
        assert (one.done, one.gate.take_suspects()) == ([], [suspect])


async def test_nothing_begins_at_the_moment_the_lease_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another may hold the job from that moment on."""
    async with yard() as one:
        now_s = one.lane.lease_until_s = monotonic()
        monkeypatch.setattr(loop_lane, "monotonic", lambda: now_s)
        one.put(one.attempt("a", nothing))
        await one.rested()
        assert (one.gate.held, one.done) == (True, [])


async def test_a_suspect_begins_when_the_last_neighbour_has_ended() -> None:
    """The gate looks when a runner rests: nobody else would tell it so soon."""
    release = asyncio.Event()
    async with yard() as one:
        one.put(one.attempt("a", release.wait))
        await reached(one.lane.running)
        one.gate.suspect(one.lane, one.attempt("s", nothing))
        release.set()
        await reached(lambda: one.done == [b"a", b"s"])


async def test_while_held_only_the_suspect_begins() -> None:
    """What is buffered waits until the lane is let go."""
    async with yard() as one:
        one.lane.hold()
        one.put(one.attempt("a", nothing))
        one.lane.run_alone(one.attempt("s", nothing))
        await reached(lambda: not one.lane.busy)
        assert one.done == [b"s"]
        one.lane.unhold()
        await one.rested()
        assert one.done == [b"s", b"a"]


async def test_others_get_the_loop_between_slices_of_jobs() -> None:
    """Jobs that never wait do not keep everybody else waiting."""
    seen: list[int] = []
    async with yard(runners=1) as one:
        one.put(*(one.attempt(f"j{number}", nothing) for number in range(3 * SLICE)))
        while len(one.done) < 3 * SLICE:
            await asyncio.sleep(0)
            seen.append(len(one.done))
    assert {SLICE, 2 * SLICE} <= set(seen)


async def test_a_waiting_job_begins_beside_one_that_waits() -> None:
    """A resting runner is woken for what those at work have left in the buffer."""
    release = asyncio.Event()
    async with yard(runners=3) as one:
        one.put(*(one.attempt(job_id, release.wait) for job_id in "abc"))
        await reached(lambda: len(one.slot.begun()) == 3)
        release.set()
        await one.rested()


@pytest.mark.parametrize("gathers", [False, True])
async def test_a_handler_past_its_limit_is_cancelled_once_and_failed(gathers: bool) -> None:
    """Also when it swallows the cancellation and returns; and the runner's next job is spared."""
    cancels = 0

    async def stubborn(*_: object) -> None:
        nonlocal cancels
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancels += 1
            await asyncio.sleep(0)

    async def awaits() -> None:
        await asyncio.sleep(0)

    async with yard(runners=1) as one:
        late = (
            one.bunch(stubborn, "late", limit_s=0.5)
            if gathers
            else one.attempt("late", stubborn, limit_s=0.5)
        )
        one.put(late, one.attempt("next", awaits))
        await reached(lambda: late.started_s)
        for after_s in (0.4, 0.6, 0.7):
            one.lane.overdue(late.started_s + after_s)
            await asyncio.sleep(0)
        await one.rested()
        assert cancels == 1
        assert (one.later, one.done) == ([b"late"], [b"next"])
        one.lane.overdue(monotonic() + 1000)  # nobody is at work: nobody is cancelled
        one.put(one.attempt("after", awaits))
        await one.rested()
        assert one.done == [b"next", b"after"]


async def test_a_handler_that_cancels_its_own_task_harms_no_other() -> None:
    """Whoever awaits next in that task would be hit; a new one takes over."""

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def awaits() -> None:
        await asyncio.sleep(0)

    async with yard(runners=1) as one:
        one.put(one.attempt("a", cancels_itself), one.attempt("b", awaits))
        await reached(lambda: len(one.done) == 2)
        assert one.done == [b"a", b"b"]
        await one.rested()


@pytest.mark.parametrize("gathers", [False, True])
async def test_what_is_at_work_stands_in_shared_memory(gathers: bool) -> None:
    """With its hard deadline, while it runs and no longer."""
    release = asyncio.Event()

    async def waits(*_: object) -> None:
        await release.wait()

    async with yard() as one:
        one.put(
            one.bunch(waits, "a", limit_s=30.0)
            if gathers
            else one.attempt("a", waits, limit_s=30.0)
        )
        await reached(one.slot.begun)
        (entry,) = one.slot.begun()
        now_ns = int(monotonic() * 1e9)
        assert entry.job_id == b"a"
        assert one.slot.overdue(now_ns + int((30 + HARD_GRACE_S - 5) * 1e9)) == []
        assert one.slot.overdue(now_ns + int((30 + HARD_GRACE_S + 1) * 1e9)) == [b"a"]
        release.set()
        await one.rested()
        assert one.slot.begun() == []


async def test_a_handler_sees_its_own_job_and_leaves_no_trace_of_it() -> None:
    """The context is that of the run, and of nothing after it."""
    seen: list[object] = []

    async def looks() -> None:
        seen.append(running_job.get())

    async with yard(runners=1) as one:
        first = one.attempt("a", looks)
        one.put(first)
        await one.rested()
        one.put(one.bunch(lambda _: seen.append(running_job.get(None)), "b"))
        await one.rested()
    assert seen == [first, None]


async def test_a_job_given_back_while_it_runs_is_not_charged() -> None:
    """It is another's from now on."""

    async def waits() -> None:
        await asyncio.sleep(60)

    async with yard() as one:
        one.put(one.attempt("a", waits))
        await reached(one.lane.running)
        one.lane.give_back_running()
        await one.rested()
        assert one.lease.settlement.released == [(b"a", "queue:normal")]
        assert (one.later, one.lease.open) == ([], 0)


async def test_a_defect_of_ours_costs_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is failed, and its runner goes on."""
    async with yard(runners=1) as one:
        whole = one.outcomes.complete

        def complete(attempt: Attempt, value: object) -> None:
            if attempt.id == "a":
                raise RuntimeError("defect")
            whole(attempt, value)

        monkeypatch.setattr(one.outcomes, "complete", complete)
        one.put(one.attempt("a", nothing), one.attempt("b", nothing))
        await one.rested()
        assert [job_id for job_id, _ in one.lease.settlement.failed] == [b"a"]
        assert one.done == [b"b"]


@pytest.mark.parametrize("woken", [False, True])
async def test_a_stray_cancellation_ends_no_runner(*, woken: bool) -> None:
    """A timer that a job leaves behind hits its runner at rest, or as it is woken."""
    tasks: list[asyncio.Task[Any]] = []

    async def leaves_a_timer() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)

    async with yard() as one:
        for number in range(1, 6):
            one.put(one.attempt(f"a{number}", leaves_a_timer))
            await one.rested()
            if woken:
                one.put(one.attempt(f"b{number}", nothing))
            tasks.pop().cancel()
            await reached(lambda: all(not task.done() for task in one.lane.tasks))
            one.put(one.attempt(f"c{number}", nothing))
            await one.rested()
            assert len(one.done) == number * (3 if woken else 2)
        assert one.later == []


async def test_a_stray_cancellation_between_slices_ends_no_runner() -> None:
    """A runner that has left the loop to others for a turn holds no job, and is replaced."""
    count = 2 * SLICE
    async with yard(runners=1) as one:
        one.put(*(one.attempt(f"j{number}", nothing) for number in range(count)))
        await reached(lambda: len(one.done) == SLICE)
        one.lane.tasks[0].cancel()
        await one.rested()
        assert len(one.done) == count


async def test_a_runner_that_ends_by_an_error_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled ones have a successor; another end is a defect, and somebody must know."""
    ended: list[asyncio.Task[None]] = []

    def defect() -> None:
        raise RuntimeError("defect")

    async with yard(runners=1) as one:
        one.lane.on_end = ended.append
        monkeypatch.setattr(one.lane, "on_rest", defect)
        one.put(one.attempt("a", nothing))
        await reached(lambda: ended)
        assert str(ended[0].exception()) == "defect"


async def test_every_job_that_begins_is_counted() -> None:
    """Those of a bunch one by one: the worker's pace, and what it fetches, come from it."""
    async with yard() as one:
        one.put(one.attempt("a", nothing), one.bunch(lambda values: values, "b", "c", "d"))
        await one.rested()
        assert one.lane.started == 4


async def test_whoever_rests_says_so() -> None:
    """There is room again: the fetcher waits for that word."""
    rests: list[int] = []
    async with yard(runners=1) as one:
        one.lane.on_rest = lambda: rests.append(one.lane.busy)
        one.put(one.attempt("a", nothing))
        await reached(lambda: rests)
        assert rests == [0]


async def test_a_bunch_that_cancels_itself_was_not_too_late() -> None:
    """It fails by what it raised; only our limit makes that a time-out."""

    def cancelled(_values: list[Any]) -> None:
        raise asyncio.CancelledError

    async with yard() as one:
        one.put(one.bunch(cancelled, "a"))
        await one.rested()
        (ended,) = one.lease.settlement.later or one.lease.settlement.failed
        assert b"CancelledError" in ended[1]
