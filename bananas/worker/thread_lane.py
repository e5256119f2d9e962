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
from typing import TYPE_CHECKING, Any, Final, cast

from bananas.codec import decode_payload
from bananas.context import running_job
from bananas.errors import DecodeError, JobTimedOutError
from bananas.worker.attempt import Attempt, Bunch
from bananas.worker.buffer import Buffer
from bananas.worker.bunches import Items
from bananas.worker.loop_lane import SAMPLE_MASK

if TYPE_CHECKING:
    from bananas.worker.attempt import Unit
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


class ThreadLane:
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
        self._outcomes = outcomes
        self._board = board
        self._run_time = board.slot.run_time
        self._gate = gate
        self._hard_grace_s = hard_grace_s
        self._buffer = Buffer()
        self._held = False
        self._tokens: SimpleQueue[Unit | None] = SimpleQueue()
        self._ended: deque[tuple[Unit | None, End]] = deque()
        self._collecting = False
        self._collected = 0
        self._runners = [_Runner(first_entry + index) for index in range(threads)]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun = False
        self.busy = 0
        """Threads that were given a token and have not come to rest."""
        self.on_rest: Callable[[], None] = _rest
        """Told when threads have come to rest: there is room again."""
        self.on_death: Callable[[str, BaseException], None] = _bear
        """Told, on the loop, of a thread that has ended by itself: it never should."""
        self.started = 0
        self.lease_until_s = float("inf")

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

    def __len__(self) -> int:
        """Return how many units wait."""
        return len(self._buffer)

    def put(self, unit: Unit) -> None:
        """Buffer a unit; call `nudge` after the last of a batch."""
        self._buffer.put(unit)

    def nudge(self) -> None:
        """Let threads at what is buffered."""
        if self._held or not len(self._buffer):
            return
        if not self._begun and not self._begin():
            return
        for _ in range(min(len(self._buffer), len(self._runners) - self.busy)):
            self.busy += 1
            self._tokens.put(None)

    def _begin(self) -> bool:
        """Start the threads, or look again in a while."""
        self._begun = True
        if self._start_threads():
            return True
        if self._loop is not None:
            self._loop.call_later(_NO_ROOM_S, self._begin_again)
        return False

    def _begin_again(self) -> None:
        if self._begin():
            self.nudge()

    def hold(self) -> None:
        """Start nothing more."""
        self._held = True

    def unhold(self) -> None:
        """Go on with what is buffered."""
        self._held = False
        self.nudge()

    def run_alone(self, unit: Unit) -> None:
        """Run this unit although held."""
        if not self._begun:
            self._begin()
        self.busy += 1
        self._tokens.put(unit)

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
        runs: dict[Attempt, None] = {}
        for unit in units:
            if isinstance(unit, Attempt):
                runs[unit] = None
            elif unit is not None:
                runs.update(dict.fromkeys(unit.attempts))
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
                while (unit := self._next()) is not None:
                    runner.last = unit
                    self._report(unit, self._one(runner, unit))
            self._report(None, _rest)

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
        return self._buffer.pop()

    def _one(self, runner: _Runner, unit: Unit) -> End:
        """Run a unit and return what is to be done with its end, on the loop."""
        now_s = monotonic()
        unit.started_s = now_s
        hard_ns = int((now_s + unit.soft_limit_s + self._hard_grace_s) * 1e9)
        try:
            if isinstance(unit, Attempt):
                return self._attempt(runner, unit, hard_ns)
            return self._bunch(runner, unit, hard_ns)
        except Exception as error:  # noqa: BLE001 - that job's alone, and the thread goes on
            self._board.end(runner.entry)
            return partial(self._outcomes.defect, unit, error)

    def _attempt(self, runner: _Runner, attempt: Attempt, hard_ns: int) -> End:
        outcomes = self._outcomes
        try:
            payload = decode_payload(attempt.job.payload_json)
        except DecodeError as error:
            return partial(outcomes.broken_payload, attempt, error)
        if type(payload) is not dict:
            misfit = TypeError(f"the payload must be an object, not {type(payload).__name__}")
            return partial(outcomes.broken_payload, attempt, misfit)
        self.started += 1
        self._board.begin(runner.entry, attempt.job_id, hard_ns)
        token = running_job.set(attempt)
        value, raised = self._call(runner, attempt, (), cast("dict[str, Any]", payload))
        running_job.reset(token)
        self._board.end(runner.entry)
        if raised is not None:
            return partial(outcomes.raised, attempt, raised)
        return partial(outcomes.complete, attempt, value)

    def _bunch(self, runner: _Runner, bunch: Bunch, hard_ns: int) -> End:
        outcomes = self._outcomes
        items = Items(bunch)
        if not items.values:
            return partial(items.returned, outcomes, None)
        self.started += len(items.attempts)
        taken = self._board.begin_all(items.attempts, hard_ns)
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


def _rest() -> None:
    """Do nothing: a thread came to rest."""


def _bear(_name: str, _error: BaseException) -> None:
    """Do nothing."""
