"""The client for code that blocks: one thread with one loop and one `Client` behind it.

Any thread may call; what threads submit at the same time shares round trips, since the
loop sees it in one tick. A forked child starts a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterable, AsyncIterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack

from bananas.broker import MAX_JOBS
from bananas.client import NO_ARGUMENTS, Client, settings_for
from bananas.handle import SyncJobHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from bananas.broker import Audit
    from bananas.deadletters import DeadGroup, DeadPage
    from bananas.errors import DurabilityUnconfirmedError
    from bananas.inspector import QueueInfo
    from bananas.job import Job
    from bananas.producer import Draft
    from bananas.results import Result
    from bananas.settings import Durability, Settings
    from bananas.submission import (
        Report,
        RetryChanges,
        Submission,
        SubmitOptions,
        Verdicts,
        WaitOptions,
    )

T = TypeVar("T")

_BLOCKS_AHEAD: Final = 2


class _Engine:
    """A daemon thread that runs a loop, and the client that lives there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = threading.Event()
        self._stopping: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self.client: Client
        self._thread = threading.Thread(target=self._run, name="bananas-client", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            self.loop = runner.get_loop()
            self.client = Client(settings=self._settings)
            self._stopping = asyncio.Event()
            self._ready.set()
            runner.run(self._live())

    async def _live(self) -> None:
        await self._stopping.wait()
        await self.client.aclose()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the loop."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a SyncClient would wait for itself in its own thread")
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - only where this client is used
    except ImportError:
        return None
    return uvloop.new_event_loop


def _wait(future: Future[T]) -> T:
    """Wait for the answer; Ctrl-C abandons the question."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class _Handover(AsyncIterable[Any]):
    """Items from the caller's thread to the loop, a few blocks ahead of it at most."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._blocks: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.room = threading.Semaphore(_BLOCKS_AHEAD)

    def put(self, block: list[Any]) -> None:
        """Hand a block over, once there is room; an empty one is the end."""
        self.room.acquire()
        self._loop.call_soon_threadsafe(self._blocks.put_nowait, block)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while block := await self._blocks.get():
            for item in block:
                yield item
            self.room.release()


_clients: weakref.WeakSet[SyncClient] = weakref.WeakSet()


class SyncClient:
    """The verbs of `Client`, blocking; see there for what they take, return and raise."""

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        """Keep where to connect; thread and connection are made when first used.

        Args:
            url: The server; default: that of the settings.
            settings: Default: read from the environment.

        Raises:
            SettingsError: The environment, or the URL, is wrong.
        """
        self.settings: Final = settings_for(url, settings)
        self._lock = threading.Lock()
        self._engine: _Engine | None = None
        _clients.add(self)

    def __enter__(self) -> Self:
        """Connect, so that a wrong address shows here, or a server that is not durable enough."""
        self.ping()
        self.check_durability()
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Send what is on its way and end the thread; the next use makes a new one."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop()

    def forget(self) -> None:
        """Start anew, as in a forked child: the thread stayed behind."""
        self._lock = threading.Lock()
        self._engine = None

    def _running(self) -> _Engine:
        engine = self._engine
        if engine is None:
            with self._lock:
                if self._engine is None:
                    self._engine = _Engine(self.settings)
                engine = self._engine
        return engine

    def _run(self, verb: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        engine = self._running()
        return _wait(engine.start(verb(engine.client)))

    # --- submit -----------------------------------------------------------------------------

    def submit(
        self, name: str, payload: object = NO_ARGUMENTS, **options: Unpack[SubmitOptions]
    ) -> SyncJobHandle[Any]:
        """Enqueue one job."""
        job = self._run(lambda client: client.submit(name, payload, **options))
        return SyncJobHandle(self, job.id, job.name)

    def submit_draft(self, draft: Draft) -> str:
        """Enqueue a job that is checked already; returns its id."""
        return self._run(lambda client: client.submit_draft(draft))

    def submit_chunk(
        self,
        items: Sequence[Submission | Mapping[str, Any]],
        *,
        durability: Durability | None = None,
    ) -> Verdicts:
        """Enqueue a list of jobs; a verdict for each."""
        return self._run(lambda client: client.submit_chunk(items, durability=durability))

    def confirm(self, error: DurabilityUnconfirmedError) -> None:
        """Wait again until the jobs of an error are as safe as was asked."""
        self._run(lambda client: client.confirm(error))

    def check_durability(self, durability: Durability | None = None) -> None:
        """Return if the server can keep jobs as safe as this."""
        self._run(lambda client: client.check_durability(durability))

    def submit_many(
        self,
        items: Iterable[Submission | Mapping[str, Any]],
        *,
        durability: Durability | None = None,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Enqueue any number of jobs; `items` runs in this thread, `on_chunk` in the client's."""
        draft = self._running().client.drafter.defaulting(durability).draft
        return self.stream(items, draft, keep_verdicts=keep_verdicts, on_chunk=on_chunk)

    def stream(
        self,
        items: Iterable[Any],
        draft: Callable[[Any], Draft],
        *,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Enqueue any number of items that `draft` turns into jobs."""
        engine = self._running()
        handover = _Handover(engine.loop)
        report = engine.start(
            engine.client.stream(handover, draft, keep_verdicts=keep_verdicts, on_chunk=on_chunk)
        )
        # A stream that failed takes nothing any more, and must not leave us waiting for room.
        report.add_done_callback(lambda _: handover.room.release())
        try:
            source = iter(items)
            while not report.done():
                block = list(islice(source, MAX_JOBS))
                handover.put(block)
                if not block:
                    break
        except BaseException:
            report.cancel()
            raise
        return _wait(report)

    def submit_and_wait(
        self,
        name: str,
        payload: object = NO_ARGUMENTS,
        *,
        timeout_s: float,
        **options: Unpack[WaitOptions],
    ) -> Any:  # noqa: ANN401 - what the handler returned
        """Enqueue one job, wait for its result and return it."""
        return self._run(
            lambda client: client.submit_and_wait(name, payload, timeout_s=timeout_s, **options)
        )

    # --- look, wait, change -----------------------------------------------------------------

    def get_job(self, job_id: str) -> Job:
        """Return a job with its live status."""
        return self._run(lambda client: client.get_job(job_id))

    def get_jobs(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Return jobs with their live status, None where there is no record."""
        return self._run(lambda client: client.get_jobs(job_ids))

    def get_result(self, job_id: str, *, wait_s: float = 0.0) -> Result | None:
        """Return how a job ended; None = it has not, not within `wait_s` seconds."""
        return self._run(lambda client: client.get_result(job_id, wait_s=wait_s))

    def wait_end(self, job_id: str, timeout_s: float | None) -> Result | None:
        """Wait for the end of a job that was enqueued; one whose record is gone has ended."""
        return self._run(lambda client: client.wait_end(job_id, timeout_s))

    def cancel(self, job_id: str) -> None:
        """End a job that waits or is scheduled, at once."""
        self._run(lambda client: client.cancel(job_id))

    def retry(self, job_id: str, **changes: Unpack[RetryChanges]) -> None:
        """Put a failed job back into its queue."""
        self._run(lambda client: client.retry(job_id, **changes))

    # --- the dead-letter queue --------------------------------------------------------------

    def dead(
        self,
        *,
        cursor: str = "",
        limit: int = 100,
        name: str | None = None,
        error: str | None = None,
        newest_first: bool = True,
    ) -> DeadPage:
        """Return a page of failed jobs."""
        return self._run(
            lambda client: client.dead(
                cursor=cursor, limit=limit, name=name, error=error, newest_first=newest_first
            )
        )

    def dead_count(self, *, name: str | None = None, error: str | None = None) -> int:
        """Count failed jobs."""
        return self._run(lambda client: client.dead_count(name=name, error=error))

    def dead_groups(self) -> list[DeadGroup]:
        """Count failed jobs by task and error."""
        return self._run(lambda client: client.dead_groups())

    def retry_dead(
        self,
        *,
        name: str | None = None,
        error: str | None = None,
        per_s: float | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        """Put all failed jobs that match back into their queues."""
        return self._run(
            lambda client: client.retry_dead(
                name=name, error=error, per_s=per_s, on_progress=on_progress
            )
        )

    def delete_dead(
        self,
        job_id: str | None = None,
        *,
        name: str | None = None,
        error: str | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        """Delete one failed job, or all that match, for good."""
        return self._run(
            lambda client: client.delete_dead(
                job_id, name=name, error=error, on_progress=on_progress
            )
        )

    # --- the whole --------------------------------------------------------------------------

    def queues(self) -> list[QueueInfo]:
        """Return what waits where."""
        return self._run(lambda client: client.queues())

    def stats(self) -> dict[str, int]:
        """Return the counters, and how many jobs are where."""
        return self._run(lambda client: client.stats())

    def audit(self) -> Audit:
        """Count where every job is, with the counters, in one instant."""
        return self._run(lambda client: client.audit())

    def workers(self) -> list[dict[str, Any]]:
        """Return the worker processes."""
        return self._run(lambda client: client.workers())

    def ping(self) -> None:
        """Ask the server for an answer."""
        self._run(lambda client: client.ping())


def _after_fork() -> None:
    for client in list(_clients):
        client.forget()


os.register_at_fork(after_in_child=_after_fork)
