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
from typing import TYPE_CHECKING, Any, Final

from bananas.context import running_job
from bananas.worker.attempt import Attempt
from bananas.worker.bunches import Items
from bananas.worker.lane import SAMPLE_MASK, Lane, unheard

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.worker.attempt import Bunch, Unit
    from bananas.worker.begun import BegunBoard
    from bananas.worker.gate import Gate
    from bananas.worker.outcomes import Outcomes

SLICE: Final = 64
"""Jobs a runner does before others get the loop: no-ops of 0.25 ms, in pure Python of 0.5."""

_STOP_S: Final = 0.5


class LoopLane(Lane):
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
        super().__init__(outcomes, board, gate, hard_grace_s=hard_grace_s)
        self._alone: deque[Unit] = deque()
        self._resting: deque[asyncio.Future[None]] = deque()
        self.tasks: list[asyncio.Task[None]] = []
        self.on_end: Callable[[asyncio.Task[None]], None] = unheard
        """Told of each runner that has ended and has no successor; set before the start."""
        self._current: list[Unit | None] = [None] * runners
        self._runners = runners
        self._woken = 0
        self._pausing = 0
        self._nudging = False
        self._stopping = False

    def start(self) -> None:
        """Start the runners."""
        self.busy = self._runners
        self.tasks = [self._spawn(index) for index in range(self._runners)]

    # --- what the worker does with it ------------------------------------------------------------

    @property
    def runners(self) -> int:
        """How many units run at a time."""
        return self._runners

    def nudge(self) -> None:
        """Wake a runner; each wakes the next while work is left, so no-op jobs wake few."""
        if not (self._held or self._woken or self._pausing) and len(self.waiting):
            self._wake_one()

    def run_alone(self, unit: Unit) -> None:
        """Run this unit although held."""
        self._alone.append(unit)
        self._wake_one()

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
                for attempt in unit.attempts:
                    attempt.giving_back = True
                self.tasks[index].cancel()

    def running(self) -> list[Attempt]:
        """Return the runs at work."""
        return [run for unit in self._current if unit is not None for run in unit.attempts]

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

    def _nudge_later(self) -> None:
        """Wake a runner for what those at work have left waiting."""
        self._nudging = False
        self.nudge()

    async def _run(self, index: int) -> None:  # noqa: C901, PLR0912, PLR0915 - parts would be calls, paid by each job
        """One runner: from the buffer to an outcome, for ever."""
        waiting = self.waiting
        pop = waiting.pop
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
            if self._resting and not self._nudging and len(waiting):
                self._nudging = True
                call_soon(self._nudge_later)
            unit.started_s = now_s
            current[index] = unit
            try:
                if isinstance(unit, Attempt):
                    # here, not in a coroutine of its own: that took 6 % of a no-op job
                    payload = self._begin(index, unit, now_s)
                    if isinstance(payload, dict):
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
                        outcomes.broken_payload(unit, payload)
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
            self.waiting.put_first(unit)

    async def _bunch(self, bunch: Bunch, now_s: float) -> None:
        items = Items(bunch)
        taken = self._begin_all(items.attempts, bunch.soft_limit_s, now_s)
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
