"""Workers and wardens in the test's own loop, on a real server, under one prefix.

`Bench` composes what a process composes: transports, broker, table, `Worker` and `Warden`.
Nothing is imitated; only the supervisor is missing, whose part (`slot.state`) the tests play.
On the way out every worker is stopped and the audit must show that no job is lost or doubled.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from redis import Redis

from bananas.app import Bananas
from bananas.broker import Broker, Specials
from bananas.clock import SYSTEM_CLOCK
from bananas.keys import Keys, place
from bananas.settings import Settings
from bananas.table import SlotState, Table
from bananas.transport import Transport
from bananas.warden.warden import Warden
from bananas.watch import Watch
from bananas.worker.places import Service
from bananas.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bananas.broker import Audit
    from bananas.job import Job
    from bananas.scripts import Scripts
    from bananas.table import Slot

PATIENCE_S = 15.0


async def until(
    condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = PATIENCE_S
) -> None:
    """Wait for what only the server knows, which cannot be awaited; fails when it never holds."""
    deadline_s = time.monotonic() + within_s
    while True:
        answer = condition()
        if answer is True or (not isinstance(answer, bool) and await answer):
            return
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {condition}"
        await asyncio.sleep(0.005)


class Running:
    """One worker at work and what it was made of."""

    def __init__(  # noqa: PLR0913, PLR0917 - as `Bench.worker`, which makes it
        self,
        bench: Bench,
        app: Bananas,
        url: str,
        wake_url: str,
        settings: Settings,
        scripts: Scripts | None,
    ) -> None:
        """Compose; `start` starts."""
        self.settings = settings
        self.slot: Slot = bench.free_slot()
        self.slot.claim("worker", now_ns=time.monotonic_ns())
        self.slot.pid = os.getpid()
        self.transport = Transport(url, client_name="test-worker")
        self.wake_transport = Transport(wake_url, client_name="test-wake")
        self.broker = Broker(self.transport, bench.keys, scripts)
        self.worker = Worker(self.broker, self.wake_transport, app.registry, settings, self.slot)
        self._stopped = False

    async def start(self) -> Self:
        """Start it; the supervisor would now see it ready."""
        await self.worker.start()
        self.slot.state = SlotState.READY
        return self

    @property
    def epoch(self) -> str:
        """The epoch it leases by."""
        return self.worker.epoch

    async def stop(self, grace_s: float = 10.0) -> None:
        """Stop it in order; its slot becomes free."""
        if not self._stopped:
            self._stopped = True
            await self.worker.stop(grace_s)
            await self.transport.close()
            await self.wake_transport.close()
            self.slot.state = SlotState.FREE


class Bench:
    """A server, an application, and what runs it."""

    def __init__(self, url: str, prefix: str, **settings: Any) -> None:  # noqa: ANN401 - Settings'
        """Prepare; enter it to connect."""
        settings = {"lease_ttl_s": 5.0, "beat_interval_s": 0.5, "log_level": "debug", **settings}
        self.settings = Settings(redis_url=url, key_prefix=prefix, **settings)
        self.app = Bananas(settings=self.settings)
        self.keys = Keys(prefix)
        self.table = Table.create(8, self.settings.begun_entries)
        self.workers: list[Running] = []
        self.drift_allowed = 0
        """Foreign jobs that still wait when the test ends: nobody has counted them yet."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect."""
        url = str(self.settings.redis_url)
        self.transport = Transport(url, client_name="test")
        self.broker = Broker(self.transport, self.keys)
        self.redis = Redis.from_url(url, protocol=2)
        self._stack.callback(self.redis.close)
        self._stack.push_async_callback(self.transport.close)
        self._stack.push_async_callback(self.app.aclose)
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """Stop what runs; the books must balance."""
        try:
            await asyncio.gather(*(worker.stop(0.5) for worker in self.workers))
            if kind is None:
                audit = await self.audit()
                assert audit.drift == self.drift_allowed, audit
        finally:
            await self._stack.aclose()

    def free_slot(self) -> Slot:
        """Return a slot that nobody has."""
        return next(slot for slot in self.table.slots if slot.state is SlotState.FREE)

    async def worker(
        self,
        app: Bananas | None = None,
        *,
        url: str | None = None,
        wake_url: str | None = None,
        scripts: Scripts | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> Running:
        """Start a worker; `changes` are settings of its own."""
        settings = dataclasses.replace(self.settings, **changes)
        where = url or str(settings.redis_url)
        running = Running(self, app or self.app, where, wake_url or where, settings, scripts)
        self.workers.append(running)
        return await running.start()

    def warden(
        self,
        *,
        url: str | None = None,
        scheduler: bool = True,
        scripts: Scripts | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> Warden:
        """Start a warden for the bench's table; it is stopped with the bench."""
        settings = dataclasses.replace(self.settings, **changes)
        transport = Transport(url or str(settings.redis_url), client_name="test-warden")
        service = Service.of(settings)
        slot = self.free_slot()
        slot.claim("warden", now_ns=time.monotonic_ns())
        warden = Warden(
            Broker(transport, self.keys, scripts),
            settings,
            self.table,
            slot,
            SYSTEM_CLOCK,
            watch=Watch(url or str(settings.redis_url)),
            served=Service(service.routing_keys, service.priorities).places((), Specials()),
            scheduler=scheduler,
        )
        warden.start()
        self._stack.push_async_callback(transport.close)
        self._stack.push_async_callback(warden.stop)
        return warden

    # --- looking ------------------------------------------------------------------------------

    async def audit(self) -> Audit:
        """Count everything at one instant."""
        return await self.broker.audit()

    async def counters(self) -> dict[str, int]:
        """Return what was counted so far."""
        return (await self.audit()).counters

    async def job(self, job_id: str) -> Job:
        """Return a job with its live status."""
        return await self.app.client.get_job(job_id)

    async def status(self, job_id: str, *wanted: str) -> Job:
        """Wait until a job has one of these statuses, and return it."""
        seen: list[Job] = []

        async def reached() -> bool:
            seen.append(await self.job(job_id))
            return seen[-1].status in wanted

        try:
            await until(reached)
        except AssertionError:
            raise AssertionError(f"{job_id} is {seen[-1]}, not {wanted}") from None
        return seen[-1]

    async def idle(self, *, within_s: float = PATIENCE_S) -> Audit:
        """Wait until nothing waits, is due or is leased."""
        found: list[Audit] = []

        async def none_left() -> bool:
            found.append(await self.audit())
            last = found[-1]
            return not (last.waiting - last.cancelled_waiting or last.leased or last.scheduled)

        await until(none_left, within_s=within_s)
        return found[-1]

    def result(self, job_id: str) -> dict[bytes, bytes]:
        """Return a result as a foreign client reads it."""
        return dict(self.redis.hgetall(self.keys.result(job_id)))  # type: ignore[arg-type]

    def push(self, record: bytes | None, job_id: str | bytes, where: str = place("normal")) -> None:
        """Enqueue as a foreign client does: SET and LPUSH, nothing else."""
        name = job_id.encode() if isinstance(job_id, str) else job_id
        if record is not None:
            self.redis.set(self.keys.job_prefix.encode() + name, record)
        self.redis.lpush(self.keys.waiting(where), name)
