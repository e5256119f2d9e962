"""Jobs that their process was ended for: each has failed a run, by order of the supervisor.

They overran their hard limit, so nothing in their process could say so. The warden settles
them in its place, with the dead process's own token, before the rest is given back unharmed.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Final

from bananas.broker import Retention, Settlement
from bananas.errors import BrokerError, DecodeError
from bananas.job import Job
from bananas.placement import belongs
from bananas.retry import RetryPolicy
from bananas.speedups import MAX_COUNT, format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.broker import Broker
    from bananas.clock import Clock
    from bananas.settings import Settings

log = logging.getLogger("bananas.warden")

REASON: Final = "timed out: past its hard limit, its process was ended"
BLOCKED: Final = "timed out: it blocked its loop past a hard limit, its process was ended"


class Culprits:
    """Settles culprits."""

    def __init__(self, broker: Broker, settings: Settings, clock: Clock) -> None:
        """Retry by the settings' policy: the warden knows no tasks."""
        self._broker = broker
        self._settings = settings
        self._clock = clock
        self._policy = RetryPolicy(
            base_s=settings.retry_base_s,
            factor=settings.retry_factor,
            cap_s=settings.retry_cap_s,
            jitter=settings.retry_jitter,
        )
        self._retention = Retention(
            int(settings.retention_completed_s), int(settings.retention_failed_s)
        )

    async def settle(self, epoch: str, culprits: Sequence[bytes], reason: str = REASON) -> int:
        """Charge a dead process's culprits with a failed run; returns how many were its own.

        Raises:
            BrokerError: Redis did not answer; call again.
        """
        charged = 0
        for request, ids in (await self._broker.leases_of(epoch, culprits)).items():
            settlement = Settlement(request)
            for job_id in ids:
                try:
                    await self._judge(settlement, job_id, reason)
                except BrokerError:
                    raise
                except Exception:  # given back with the rest: the neighbours must not wait for it
                    log.exception("cannot charge job %r with its failed run", job_id)
            if len(settlement):
                stale = await self._broker.settle(epoch, settlement, self._retention)
                charged += len(settlement) - len(stale)
        return charged

    async def _judge(self, settlement: Settlement, job_id: bytes, reason: str) -> None:
        key = self._broker.keys.job_prefix.encode() + job_id
        record = await self._broker.transport.command("GET", key, repeat=True)
        if record is None:
            return
        try:
            job = Job.decode(record, max_retries=self._settings.max_retries)
        except DecodeError:
            return  # given back with the rest; a worker buries it
        now_us = self._clock.real_us()
        where = job.place or belongs(job, self._broker.specials)
        runs = min(job.attempts + 1, MAX_COUNT)  # a foreign record may say anything
        job = job.with_(attempts=runs, error=reason, updated_at=format_time(now_us))
        if job.place is None:
            settlement.foreign.append(job_id)
        delay_s = None
        if job.attempts < job.max_retries:
            delay_s = self._policy.delay_s(job.attempts, TimeoutError(reason), random.random())
        log.warning("job %s of task %s: %s", job.id, job.name, reason)
        if delay_s is None:
            settlement.failed.append((job_id, job.with_(status="failed").encode(where)))
            fields = ["status", "failed", "result", "null", "error", reason]
            fields += ["completed_at", job.updated_at, "duration_ms", "0"]
            ttl_s = max(1, int(self._settings.result_backend_ttl_failure_s))
            settlement.results.append((job_id, ttl_s, b"failed", fields))
            return
        due = format_time(now_us + int(delay_s * 1e6))
        later = job.with_(status="scheduled", scheduled_for=due).encode(where)
        settlement.later.append((job_id, later, int(delay_s * 1000) + 1, "retried"))
