"""Batch tasks: items gathered until there are enough or the first has waited long enough."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from bananas.codec import decode_payload
from bananas.errors import FieldError
from bananas.table import JOB_ID_MAX_BYTES
from bananas.worker.attempt import Attempt, Bunch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bananas.registry import Definition
    from bananas.worker.outcomes import Outcomes


class Items:
    """What a bunch's handler is given, and what could not be given to it."""

    __slots__ = ("attempts", "broken", "values")

    def __init__(self, bunch: Bunch) -> None:
        """Decode the payloads; an item that does not decode or fit is `broken` alone."""
        self.attempts: list[Attempt] = []
        self.values: list[Any] = []
        self.broken: list[tuple[Attempt, Exception]] = []
        from_payload = bunch.definition.from_payload
        for attempt in bunch.attempts:
            attempt.started_s = bunch.started_s
            try:
                if len(attempt.job_id) > JOB_ID_MAX_BYTES:
                    raise FieldError("id", f"has more than {JOB_ID_MAX_BYTES} bytes")  # noqa: TRY301 - its alone
                value = from_payload(decode_payload(attempt.job.payload_json))
            except Exception as error:  # noqa: BLE001 - an item's own class may raise anything
                self.broken.append((attempt, error))
            else:
                self.attempts.append(attempt)
                self.values.append(value)

    def raised(self, outcomes: Outcomes, error: BaseException) -> None:
        """Let every item share the fate of a call that raised."""
        self._bury_broken(outcomes)
        for attempt in self.attempts:
            outcomes.raised(attempt, error)

    def returned(self, outcomes: Outcomes, answer: Any) -> None:  # noqa: ANN401 - user code's
        """Do what the call's verdicts say, None = all well."""
        if answer is None:
            verdicts: list[Any] = [None] * len(self.attempts)
        elif isinstance(answer, list | tuple):
            verdicts = list(cast("Iterable[Any]", answer))
        else:
            self.raised(outcomes, self._misfit(type(answer).__name__))
            return
        if len(verdicts) != len(self.attempts):
            self.raised(outcomes, self._misfit(f"{len(verdicts)} verdicts"))
            return
        self._bury_broken(outcomes)
        for attempt, outcome in zip(self.attempts, verdicts, strict=True):
            outcomes.judged(attempt, outcome)

    def _misfit(self, got: str) -> TypeError:
        wanted = f"None or {len(self.attempts)} verdicts"
        return TypeError(f"a batch handler returns {wanted}, not {got}")

    def _bury_broken(self, outcomes: Outcomes) -> None:
        for attempt, error in self.broken:
            outcomes.broken_payload(attempt, error)


class Gatherer:
    """Items of one batch task on their way into bunches, one gathering a priority."""

    def __init__(self, definition: Definition, send: Callable[[Bunch], None]) -> None:
        """Hand whole bunches to `send`."""
        if definition.batching is None:
            raise TypeError(f'task "{definition.name}" is not a batch task')
        self._definition = definition
        self._max_size = definition.batching.max_size
        self._linger_s = definition.batching.linger_s
        self._send = send
        self._waiting: dict[str, list[Attempt]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """Return how many items wait for company."""
        return sum(map(len, self._waiting.values()))

    def put(self, attempt: Attempt) -> None:
        """Add an item; a full bunch leaves at once, another after its linger time."""
        priority = attempt.job.priority
        waiting = self._waiting.setdefault(priority, [])
        waiting.append(attempt)
        if len(waiting) >= self._max_size:
            self._leave(priority)
        elif priority not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[priority] = loop.call_later(self._linger_s, self._leave, priority)

    def take(self) -> list[Attempt]:
        """Take out what waits, to be given back."""
        taken = [attempt for waiting in self._waiting.values() for attempt in waiting]
        self._waiting.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        return taken

    def take_out(self, attempt: Attempt) -> bool:
        """Take out one that waits; False when it is not here."""
        waiting = self._waiting.get(attempt.job.priority, [])
        if attempt not in waiting:
            return False
        waiting.remove(attempt)
        return True

    def _leave(self, priority: str) -> None:
        timer = self._timers.pop(priority, None)
        if timer is not None:
            timer.cancel()
        waiting = self._waiting.pop(priority, None)
        if waiting:
            self._send(Bunch(self._definition, waiting))
