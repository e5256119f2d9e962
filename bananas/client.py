"""The client: submit by name, look, wait, cancel, and what operators do; no task's code needed.

It connects when first used, to the server its settings name or to the embedded one, and
belongs to the loop that uses it: used from another loop later, it connects there. What is
submitted at the same time shares round trips by itself.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from bananas.address import parse_url
from bananas.broker import Broker
from bananas.clock import SYSTEM_CLOCK
from bananas.errors import (
    FieldError,
    JobNotFoundError,
    PayloadError,
    PayloadTypeError,
    ResultTimeoutError,
    StateError,
)
from bananas.handle import JobHandle
from bananas.ids import IdMaker
from bananas.keys import Keys, place
from bananas.producer import MEMORY
from bananas.results import ENDED, Result
from bananas.session import Session
from bananas.settings import Settings
from bananas.speedups import format_time
from bananas.stream import Stream, judge
from bananas.submission import Drafter, rejection
from bananas.transport import Transport
from bananas.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence

    from bananas.broker import Audit, Entry
    from bananas.deadletters import DeadGroup, DeadPage
    from bananas.errors import DurabilityUnconfirmedError
    from bananas.inspector import QueueInfo
    from bananas.job import Job
    from bananas.producer import Draft
    from bananas.settings import Durability
    from bananas.submission import (
        Report,
        RetryChanges,
        Submission,
        SubmitOptions,
        Verdict,
        Verdicts,
        WaitOptions,
    )

NO_ARGUMENTS: Final[Mapping[str, Any]] = {}
"""The payload of a job that was given none."""


def settings_for(url: str | None, settings: Settings | None) -> Settings:
    """Return the settings, by default the environment's, with the URL in them when given.

    Raises:
        SettingsError: The environment, or the URL, is wrong.
    """
    if settings is None:
        return Settings.from_sources(os.environ, redis_url=url)
    return settings if url is None else replace(settings, redis_url=url)


class Client:
    """Jobs of one key prefix on one server.

    Use it as `async with Client() as client:`, or close it with `aclose`. All methods that
    talk to the server may raise a `BrokerError`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        broker: Broker | None = None,
    ) -> None:
        """Keep where to connect; nothing is opened yet.

        Args:
            url: The server; default: that of the settings.
            settings: Default: read from the environment.
            broker: Speak through this one, which its owner closes; `url`, where known, then
                only serves to be told of results at once.

        Raises:
            SettingsError: The environment, or the URL, is wrong.
        """
        self.settings: Final = settings_for(url, settings)
        self._given = broker
        self._ids = IdMaker(SYSTEM_CLOCK)
        self._session: Session | None = None
        self.drafter: Final = Drafter(
            max_retries=self.settings.max_retries,
            max_payload_bytes=self.settings.max_payload_bytes,
            max_depth=self.settings.max_depth,
            durability=self.settings.durability,
        )

    async def __aenter__(self) -> Self:
        """Connect, so that a wrong address shows here, or a server that is not durable enough."""
        await self.ping()
        await self.check_durability()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.aclose()

    async def aclose(self) -> None:
        """Send what is on its way and close the connections; the next use opens new ones."""
        session, self._session = self._session, None
        if session is None or session.loop is not asyncio.get_running_loop():
            return
        await session.producer.close()
        if session.keeper is not None:
            session.keeper.cancel()
            await asyncio.wait([session.keeper])
        elif session.watch is not None:
            await session.watch.close()

    def open_session(self) -> Session | None:
        """Return what is open in the running loop, None = nothing yet."""
        session = self._session
        if session is None or session.loop is not asyncio.get_running_loop():
            return None
        return session

    async def session(self) -> Session:
        """Return what is open in the running loop; opens it if need be."""
        session = self.open_session()
        if session is not None:
            return session
        url = self.settings.redis_url
        if url is None and self._given is None:
            from bananas.embedded import start  # noqa: PLC0415 - most have a server

            synced = self.settings.durability == "fsync"
            url = (await asyncio.to_thread(start, self.settings.data_dir, synced=synced)).url
        session = self.open_session()  # another caller may have been faster
        if session is not None:
            return session
        address = None if url is None else parse_url(url, self.settings.key_prefix)
        watch = None if address is None else Watch(address)
        if self._given is not None:
            session = Session(self._given, self._ids, watch, self.settings)
        else:
            transport = Transport(address or "", client_name="bananas-client")
            broker = Broker(transport, Keys(self.settings.key_prefix))
            session = Session(broker, self._ids, watch, self.settings)
            session.keeper = session.loop.create_task(session.keep(), name="bananas.client")
        self._session = session
        return session

    # --- submit -------------------------------------------------------------------------------

    async def submit(
        self, name: str, payload: object = NO_ARGUMENTS, **options: Unpack[SubmitOptions]
    ) -> JobHandle[Any]:
        """Enqueue one job; calls made at the same time share a round trip.

        Args:
            name: The task's.
            payload: Any JSON value; an object's members are the handler's keyword arguments.
            **options: As the fields of `Submission`.

        Raises:
            FieldError: A field breaks its rule.
            PayloadError: The payload is too large or too deep.
            PayloadTypeError: The payload has no JSON form.
            DuplicateJobError: A job of the given id exists; nothing was changed.
            DurabilityError: The server cannot keep it as safe as asked; nothing was enqueued.
            DurabilityUnconfirmedError: It is enqueued, and may not be as safe as asked.
        """
        draft = self.drafter.draft_call(name, payload, dict(options))
        job_id = await self.submit_draft(draft)
        return JobHandle(self, job_id, name)

    async def submit_draft(self, draft: Draft) -> str:
        """Enqueue a job that is checked already; returns its id."""
        return (await self.enter(draft)).job_id

    async def enter(self, draft: Draft) -> Entry:
        """Enqueue a job that is checked already; returns its entry: the id, and the record."""
        session = self.open_session() or await self.session()
        return await session.producer.submit(draft)

    async def submit_chunk(
        self,
        items: Sequence[Submission | Mapping[str, Any]],
        *,
        durability: Durability | None = None,
    ) -> Verdicts:
        """Enqueue a list of jobs; each item has its own verdict, bad ones are rejected alone.

        Args:
            items: As many as there are.
            durability: Of those that do not say; None = the setting.
        """
        draft = self.drafter.defaulting(durability).draft
        drafts: list[Draft] = []
        rejected: dict[int, Verdict] = {}
        for index, item in enumerate(items):
            try:
                drafts.append(draft(item))
            except (FieldError, PayloadError, PayloadTypeError) as error:
                rejected[index] = rejection(index, error)
        if not drafts:
            return judge(0, None, rejected)
        session = self.open_session() or await self.session()
        return judge(0, await session.producer.submit_chunk(drafts), rejected)

    async def submit_many(
        self,
        items: Iterable[Submission | Mapping[str, Any]]
        | AsyncIterable[Submission | Mapping[str, Any]],
        *,
        durability: Durability | None = None,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Enqueue any number of jobs through bounded memory.

        Args:
            items: Pulled as fast as chunks of at most 500 jobs and 1 MiB are answered.
            durability: Of those that do not say; None = the setting.
            keep_verdicts: Whether the report has them all; turn it off for endless streams.
            on_chunk: Called with the verdicts of each chunk, in order.
        """
        draft = self.drafter.defaulting(durability).draft
        return await self.stream(items, draft, keep_verdicts=keep_verdicts, on_chunk=on_chunk)

    async def confirm(self, error: DurabilityUnconfirmedError) -> None:
        """Wait again until the jobs of an error are as safe as was asked; enqueues nothing.

        Asked within a minute of the error, or of the last time: the server remembers no longer.

        Raises:
            DurabilityUnconfirmedError: They are still not, or the server has lost them.
        """
        producer = (await self.session()).producer
        await producer.confirm(error.durability, error.requests, error.job_ids)

    async def check_durability(self, durability: Durability | None = None) -> None:
        """Return if the server can keep jobs as safe as this, by default as the setting says.

        Raises:
            FieldError: There is no such durability.
            DurabilityError: It cannot; the error says what is missing.
        """
        asked = self.drafter.defaulting(durability).durability
        if asked != MEMORY:
            await (await self.session()).producer.confirmer(asked).check(afresh=True)

    async def stream(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        draft: Callable[[Any], Draft],
        *,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Enqueue any number of items that `draft` turns into jobs; see `submit_many`."""
        session = await self.session()
        stream = Stream(session.producer, draft, keep_verdicts=keep_verdicts, on_chunk=on_chunk)
        return await stream.run(items)

    async def submit_and_wait(
        self,
        name: str,
        payload: object = NO_ARGUMENTS,
        *,
        timeout_s: float,
        **options: Unpack[WaitOptions],
    ) -> Any:  # noqa: ANN401 - what the handler returned
        """Enqueue one job, keep its result, wait for it and return it.

        Args:
            name: The task's.
            payload: As in `submit`.
            timeout_s: Longest wait, seconds.
            **options: As in `submit`; `run_timeout_s` is the job's own `timeout_s`.

        Raises:
            JobFailedError: It failed for good.
            JobCancelledError: It was cancelled.
            ResultTimeoutError: Not ended in time; it goes on.
            FieldError: And whatever else `submit` raises.
        """
        chosen: dict[str, Any] = dict(options)
        chosen["timeout_s"] = chosen.pop("run_timeout_s", None)
        draft = self.drafter.draft_call(name, payload, {**chosen, "result": True})
        job_id = draft.job_id or self._ids.new_id()
        session = await self.session()
        # Subscribed before it is submitted: its end cannot be missed, nor need it be looked for.
        with session.results.watching(job_id) as signal:
            await session.producer.submit(draft._replace(job_id=job_id))
            result = await session.results.wait(job_id, signal, timeout_s)
        if result is None:
            raise ResultTimeoutError(job_id, timeout_s)
        return result.unwrap()

    # --- look and wait ------------------------------------------------------------------------

    async def get_job(self, job_id: str) -> Job:
        """Return a job with its live status.

        A record that cannot be read shows as a failed job without a name, its bytes as
        payload and the reason as error.

        Raises:
            JobNotFoundError: Never made, or past its retention.
        """
        job = (await (await self.session()).results.stand(job_id)).job
        if job is None:
            raise JobNotFoundError(job_id)
        return job

    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Return jobs with their live status, None where there is no record."""
        return await (await self.session()).results.jobs(job_ids)

    async def get_result(self, job_id: str, *, wait_s: float = 0.0) -> Result | None:
        """Return how a job ended; None = it has not, not within `wait_s` seconds.

        Raises:
            JobNotFoundError: Neither a record nor a result.
        """
        results = (await self.session()).results
        result, _ = await results.end(job_id)
        if result is not None or wait_s <= 0:
            return result
        with results.watching(job_id) as signal:
            return await results.wait(job_id, signal, wait_s)

    async def wait_end(self, job_id: str, timeout_s: float | None) -> Result | None:
        """Wait for the end of a job that was enqueued; one whose record is gone has ended."""
        results = (await self.session()).results
        with results.watching(job_id) as signal:
            return await results.wait(job_id, signal, timeout_s)

    # --- change -------------------------------------------------------------------------------

    async def cancel(self, job_id: str) -> None:
        """End a job that waits or is scheduled, at once.

        Raises:
            JobNotFoundError: No record.
            StateError: It runs, has ended, or its record cannot be read.
        """
        session = await self.session()
        ttl_s = max(1, int(self.settings.retention_completed_s))
        while True:
            job, record, _ = await session.results.stand(job_id)
            if job is None or record is None:
                raise JobNotFoundError(job_id)
            if job.status == "processing" or job.status in ENDED:
                raise StateError(job_id, f"is {job.status}: only waiting jobs can be cancelled")
            now = format_time(SYSTEM_CLOCK.real_us())
            cancelled = job.with_(status="cancelled", updated_at=now)
            answer = await session.broker.cancel(
                job_id,
                record,
                cancelled.encode(job.place or place(job.priority, job.routing_key)),
                ttl_s=ttl_s,
                foreign=job.place is None,
            )
            if answer == "cancelled":
                break
        channel = session.broker.keys.notify(job_id)
        await session.broker.transport.command("PUBLISH", channel, "cancelled", repeat=True)

    async def retry(self, job_id: str, **changes: Unpack[RetryChanges]) -> None:
        """Put a failed job back into its queue, with all its runs before it.

        Args:
            job_id: Which.
            **changes: `payload` in place of the old one.

        Raises:
            JobNotFoundError: No record.
            StateError: It is not failed, or its record cannot be read.
            PayloadError: The new payload is too large or too deep.
            PayloadTypeError: The new payload has no JSON form.
        """
        edit: dict[str, Any] = {}
        if "payload" in changes:
            edit["payload_json"] = self.drafter.payload(changes["payload"])
        await (await self.session()).dead.retry(job_id, **edit)

    # --- the dead-letter queue ----------------------------------------------------------------

    async def dead(
        self,
        *,
        cursor: str = "",
        limit: int = 100,
        name: str | None = None,
        error: str | None = None,
        newest_first: bool = True,
    ) -> DeadPage:
        """Return a page of failed jobs.

        Args:
            cursor: Of the page before; "" = begin.
            limit: Most jobs, 1..1000.
            name: Only of this task.
            error: Only those whose error contains this.
            newest_first: Else those that failed first.

        Raises:
            FieldError: The cursor or the limit is wrong.
        """
        return await (await self.session()).dead.page(
            cursor=cursor, limit=limit, name=name, error=error, newest_first=newest_first
        )

    async def dead_count(self, *, name: str | None = None, error: str | None = None) -> int:
        """Count failed jobs; with a filter all are looked through."""
        return await (await self.session()).dead.count(name=name, error=error)

    async def dead_groups(self) -> list[DeadGroup]:
        """Count failed jobs by task and first line of their error, the largest group first."""
        return await (await self.session()).dead.groups()

    async def retry_dead(
        self,
        *,
        name: str | None = None,
        error: str | None = None,
        per_s: float | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        """Put all failed jobs that match back into their queues, oldest first.

        Args:
            name: Only of this task.
            error: Only those whose error contains this.
            per_s: At most so many a second; None = as fast as it goes.
            on_progress: Called with the count so far.

        Returns:
            How many; jobs that fail meanwhile, and unreadable ones, are left where they are.
        """
        return await (await self.session()).dead.retry_all(
            name=name, error=error, per_s=per_s, on_progress=on_progress
        )

    async def delete_dead(
        self,
        job_id: str | None = None,
        *,
        name: str | None = None,
        error: str | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        """Delete one failed job, or all that match, for good; returns how many.

        Raises:
            StateError: The one named is not failed.
        """
        dead = (await self.session()).dead
        if job_id is not None:
            await dead.delete(job_id)
            return 1
        return await dead.delete_all(name=name, error=error, on_progress=on_progress)

    # --- the whole ----------------------------------------------------------------------------

    async def queues(self) -> list[QueueInfo]:
        """Return what waits where; those of the default routing key also when empty."""
        return await (await self.session()).inspector.queues()

    async def stats(self) -> dict[str, int]:
        """Return the counters, and how many jobs are where at this instant."""
        return await (await self.session()).inspector.stats()

    async def audit(self) -> Audit:
        """Count where every job is, with the counters, in one instant."""
        return await (await self.session()).broker.audit()

    async def workers(self) -> list[dict[str, Any]]:
        """Return the worker processes, with what they said of themselves."""
        return await (await self.session()).inspector.workers()

    async def ping(self) -> None:
        """Ask the server for an answer."""
        await (await self.session()).broker.transport.command("PING", repeat=True)
