"""Threads for `def` handlers: they take units themselves and report in batches.

Nothing is handed over one by one: a token says that there is work, a thread takes the
next unit from the shared buffer, and the loop is woken once for all that has ended
since it last looked.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from bananas.context import running_job
from bananas.errors import JobTimedOutError
from bananas.worker.attempt import Attempt
from bananas.worker.bunches import Items
from bananas.worker.lane import SAMPLE_MASK, Lane, unheard

if TYPE_CHECKING:
    from bananas.worker.attempt import Bunch, Unit
    from bananas.worker.begun import BegunBoard
    from bananas.worker.gate import Gate
    from bananas.worker.outcomes import Outcomes

End = Callable[[], None]
"""What is to be done, on the loop, with the end of a unit."""

_NO_ROOM_S: Final = 1.0
"""How long until a thread is tried again, when there is room for none."""

log = logging.getLogger("bananas.worker")

_raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in_thread.argtypes = (ctypes.c_ulong, ctypes.py_object)


class _Runner:
    """One thread and the unit it has."""

    __slots__ = ("entry", "ident", "last", "lock", "unit")

    def __init__(self, entry: int) -> None:
        self.entry = entry
        self.ident = 0
        self.unit: Unit | None = None
        """The unit whose handler may be raised in."""
        self.last: Unit | None = None
        """The unit begun last; until its end is dealt with on the loop it counts as running."""
        self.lock = threading.Lock()
        """Held to begin and end a unit, and to raise in it: so no error hits the wrong one."""


class ThreadLane(Lane):
    """`def` handlers, and bunches for `def` batch handlers."""

    def __init__(  # noqa: PLR0913 - what it is made of, each given from outside
        self,
        threads: int,
        first_entry: int,
        outcomes: Outcomes,
        board: BegunBoard,
        gate: Gate,
        *,
        hard_grace_s: float,
    ) -> None:
        """Prepare; threads start with the first unit, so that async-only workers have none."""
        super().__init__(outcomes, board, gate, hard_grace_s=hard_grace_s)
        self._tokens: SimpleQueue[Unit | None] = SimpleQueue()
        self._counting = threading.Lock()
        """Held to change `busy`, which threads do as well."""
        self._ended: deque[tuple[Unit | None, End]] = deque()
        self._collecting = False
        self._collected = 0
        self._runners = [_Runner(first_entry + index) for index in range(threads)]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_threads = False
        self.on_death: Callable[[str, BaseException], None] = unheard
        """Told, on the loop, of a thread that has ended by itself: it never should."""

    def start(self) -> None:
        """Remember the loop to report to."""
        self._loop = asyncio.get_running_loop()

    def _start_threads(self) -> bool:
        """Start as many as the system lets us, and be content with them; False if none."""
        for index, runner in enumerate(self._runners):
            thread = threading.Thread(
                target=self._run, args=(runner,), name=f"handler {index}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # no room for a thread, or for its stack
                wanted = len(self._runners)
                log.warning("%d threads for handlers instead of %d: %s", index, wanted, error)
                del self._runners[max(1, index) :]
                return index > 0
        return True

    # --- what the worker does with it, on the loop -----------------------------------------------

    @property
    def runners(self) -> int:
        """How many units run at a time: fewer than wished where the system has no room."""
        return len(self._runners)

    def nudge(self) -> None:
        """Let a thread at what waits; it lets in the next one, so no-op jobs wake few."""
        if self._held or not len(self.waiting):
            return
        if self._has_threads or self._get_threads():
            self._let_in()

    def _let_in(self) -> None:
        """Wake a thread, if one rests and none is on its way."""
        with self._counting:
            if self.busy < len(self._runners) and self._tokens.empty():
                self.busy += 1
                self._tokens.put(None)

    def _get_threads(self) -> bool:
        """Start the threads, or look again in a while."""
        self._has_threads = True
        if self._start_threads():
            return True
        if self._loop is not None:
            self._loop.call_later(_NO_ROOM_S, self._get_threads_again)
        return False

    def _get_threads_again(self) -> None:
        if self._get_threads():
            self.nudge()

    def run_alone(self, unit: Unit) -> None:
        """Run this unit although held."""
        if not self._has_threads:
            self._get_threads()
        with self._counting:
            self.busy += 1
        self._tokens.put(unit)

    def overdue(self, now_s: float) -> None:
        """Raise in threads whose handler is past its soft limit; called a few times a second."""
        for runner in self._runners:
            unit = runner.unit
            if unit is None or unit.timed_out or not unit.started_s:
                continue
            if now_s - unit.started_s > unit.soft_limit_s:
                with runner.lock:
                    if runner.unit is unit:
                        unit.timed_out = True
                        _raise_in_thread(runner.ident, JobTimedOutError)

    def running(self) -> list[Attempt]:
        """Return the runs whose end has not been dealt with, be their handlers done or not."""
        units = [runner.last for runner in self._runners]
        units += [unit for unit, _ in self._ended.copy()]
        runs = dict.fromkeys(run for unit in units if unit is not None for run in unit.attempts)
        return [run for run in runs if not run.finished]

    def give_back_running(self) -> None:
        """Mark every run: a thread cannot be cancelled, but its handler may ask `cancelled`."""
        for attempt in self.running():
            attempt.giving_back = True

    # --- threads ---------------------------------------------------------------------------------

    def _run(self, runner: _Runner) -> None:
        runner.ident = threading.get_ident()
        try:
            self._work(runner)
        except BaseException as error:  # noqa: BLE001 - what it held would wait for ever, unseen
            if self._loop is not None and not self._loop.is_closed():
                name = threading.current_thread().name
                self._loop.call_soon_threadsafe(self.on_death, name, error)

    def _work(self, runner: _Runner) -> None:
        """One thread: work while there is some, then say so and wait for a token."""
        while True:
            unit = self._tokens.get()
            if unit is not None:
                self._run_suspect(runner, unit)
            else:
                if len(self.waiting) > 1:  # one is for this thread
                    self._let_in()
                while (unit := self._next()) is not None:
                    runner.last = unit
                    self._report(unit, self._one(runner, unit))
            self._report(None, unheard)

    def _run_suspect(self, runner: _Runner, unit: Unit) -> None:
        if monotonic() >= self.lease_until_s:
            self._report(unit, partial(self._hand_back, unit))
        else:
            runner.last = unit
            self._report(unit, self._one(runner, unit))

    def _hand_back(self, unit: Unit) -> None:
        """The lease has ended by our own clock: this worker may begin nothing."""
        self._gate.bar(barred=True)
        self._gate.suspect(self, unit)

    def _next(self) -> Unit | None:
        if self._held or monotonic() >= self.lease_until_s:
            return None
        return self.waiting.pop()

    def _one(self, runner: _Runner, unit: Unit) -> End:
        """Run a unit and return what is to be done with its end, on the loop."""
        now_s = monotonic()
        unit.started_s = now_s
        try:
            if isinstance(unit, Attempt):
                return self._attempt(runner, unit, now_s)
            return self._bunch(runner, unit, now_s)
        except Exception as error:  # noqa: BLE001 - that job's alone, and the thread goes on
            self._board.end(runner.entry)
            return partial(self._outcomes.defect, unit, error)

    def _attempt(self, runner: _Runner, attempt: Attempt, now_s: float) -> End:
        outcomes = self._outcomes
        payload = self._begin(runner.entry, attempt, now_s)
        if not isinstance(payload, dict):
            return partial(outcomes.broken_payload, attempt, payload)
        token = running_job.set(attempt)
        value, raised = self._call(runner, attempt, (), payload)
        running_job.reset(token)
        self._board.end(runner.entry)
        if raised is not None:
            return partial(outcomes.raised, attempt, raised)
        return partial(outcomes.complete, attempt, value)

    def _bunch(self, runner: _Runner, bunch: Bunch, now_s: float) -> End:
        outcomes = self._outcomes
        items = Items(bunch)
        if not items.values:
            return partial(items.returned, outcomes, None)
        taken = self._begin_all(items.attempts, bunch.soft_limit_s, now_s)
        answer, raised = self._call(runner, bunch, (items.values,), {})
        self._board.end_all(taken)
        if raised is not None:
            return partial(items.raised, outcomes, raised)
        return partial(items.returned, outcomes, answer)

    @staticmethod
    def _call(
        runner: _Runner, unit: Unit, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, BaseException | None]:
        """Call a handler; its time limit may strike anywhere in here, and nowhere else."""
        value: Any = None
        raised: BaseException | None = None
        try:
            with runner.lock:
                runner.unit = unit
            try:
                value = unit.definition.function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - a job may raise anything, the thread lives
                raised = error
            with runner.lock:
                runner.unit = None
            _let_strike()
        except JobTimedOutError as late:  # it struck when the handler was done
            raised = late
        runner.unit = None
        if unit.timed_out and (raised is None or type(raised) is JobTimedOutError):
            trace = raised.__traceback__ if raised is not None else None
            raised = unit.timeout().with_traceback(trace)
        return value, raised

    # --- from threads to the loop ----------------------------------------------------------------

    def _report(self, unit: Unit | None, end: End) -> None:
        self._ended.append((unit, end))
        if not self._collecting:
            self._collecting = True
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        """Do what is to be done with all ends since the last look."""
        self._collecting = False
        rested = False
        while self._ended:
            unit, end = self._ended.popleft()
            if unit is None:
                with self._counting:
                    self.busy -= 1
                rested = True
            else:
                self._collected += 1
                if not self._collected & SAMPLE_MASK and unit.started_s:
                    self._run_time.observe(monotonic() - unit.started_s)
                try:
                    end()
                except Exception as error:  # noqa: BLE001 - that job's alone, whatever it is
                    self._outcomes.defect(unit, error)
        if rested:
            self.nudge()
            self._gate.settle()
            self.on_rest()


def _let_strike() -> None:
    """Do nothing: what was raised in this thread arrives, at the latest, when a function begins."""
