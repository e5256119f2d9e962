"""The dead-letter queue for operators: page, filter, group, retry, delete; no hidden cap.

A page is found by the time and id where the last one ended, so jobs that come and go
meanwhile neither repeat nor hide others.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from bananas.broker import MAX_JOBS
from bananas.clock import SYSTEM_CLOCK
from bananas.errors import FieldError, JobNotFoundError, StateError
from bananas.placement import belongs
from bananas.results import broken, live
from bananas.speedups import format_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bananas.broker import Broker
    from bananas.clock import Clock
    from bananas.job import Job
    from bananas.results import Results

MAX_PAGE: Final = 1000
_READ: Final = 100  # records read at a time: each may be a mebibyte
_LOOKED_THROUGH: Final = 10_000  # most jobs one page looks at for a filter

_SCORE: Final = re.compile(r"-?(?:inf|[0-9]{1,400}(?:\.[0-9]{1,400})?(?:e[+-]?[0-9]{1,3})?)")
# A cursor has its place in a query and on a command line, and an id may be as long as anything.
_CURSOR_ID_CHARS: Final = 160
_CUT_BYTES: Final = 40  # three characters each, at most
_CUT_MARK: Final = "*"  # which no quoted id has


@dataclass(frozen=True, slots=True)
class DeadPage:
    """Failed jobs, and where the next page begins; a cursor of "" = there is none.

    With a filter that few jobs match, a page may be short, even empty, and have a cursor.
    """

    jobs: list[Job]
    cursor: str


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Failed jobs of one task with one first line of error; `example` is the id of one."""

    name: str
    error: str
    count: int
    example: str


class _Spot(NamedTuple):
    """A place in the order of the queue: when it failed, as Redis writes it, and its id.

    The id is what a foreign producer pushed: any bytes.
    """

    score: bytes
    raw_id: bytes
    digest: str = ""  # of the whole id, where a cursor has only the beginning of a long one

    @property
    def job_id(self) -> str:
        return self.raw_id.decode("utf-8", "backslashreplace")

    def text(self) -> str:
        score, quoted = self.score.decode(), quote_from_bytes(self.raw_id, safe=":")
        if len(quoted) > _CURSOR_ID_CHARS:
            quoted = quote_from_bytes(self.raw_id[:_CUT_BYTES], safe=":")
            quoted += f"{_CUT_MARK}{_digest(self.raw_id)}"
        return f"{score}:{quoted}"

    @classmethod
    def parse(cls, cursor: str) -> _Spot | None:
        if not cursor:
            return None
        score, colon, job_id = cursor.partition(":")
        if not colon or not _SCORE.fullmatch(score):
            raise FieldError("cursor", "must be one that a page gave", cursor)
        beginning, _, digest = job_id.partition(_CUT_MARK)
        return cls(score.encode(), unquote_to_bytes(beginning), digest)


def _digest(raw_id: bytes) -> str:
    return sha256(raw_id).hexdigest()[:32]


class DeadLetters:
    """Failed jobs, oldest or newest first."""

    def __init__(self, broker: Broker, results: Results, clock: Clock = SYSTEM_CLOCK) -> None:
        """Work through `broker`."""
        self._broker = broker
        self._results = results
        self._clock = clock

    async def page(
        self,
        *,
        cursor: str = "",
        limit: int = 100,
        name: str | None = None,
        error: str | None = None,
        newest_first: bool = True,
    ) -> DeadPage:
        """Return failed jobs from the cursor on; see `Client.dead`."""
        if not 1 <= limit <= MAX_PAGE:
            raise FieldError("limit", f"must be 1..{MAX_PAGE}", limit)
        jobs: list[Job] = []
        looked_at = 0
        after = _Spot.parse(cursor)
        if after is not None and after.digest:
            after = await self._whole(after, newest_first=newest_first)
        async for spot, job in self._walk(after, newest_first=newest_first):
            looked_at += 1
            if _matches(job, name, error):
                jobs.append(job)
            if len(jobs) >= limit or looked_at >= _LOOKED_THROUGH:
                return DeadPage(jobs, spot.text())
        return DeadPage(jobs, "")

    async def count(self, *, name: str | None = None, error: str | None = None) -> int:
        """Count failed jobs; with a filter, all are looked through."""
        if name is None and error is None:
            size = await self._broker.transport.command(
                "ZCARD", self._broker.keys.dead, repeat=True
            )
            return int(size)
        return sum([_matches(job, name, error) async for _, job in self._walk(None)])

    async def groups(self) -> list[DeadGroup]:
        """Count failed jobs by task and first line of the error, the largest group first."""
        counts: Counter[tuple[str, str]] = Counter()
        examples: dict[tuple[str, str], str] = {}
        async for _, job in self._walk(None):
            lines = (job.error or "").splitlines()
            group = (job.name, lines[0] if lines else "")
            counts[group] += 1
            examples[group] = job.id
        return [DeadGroup(*group, count, examples[group]) for group, count in counts.most_common()]

    async def retry(self, job_id: str, **edit: Any) -> None:  # noqa: ANN401 - JobChanges
        """Put one failed job back into its queue, with members changed.

        Raises:
            JobNotFoundError: No record.
            StateError: It is not failed, or its record cannot be read.
        """
        standing = await self._results.stand(job_id)
        if standing.job is None:
            raise JobNotFoundError(job_id)
        if standing.where != "dead":
            raise StateError(job_id, f"is {standing.job.status}, not failed")
        job = standing.job.with_(**edit)
        if not job.name:
            raise StateError(job_id, "has a record that cannot be read; delete it")
        if job_id not in await self._revive([job]):
            raise StateError(job_id, "is not failed any more")

    async def retry_all(
        self,
        *,
        name: str | None = None,
        error: str | None = None,
        per_s: float | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        """Put failed jobs back, oldest first; returns how many. See `Client.retry_dead`."""
        if per_s is not None and not per_s > 0:
            raise FieldError("per_s", "must be > 0", per_s)
        done = 0
        now = asyncio.get_running_loop().time
        started = now()
        size = MAX_JOBS if per_s is None else max(1, min(MAX_JOBS, int(per_s / 10)))
        async for jobs in self._matching(name, error, size, readable=True):
            done += len(await self._revive([job for _, job in jobs]))
            if on_progress is not None:
                on_progress(done)
            if per_s is not None:
                await asyncio.sleep(max(0.0, started + done / per_s - now()))
        return done

    async def delete(self, job_id: str) -> None:
        """Delete one failed job for good.

        Raises:
            StateError: It is not failed.
        """
        if not await self._broker.purge([job_id]):
            raise StateError(job_id, "is not failed")

    async def delete_all(
        self,
        *,
        name: str | None = None,
        error: str | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        """Delete failed jobs for good, oldest first; returns how many."""
        done = 0
        async for jobs in self._matching(name, error, MAX_JOBS, readable=False):
            done += await self._broker.purge([spot.raw_id for spot, _ in jobs])
            if on_progress is not None:
                on_progress(done)
        return done

    # --- walking ----------------------------------------------------------------------------

    async def _matching(
        self, name: str | None, error: str | None, size: int, *, readable: bool
    ) -> AsyncIterator[list[tuple[_Spot, Job]]]:
        """Give the jobs that match in lists of `size`; those that fail meanwhile are left out."""
        now_s, now_us = map(int, await self._broker.transport.command("TIME", repeat=True))
        jobs: list[tuple[_Spot, Job]] = []
        async for spot, job in self._walk(None, newest_first=False):
            if float(spot.score) > now_s + now_us / 1e6:
                break  # failed again, or failed since: there would be no end
            if _matches(job, name, error) and (job.name or not readable):
                jobs.append((spot, job))
            if len(jobs) >= size:
                yield jobs
                jobs = []
        if jobs:
            yield jobs

    async def _walk(
        self, after: _Spot | None, *, newest_first: bool = True
    ) -> AsyncIterator[tuple[_Spot, Job]]:
        while True:
            spots = await self._spots(after, newest_first=newest_first)
            if not spots:
                return
            prefix = self._broker.keys.job_prefix.encode()
            keys = [prefix + spot.raw_id for spot in spots]
            records = await self._broker.transport.command("MGET", *keys, repeat=True)
            for spot, record in zip(spots, records, strict=True):
                if record is None:
                    yield spot, broken(spot.job_id, b"", "the record is missing")
                else:
                    yield spot, live(record, "dead", spot.job_id)
            after = spots[-1]

    async def _whole(self, cut: _Spot, *, newest_first: bool) -> _Spot:
        """Find the long id of a cursor; if it has left, begin anew at those that failed with it."""
        words = ("ZRANGE", self._broker.keys.dead, cut.score, cut.score, "BYSCORE", "LIMIT")
        offset = 0
        while found := await self._broker.transport.command(*words, offset, _READ, repeat=True):
            for raw_id in found:
                if raw_id.startswith(cut.raw_id) and _digest(raw_id) == cut.digest:
                    return _Spot(cut.score, raw_id)
            offset += len(found)
        beside = math.nextafter(float(cut.score), math.inf if newest_first else -math.inf)
        return _Spot(repr(beside).encode(), b"")

    async def _spots(self, after: _Spot | None, *, newest_first: bool) -> list[_Spot]:
        """Read the next ids; jobs that failed together have one score, and follow by id."""
        ends = (b"+inf", b"-inf") if newest_first else (b"-inf", b"+inf")
        start = ends[0] if after is None else after.score
        words: list[str | bytes] = ["ZRANGE", self._broker.keys.dead, start, ends[1], "BYSCORE"]
        if newest_first:
            words.append("REV")
        offset = 0
        while True:
            pairs = await self._broker.transport.command(
                *words, "LIMIT", offset, _READ, "WITHSCORES", repeat=True
            )
            found = [
                _Spot(score, job_id) for job_id, score in zip(pairs[::2], pairs[1::2], strict=True)
            ]
            spots = [spot for spot in found if _follows(spot, after, newest_first=newest_first)]
            if spots or not found:
                return spots
            offset += len(found)

    async def _revive(self, jobs: list[Job]) -> list[str]:
        """Put jobs back where they belong now; returns the ids that were still failed."""
        broker = self._broker
        specials = await broker.specialise(0.001)  # as they are now; nothing is kept longer
        now_us = self._clock.real_us()
        by_place: dict[str, list[tuple[str, bytes]]] = {}
        for job in jobs:
            where = belongs(job, specials)
            fresh = job.with_(
                status="pending",
                updated_at=format_time(now_us),
                scheduled_for=None,
                attempts=0,
                crashes=0,
                unclaimed=0,
                error=None,
                # One that is too late already was meant to run all the same.
                expires_at=job.expires_at if (job.expires_us or 0) > now_us else None,
            )
            by_place.setdefault(where, []).append((job.id, fresh.encode(where)))
        revived: list[str] = []
        for where, chosen in by_place.items():
            missing = set(await broker.revive(where, chosen))
            revived += [job_id for job_id, _ in chosen if job_id not in missing]
        return revived


def _follows(spot: _Spot, after: _Spot | None, *, newest_first: bool) -> bool:
    if after is None:
        return True
    mine = (float(spot.score), spot.raw_id)
    theirs = (float(after.score), after.raw_id)
    return mine < theirs if newest_first else mine > theirs


def _matches(job: Job, name: str | None, error: str | None) -> bool:
    if name is not None and job.name != name:
        return False
    return error is None or error in (job.error or "")
