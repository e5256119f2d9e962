"""When a failed job runs again, or that it does not.

A policy is a value; chance is an argument. How many runs a job has is not decided
here (`max_retries` travels with the job), only how long to wait and which errors end it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from bananas.errors import FieldError
from bananas.speedups import backoff

Decide: TypeAlias = Callable[[int, BaseException], "float | bool | None"]
"""(attempts made, the error) -> seconds to wait; True = the back-off; None or False = give up."""

MAX_DELAY_S: Final = 10 * 365 * 86400.0
"""Longest delay a policy may name: ten years."""

_log = logging.getLogger("bananas.retry")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How one task's failures are answered.

    Attributes:
        base_s: Scale of the back-off, seconds, >= 0.
        factor: Its growth a run, >= 1: the defaults wait 2, 4, 8 … seconds.
        cap_s: Longest wait before jitter, seconds.
        jitter: Share added at most by chance, 0 to 1; it never shortens a wait.
        retry_on: When not empty, only these errors are retried.
        give_up_on: These are never retried; wins over `retry_on`.
        decide: Asked last, see `Decide`.
    """

    base_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 3600.0
    jitter: float = 0.1
    retry_on: tuple[type[BaseException], ...] = ()
    give_up_on: tuple[type[BaseException], ...] = ()
    decide: Decide | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check every field, so that a policy that exists never fails a failing job.

        Raises:
            FieldError: Naming the field and its rule.
        """
        _check_range("base_s", self.base_s, 0, MAX_DELAY_S)
        _check_range("factor", self.factor, 1, 1e6)
        _check_range("cap_s", self.cap_s, 0, MAX_DELAY_S)
        _check_range("jitter", self.jitter, 0, 1)
        for name in ("retry_on", "give_up_on"):
            object.__setattr__(self, name, _checked_kinds(name, getattr(self, name)))
        if self.decide is not None and not callable(self.decide):
            raise FieldError("decide", "must be callable", self.decide)

    def delay_s(self, attempt: int, error: BaseException, u: float) -> float | None:
        """Return how long to wait before the next run, or None to give up.

        Args:
            attempt: Runs made so far, this one included, >= 1.
            error: What the run raised.
            u: A draw from 0 to 1.

        Returns:
            Seconds, >= 0. A `decide` that itself fails is logged and the back-off used:
            a defect there should delay a job, not lose it.

        Raises:
            ValueError: attempt < 1, or u outside 0 to 1.
        """
        if isinstance(error, self.give_up_on):
            return None
        if self.retry_on and not isinstance(error, self.retry_on):
            return None
        answer: float | bool | None = True
        if self.decide is not None:
            try:
                answer = _checked_answer(self.decide(attempt, error))
            except Exception:  # noqa: BLE001 - it is the user's code; see Returns
                _log.exception("decide() of a retry policy failed; using the back-off")
        if answer is None or answer is False:
            return None
        if answer is True:
            return backoff(attempt, self.base_s, self.factor, self.cap_s, self.jitter, u)
        return answer


def _check_range(name: str, value: object, low: float, high: float) -> None:
    """Refuse a number outside its range; NaN is outside of every one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(name, "must be a number", value)
    if not low <= value <= high:
        raise FieldError(name, f"must be from {low:g} to {high:g}", value)


def _checked_kinds(name: str, given: object) -> tuple[type[BaseException], ...]:
    """Return exception classes as a tuple; one class alone is a tuple of one."""
    kinds: list[type[BaseException]] = []
    several = isinstance(given, tuple | list | set | frozenset)
    for kind in cast("Iterable[object]", given) if several else (given,):
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise FieldError(name, "must be exception classes", given)
        kinds.append(kind)
    return tuple(kinds)


def _checked_answer(answer: object) -> float | bool | None:
    """Return what decide() said, or raise that it makes no sense."""
    if answer is None or isinstance(answer, bool):
        return answer
    if isinstance(answer, int | float) and not math.isnan(answer) and answer >= 0:
        return min(float(answer), MAX_DELAY_S)
    raise FieldError("decide", "must return seconds >= 0, True, False or None", answer)
