"""Runners on the event loop: long-lived coroutines that await handler after handler.

No task and no timer a job: a no-op handler costs one await. A runner leaves the loop to
others after a slice of jobs, and its cancellation is how a soft time limit reaches the
handler.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from bananas.codec import decode_payload
from bananas.context import running_job
from bananas.errors import DecodeError
from bananas.worker.attempt import Attempt, Bunch
from bananas.worker.buffer import Buffer
from bananas.worker.bunches import Items

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.worker.attempt import Unit
    from bananas.worker.begun import BegunBoard
    from bananas.worker.gate import Gate
    from bananas.worker.outcomes import Outcomes

SLICE: Final = 64
"""Jobs a runner does before others get the loop: no-ops of 0.25 ms, in pure Python of 0.5."""

SAMPLE_MASK: Final = 15
"""A run is timed when its number has none of these bits: one of 16, as timing costs time."""

_STOP_S: Final = 0.5


def _ignore(_task: asyncio.Task[None]) -> None:
    """Do nothing."""


def _idle() -> None:
    """Do nothing."""


class LoopLane:
    """`async def` and inline handlers, and bunches for async batch handlers."""

    def __init__(
        self,
        runners: int,
        outcomes: Outcomes,
        board: BegunBoard,
        gate: Gate,
        *,
        hard_grace_s: float,
    ) -> None:
        """Prepare `runners` runners; `start` needs the loop."""
        self._outcomes = outcomes
        self._board = board
        self._run_time = board.slot.run_time
        self._gate = gate
        self._hard_grace_s = hard_grace_s
        self._buffer = Buffer()
        self.put: Callable[[Unit], None] = self._buffer.put
        """Buffers a unit; call `nudge` after the last of a batch."""
        self._held = False
        self._alone: deque[Unit] = deque()
        self._resting: deque[asyncio.Future[None]] = deque()
        self.tasks: list[asyncio.Task[None]] = []
        self.on_end: Callable[[asyncio.Task[None]], None] = _ignore
        """Told of each runner that has ended and has no successor; set before the start."""
        self._current: list[Unit | None] = [None] * runners
        self._runners = runners
        self._woken = 0
        self._pausing = 0
        self._looking = False
        self._stopping = False
        self.busy = 0
        self.on_rest: Callable[[], None] = _idle
        """Told when a runner has come to rest: there is room again."""
        self.started = 0
        self.lease_until_s = float("inf")
        """Monotonic time after which nothing may be begun (I5); the worker moves it."""

    def start(self) -> None:
        """Start the runners."""
        self.busy = self._runners
        self.tasks = [self._spawn(index) for index in range(self._runners)]

    # --- what the worker does with it ------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many units wait."""
        return len(self._buffer)

    def nudge(self) -> None:
        """Wake a runner; each wakes the next while work is left, so no-op jobs wake few."""
        if not (self._held or self._woken or self._pausing) and len(self._buffer):
            self._wake_one()

    def hold(self) -> None:
        """Start nothing more."""
        self._held = True

    def unhold(self) -> None:
        """Go on with what is buffered."""
        self._held = False
        self.nudge()

    def run_alone(self, unit: Unit) -> None:
        """Run this unit although held."""
        self._alone.append(unit)
        self._wake_one()

    def take_hoard(self, keep: int) -> list[Attempt]:
        """Take out single jobs that wait beyond `keep` units."""
        return self._buffer.take_hoard(keep)

    def take_bunches(self, keep_items: int) -> list[Attempt]:
        """Take out bunches that wait beyond so many items."""
        return self._buffer.take_bunches(keep_items)

    def items(self) -> int:
        """Return how many items wait in bunches."""
        return self._buffer.items()

    def take_out(self, attempt: Attempt) -> bool:
        """Take out a job that has not begun; False when it has, or is not here."""
        return self._buffer.take_out(attempt)

    def surplus(self, keep: int) -> list[Attempt]:
        """Take out what waits beyond `keep` units, the last ones first."""
        taken: list[Attempt] = []
        while len(self._buffer) > keep:
            unit = self._buffer.pop_last()
            if isinstance(unit, Attempt):
                taken.append(unit)
            elif isinstance(unit, Bunch):
                taken += unit.attempts
        return taken

    def overdue(self, now_s: float) -> None:
        """Cancel handlers past their soft limit; called a few times a second."""
        for index, unit in enumerate(self._current):
            if (
                unit is not None
                and not unit.timed_out
                and now_s - unit.started_s > unit.soft_limit_s
                and unit.started_s
            ):
                unit.timed_out = True
                self.tasks[index].cancel()

    def give_back_running(self) -> None:
        """Cancel every handler at work; its job is another's from now on, uncharged."""
        for index, unit in enumerate(self._current):
            if unit is not None:
                unit.giving_back = True
                for attempt in unit.attempts if isinstance(unit, Bunch) else (unit,):
                    attempt.giving_back = True
                self.tasks[index].cancel()

    def running(self) -> list[Attempt]:
        """Return the runs at work."""
        runs: list[Attempt] = []
        for unit in self._current:
            if isinstance(unit, Attempt):
                runs.append(unit)
            elif unit is not None:
                runs += unit.attempts
        return runs

    def unit_of(self, task: asyncio.Task[Any] | None) -> Unit | None:
        """Return what the runner of this task is working on; None when it is no runner's."""
        for runner, unit in zip(self.tasks, self._current, strict=False):
            if runner is task:
                return unit
        return None

    async def stop(self) -> None:
        """End the runners; one whose handler refuses to be cancelled is left behind."""
        self._stopping = True
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=_STOP_S)

    # --- runners ---------------------------------------------------------------------------------

    def _wake_one(self) -> None:
        while self._resting:
            resting = self._resting.popleft()
            if not resting.done():
                resting.set_result(None)
                self.busy += 1
                self._woken += 1
                return

    def _spawn(self, index: int) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._run(index), name=f"runner {index}")
        task.add_done_callback(partial(self._succeed, index))
        return task

    def _succeed(self, index: int, ended: asyncio.Task[None]) -> None:
        """Put a new runner in the place of one that was cancelled, by us or by a stray of a job."""
        if not ended.cancelled():
            self.on_end(ended)
        elif not self._stopping:
            self.tasks[index] = self._spawn(index)

    async def _rest(self) -> None:
        self.busy -= 1
        resting = asyncio.get_running_loop().create_future()
        self._resting.append(resting)
        self._gate.settle()
        self.on_rest()
        try:
            await resting
        finally:
            if resting.cancelled():  # nobody woke it, but its successor is at work
                self.busy += 1
            else:
                self._woken -= 1

    async def _pause(self) -> None:
        self._pausing += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._pausing -= 1

    def _look(self) -> None:
        """Wake a runner for what those at work have left in the buffer."""
        self._looking = False
        self.nudge()

    async def _run(self, index: int) -> None:  # noqa: C901, PLR0912, PLR0915 - parts would be calls, paid by each job
        """One runner: from the buffer to an outcome, for ever."""
        buffer = self._buffer
        pop = buffer.pop
        call_soon = asyncio.get_running_loop().call_soon
        cancelling = self.tasks[index].cancelling
        current, outcomes, end = self._current, self._outcomes, self._board.end
        enter, leave = running_job.set, running_job.reset
        left = SLICE
        while True:
            if left == 0:  # before a unit is taken: what is taken is begun at once
                left = SLICE
                await self._pause()
            unit = pop() if not self._held else self._next_alone()
            if unit is None:
                payload = value = None  # or the last job's would stay here while none comes
                await self._rest()
                left = SLICE
                continue
            left -= 1
            now_s = monotonic()
            if now_s >= self.lease_until_s:
                self._put_back(unit)
                continue
            if self._resting and not self._looking and len(buffer):
                self._looking = True
                call_soon(self._look)
            unit.started_s = now_s
            current[index] = unit
            try:
                if isinstance(unit, Attempt):
                    # here, not in a coroutine of its own: that took 6 % of a no-op job
                    payload = self._begin(index, unit, now_s)
                    if payload is not None:
                        definition = unit.definition
                        token = enter(unit)
                        try:
                            value = definition.function(**payload)
                            if definition.kind == "async":
                                value = await value
                        except BaseException as error:  # noqa: BLE001 - a job may raise anything, the worker lives
                            outcomes.raised(unit, error)
                        else:
                            if unit.timed_out:
                                outcomes.raised(unit, unit.timeout())
                            else:
                                outcomes.complete(unit, value)
                        finally:
                            leave(token)
                            end(index)
                        if not self.started & SAMPLE_MASK:
                            self._run_time.observe(monotonic() - now_s)
                else:
                    await self._bunch(unit, now_s)
            except Exception as error:  # noqa: BLE001 - that job's alone, and the runner goes on
                outcomes.defect(unit, error)
            current[index] = None
            if cancelling():
                # by a limit of ours, or by the handler itself: the next job must not pay for it
                raise asyncio.CancelledError

    def _next_alone(self) -> Unit | None:
        return self._alone.popleft() if self._alone else None

    def _put_back(self, unit: Unit) -> None:
        """The lease has ended by our own clock: this worker may begin nothing."""
        alone = self._held
        self._gate.bar(barred=True)
        if alone:
            self._gate.suspect(self, unit)
        else:
            self._buffer.put_first(unit)

    def _begin(self, index: int, attempt: Attempt, now_s: float) -> dict[str, Any] | None:
        """Note that a job begins and return its payload; None when that cannot be its handler's."""
        try:
            payload = decode_payload(attempt.job.payload_json)
        except DecodeError as error:
            self._outcomes.broken_payload(attempt, error)
            return None
        if type(payload) is not dict:
            misfit = TypeError(f"the payload must be an object, not {type(payload).__name__}")
            self._outcomes.broken_payload(attempt, misfit)
            return None
        hard_ns = int((now_s + attempt.soft_limit_s + self._hard_grace_s) * 1e9)
        self._board.begin(index, attempt.job_id, hard_ns)
        self.started += 1
        return cast("dict[str, Any]", payload)

    async def _bunch(self, bunch: Bunch, now_s: float) -> None:
        items = Items(bunch)
        hard_ns = int((now_s + bunch.soft_limit_s + self._hard_grace_s) * 1e9)
        taken = self._board.begin_all(items.attempts, hard_ns)
        self.started += len(items.attempts)
        try:
            try:
                answer: Any = bunch.definition.function(items.values) if items.values else None
                if inspect.isawaitable(answer):
                    answer = await answer
            except BaseException as error:  # noqa: BLE001 - as for single jobs
                # isinstance would ask the error
                late = bunch.timed_out and issubclass(type(error), asyncio.CancelledError)
                items.raised(self._outcomes, bunch.timeout() if late else error)
            else:
                if bunch.timed_out:
                    items.raised(self._outcomes, bunch.timeout())
                else:
                    items.returned(self._outcomes, answer)
        finally:
            self._board.end_all(taken)
