"""What becomes of a job: every outcome is written here into its lease's settlement.

Nothing is sent from here; the settler does that. Times come from one coarse clock that
follows Redis's, because no other clock may decide.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

from bananas.codec import encode_payload
from bananas.errors import (
    BananasError,
    Discard,
    JobTimedOutError,
    Retry,
    Snooze,
)
from bananas.job import Job, cut_error
from bananas.placement import FALLBACK
from bananas.registry import Outcome
from bananas.retry import MAX_DELAY_S, RetryPolicy
from bananas.speedups import format_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.broker import Leased
    from bananas.settings import Settings
    from bananas.worker.attempt import Attempt, Held, Lease, Unit

log = logging.getLogger("bananas.worker")

UNCLAIMED_DELAY_S: Final = 2.0
"""How long a job of an unknown task waits for a worker that knows it, the first time."""

_TEXT_US: Final = 1000
"""How old a written time may be."""

_search_place: Final = re.compile(rb'"list":"[^"]+"\}$').search

UNCLAIMED_TRIES: Final = 6
"""Times it is given back (2, 4, 8 … s) before it is failed."""


class RedisTime:
    """Redis's clock as seen from here: the last answer plus monotonic time since."""

    def __init__(self) -> None:
        """Trust the wall clock until Redis has spoken."""
        self._base_us = time.time_ns() // 1000
        self._base_ns = time.monotonic_ns()
        self._text = ""
        self._text_us = -_TEXT_US

    def heard(self, now_ms: int) -> None:
        """Take over what Redis just said."""
        self._base_us = now_ms * 1000
        self._base_ns = time.monotonic_ns()

    def now_us(self) -> int:
        """Return Unix microseconds."""
        return self._base_us + (time.monotonic_ns() - self._base_ns) // 1000

    def text(self) -> str:
        """Return now as RFC 3339, at most a millisecond old: most jobs of a batch share it."""
        now_us = self.now_us()
        if not 0 <= now_us - self._text_us < _TEXT_US:
            self._text_us = now_us
            self._text = format_time(now_us)
        return self._text


def describe(error: BaseException) -> str:
    """Return an error as text, whatever its `__str__` does."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException as broken:  # noqa: BLE001 - an error's own text may raise anything
        text = f"{type(error).__name__} (its text raises {type(broken).__name__})"
    return text


class Outcomes:
    """Turns ends of runs into settlement entries and counts them."""

    def __init__(
        self, settings: Settings, clock: RedisTime, on_outcome: Callable[[Lease], None]
    ) -> None:
        """Report each lease that has something to send to `on_outcome`."""
        self._settings = settings
        self._clock = clock
        self._on_outcome = on_outcome
        self._policy = RetryPolicy(
            base_s=settings.retry_base_s,
            factor=settings.retry_factor,
            cap_s=settings.retry_cap_s,
            jitter=settings.retry_jitter,
        )
        self.completed = 0
        self.retried = 0
        self.failed = 0
        self.released = 0
        self.poisoned = 0

    # --- ends of runs ----------------------------------------------------------------------------

    def complete(self, attempt: Attempt, value: object) -> None:
        """Complete a job whose handler returned."""
        job, lease = attempt.job, attempt.lease
        settlement = lease.settlement
        options = attempt.definition.options
        wanted = job.result or options.result
        if wanted is None:
            wanted = self._settings.result_backend_enabled
        data = b""
        if wanted:
            try:
                data = encode_payload(value, max_bytes=self._settings.max_payload_bytes)
            except Exception as error:  # noqa: BLE001 - a value may do anything when looked at
                why = str(error) if isinstance(error, BananasError) else describe(error)
                self._bury(attempt, f"result cannot be stored: {why}")
                return
        ttl_s = options.retention_s
        if ttl_s is None:
            ttl_s = int(self._settings.retention_completed_s)
        if ttl_s == 0:
            settlement.dropped.append(attempt.job_id)
        else:
            record = job.finish("completed", self._clock.text(), attempt.runs_before + 1)
            kept = settlement.kept.get(ttl_s)
            if kept is None:
                settlement.kept[ttl_s] = [(attempt.job_id, record)]
            else:
                kept.append((attempt.job_id, record))
        if wanted:
            self._store(lease, attempt.job_id, b"completed", data, "", attempt.started_s)
        if attempt.foreign:
            settlement.foreign.append(attempt.job_id)
        attempt.finished = True
        self.completed += 1
        lease.open -= 1
        if not lease.told:
            self._on_outcome(lease)

    def raised(self, attempt: Attempt, error: BaseException) -> None:
        """Retry, fail, snooze or give back a job whose handler raised or was cut off by us."""
        try:
            self._answer(attempt, error)
        except Exception:
            if attempt.finished:
                raise
            log.debug("an error raises when it is looked at", exc_info=True)
            self._bury(attempt, describe(error))

    def _answer(self, attempt: Attempt, error: BaseException) -> None:
        if attempt.giving_back and isinstance(error, asyncio.CancelledError):
            self.release(attempt)
            return
        if attempt.timed_out and isinstance(error, asyncio.CancelledError):
            error = JobTimedOutError(f"timed out after {attempt.soft_limit_s:g} s")
        if isinstance(error, Snooze):
            self._later(attempt, error.delay_s, "snoozed", None, charged=False)
        elif isinstance(error, Discard):
            self._bury(attempt, error.reason)
        elif isinstance(error, Retry):
            self._again(attempt, error.reason or "asked to be retried", error.delay_s, error)
        else:
            self._again(attempt, self._story(attempt, error), None, error)

    def judged(self, attempt: Attempt, outcome: object) -> None:
        """Do what a batch handler said of one item."""
        if outcome is None:
            self.complete(attempt, None)
        elif isinstance(outcome, Outcome):
            if outcome.status == "ok":
                self.complete(attempt, outcome.value)
            elif outcome.status == "dead":
                self._bury(attempt, outcome.reason or "dead by its batch handler")
            else:
                reason = outcome.reason or "retry by its batch handler"
                self._again(attempt, reason, outcome.delay_s, Retry(outcome.delay_s, reason))
        elif isinstance(outcome, BaseException):
            self.raised(attempt, outcome)
        else:
            self._bury(attempt, f"its batch handler answered {type(outcome).__name__}, not Outcome")

    def broken_payload(self, attempt: Attempt, error: Exception) -> None:
        """Fail a job whose payload does not decode or fit: no retry will mend it."""
        self._bury(attempt, describe(error))

    # --- before a run ----------------------------------------------------------------------------

    def release(self, attempt: Attempt) -> None:
        """Give a job back as it was, uncharged, to the front of its queue."""
        attempt.finished = True
        place = attempt.job.place or FALLBACK
        attempt.lease.settlement.released.append((attempt.job_id, place))
        self.released += 1
        self._close_lease(attempt.lease)

    def poison(self, attempt: Attempt) -> None:
        """Fail a job that has taken down too many processes."""
        self.poisoned += 1
        log.error("job %s took down its process %d times", attempt.job.id, attempt.crashes)
        self._bury(
            attempt, f"poison: it took down its process {attempt.crashes} times", charged=False
        )

    def expire(self, attempt: Attempt) -> None:
        """Drop a job that may no longer begin."""
        job = attempt.job.with_(
            status="cancelled", updated_at=self._clock.text(), error="expired before it began"
        )
        attempt.lease.settlement.lapsed.append((attempt.job_id, job.encode(job.place)))
        attempt.finished = True
        self._close(attempt)

    def route(self, held: Held | Attempt, place: str) -> None:
        """Move a job that lay in the wrong list to its own."""
        held.lease.settlement.routed.append((held.job_id, place))
        self._close_lease(held.lease)

    def forget(self, held: Held | Attempt) -> None:
        """Let go of a job that was cancelled while it waited; it was counted then."""
        held.lease.settlement.forgotten.append(held.job_id)
        self._close_lease(held.lease)

    def spare(self, held: Held | Attempt) -> None:
        """Let go of a job that had ended: its id was pushed again, nothing of it changes."""
        held.lease.settlement.spared.append(held.job_id)
        self._close_lease(held.lease)

    def defect(self, unit: Unit, error: BaseException) -> None:
        """Fail what a defect of ours, or a record beyond reason, has stopped; alone."""
        for attempt in unit.attempts:
            if attempt.finished:
                continue
            log.error("job %r cannot be dealt with", attempt.job_id, exc_info=error)
            reason = f"cannot be dealt with: {describe(error)}"
            try:
                self._bury(attempt, reason)
            except Exception:  # noqa: BLE001 - its record cannot even be written again
                job_id, old = attempt.job_id.decode(errors="replace"), attempt.job
                job = Job(job_id, "", payload_json=old.payload_json, place=old.place or FALLBACK)
                self._bury_as(attempt, job, reason)
                attempt.finished = True

    def undecided(self, lease: Lease, leased: Leased, error: Exception) -> None:
        """Fail what a defect of ours has stopped before it was an attempt; with its bytes."""
        if leased.job_id not in lease.settlement.ids():
            log.error("job %r cannot be dealt with", leased.job_id, exc_info=error)
            self.broken(lease, leased, f"cannot be dealt with: {describe(error)}")

    def unclaimed(self, held: Held | Attempt) -> None:
        """Leave a job of an unknown task to other workers for a while; fail it after some tries."""
        job = held.job
        if job.unclaimed >= UNCLAIMED_TRIES:
            tries = f"given back {job.unclaimed} times"
            self._bury_as(held, job, f'no worker knows task "{job.name}" ({tries})')
            return
        later = job.with_(unclaimed=job.unclaimed + 1)
        self._schedule(held, later, UNCLAIMED_DELAY_S * 2**job.unclaimed, "unclaimed")

    def newer(self, held: Held, record: bytes, protocol: int) -> None:
        """Leave a later version's job to that version's workers, its record untouched."""
        log.info("job %r is of protocol %d, left to newer workers", held.job_id, protocol)
        delay_ms = math.ceil(UNCLAIMED_DELAY_S * 1000)
        held.lease.settlement.later.append((held.job_id, record, delay_ms, "unclaimed"))
        self._close_lease(held.lease)

    def broken(self, lease: Lease, leased: Leased, why: str) -> None:
        """Fail what is not a job record, alone and with its bytes as they are."""
        job_id, raw, origin, _ = leased
        if raw is None:
            now = self._clock.text()
            job = Job(job_id.decode(errors="replace"), "", updated_at=now, created_at=now)
            raw = job.with_(status="failed", error=why).encode(origin or FALLBACK)
        elif _search_place(raw) is None:
            lease.settlement.foreign.append(job_id)
        lease.settlement.failed.append((job_id, raw))
        self._store(lease, job_id, b"failed", b"null", why, 0.0)
        log.warning("broken record of job %r: %s", job_id, why)
        self.failed += 1
        self._close_lease(lease)

    # --- the common ends -------------------------------------------------------------------------

    def _close(self, held: Held | Attempt) -> None:
        """Note the end of a job whose record is written: from now on it is one of ours."""
        if held.foreign:
            held.lease.settlement.foreign.append(held.job_id)
        self._close_lease(held.lease)

    def _close_lease(self, lease: Lease) -> None:
        lease.open -= 1
        self._on_outcome(lease)

    def _again(
        self, attempt: Attempt, reason: str, delay_s: float | None, error: BaseException
    ) -> None:
        """Retry while runs are left and the policy agrees, else bury."""
        runs = attempt.runs_before + 1
        if runs >= attempt.job.max_retries:
            self._bury(attempt, reason)
            return
        if delay_s is None:
            policy = attempt.definition.options.retry or self._policy
            cause = JobTimedOutError(reason) if attempt.timed_out else error
            delay_s = policy.delay_s(runs, cause, random.random())
            if delay_s is None:
                self._bury(attempt, reason)
                return
        self._later(attempt, delay_s, "retried", reason, charged=True)
        self.retried += 1

    def _later(
        self, attempt: Attempt, delay_s: float, counter: str, error: str | None, *, charged: bool
    ) -> None:
        job = attempt.job.with_(attempts=attempt.runs_before + charged, crashes=attempt.crashes)
        if error is not None:
            job = job.with_(error=error)
        self._schedule(attempt, job, delay_s, counter)
        attempt.finished = True

    def _schedule(self, held: Held | Attempt, job: Job, delay_s: float, counter: str) -> None:
        delay_s = min(delay_s, MAX_DELAY_S)  # a handler may name any; no calendar holds them all
        due_us = self._clock.now_us() + int(delay_s * 1e6)
        record = job.with_(
            status="scheduled", updated_at=self._clock.text(), scheduled_for=format_time(due_us)
        ).encode(job.place)
        delay_ms = math.ceil(delay_s * 1000)  # never earlier
        held.lease.settlement.later.append((held.job_id, record, delay_ms, counter))
        self._close(held)

    def _bury(self, attempt: Attempt, reason: str, *, charged: bool = True) -> None:
        job = attempt.job.with_(attempts=attempt.runs_before + charged, crashes=attempt.crashes)
        self._bury_as(attempt, job, reason, attempt.started_s)
        attempt.finished = True

    def _bury_as(self, held: Held | Attempt, job: Job, reason: str, started_s: float = 0.0) -> None:
        dead = job.with_(status="failed", updated_at=self._clock.text(), error=reason)
        record, why = dead.encode(job.place), cut_error(reason)
        held.lease.settlement.failed.append((held.job_id, record))
        self._store(held.lease, held.job_id, b"failed", b"null", why, started_s)
        self.failed += 1
        self._close(held)

    def _store(  # noqa: PLR0913, PLR0917 - the fields of a result
        self,
        lease: Lease,
        job_id: bytes,
        status: bytes,
        data: bytes,
        error: str,
        started_s: float,
    ) -> None:
        duration_ms = (time.monotonic() - started_s) * 1000 if started_s else 0.0
        done = status == b"completed"
        ttl_s = (
            self._settings.result_backend_ttl_success_s
            if done
            else self._settings.result_backend_ttl_failure_s
        )
        fields: list[Any] = ["status", status, "result", data, "error", error]
        fields += ["completed_at", self._clock.text(), "duration_ms", f"{duration_ms:.3f}"]
        lease.settlement.results.append((job_id, max(1, int(ttl_s)), status, fields))

    def _story(self, attempt: Attempt, error: BaseException) -> str:
        """Return the error with the line that raised it: enough to group and to find it."""
        text = describe(error)
        try:
            frames = traceback.extract_tb(error.__traceback__)
        except Exception:  # noqa: BLE001 - a traceback may be anything by now
            frames = traceback.StackSummary()
        log.info("job %s of task %s failed: %s", attempt.job.id, attempt.job.name, text)
        if len(frames) > 1:
            last = frames[-1]
            text = f"{text} ({last.filename.rsplit('/', 1)[-1]}:{last.lineno} in {last.name})"
        return text
