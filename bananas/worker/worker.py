"""One process's worker: intake, lanes, fetcher and settler, composed; and how they stop.

A job goes fetch → admit → lane → outcome → settle. The worker's own duties are its epoch
(taken anew when fenced), the comparison of what it holds with what Redis thinks it holds,
the soft limits, and leaving in order: stop fetching, give back at once what has not begun,
let what runs end within the grace, give back the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

import psutil

from bananas.broker import Retention
from bananas.clock import SYSTEM_CLOCK
from bananas.errors import BrokerError
from bananas.ids import request_id
from bananas.placement import find_places
from bananas.table import SlotState, Totals
from bananas.worker.attempt import Bunch
from bananas.worker.begun import BegunBoard
from bananas.worker.fetcher import Fetcher
from bananas.worker.forks import end_copies
from bananas.worker.gate import Gate
from bananas.worker.intake import Intake
from bananas.worker.loop_lane import LoopLane
from bananas.worker.outcomes import Outcomes, RedisTime
from bananas.worker.places import Service
from bananas.worker.room import Room
from bananas.worker.settler import Settler
from bananas.worker.sorter import Sorter
from bananas.worker.thread_lane import ThreadLane
from bananas.worker.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from bananas.broker import Batch, Broker
    from bananas.registry import Registry
    from bananas.settings import Settings
    from bananas.table import Slot
    from bananas.transport import Transport
    from bananas.worker.attempt import Attempt

log = logging.getLogger("bananas.worker")

_TICK_S: Final = 0.05
_FETCH_GRACE_S: Final = 1.0
_CANCEL_GRACE_S: Final = 1.0
_LEAVE_S: Final = 5.0
_CUT_S: Final = 1.0
_RENEW_S: Final = 0.5
_RENEWER: Final = "renewer of the epoch"
_RECYCLE_AGE_S: Final = 10.0


class Worker:
    """Runs the jobs of one process."""

    def __init__(  # noqa: PLR0913 - what a worker is made of, each given from outside
        self,
        broker: Broker,
        wake_transport: Transport,
        registry: Registry,
        settings: Settings,
        slot: Slot,
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
    ) -> None:
        """Compose a worker; `start` and `stop` need the loop.

        Args:
            broker: For leases and outcomes; owned by the caller.
            wake_transport: A second connection, for the blocked read; owned by the caller.
            registry: The tasks.
            settings: Limits and times.
            slot: Where the process is accounted for; somebody must beat its epoch.
            lifespan: Entered before the first job, left after the last.
        """
        self._broker = broker
        self._settings = settings
        self._slot = slot
        self._lifespan = lifespan
        self._stack = AsyncExitStack()
        self._service = Service.of(settings)
        self._clock = RedisTime()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = asyncio.Event()
        self._settled = asyncio.Event()
        self._leaving = False
        self._grace_ends_s = float("inf")
        self._born_s = time.monotonic()
        self._process = psutil.Process()
        self._fresh_bytes = 0
        self._totals = Totals(slot)
        self._transports = (broker.transport, wake_transport)
        self._reconciled = self._fenced = 0
        self._lease_is_over = False
        self._cut = asyncio.Event()
        self.epoch = ""
        self.broken = asyncio.Event()
        """Set when a part of the worker has ended by itself: the process must be replaced."""

        self._settler = Settler(
            broker,
            Retention(int(settings.retention_completed_s), int(settings.retention_failed_s)),
            on_outcome=self._on_outcome,
            on_settled=self._on_settled,
        )
        self._outcomes = Outcomes(settings, self._clock, self._settler.outcome)
        self._intake = Intake(registry, settings, self._outcomes, self._clock)
        self._gate = Gate()
        runners, threads = settings.worker_concurrency, settings.sync_thread_count
        self._board = board = BegunBoard(slot, settings.begun_entries, runners + threads)
        grace_s = settings.hard_timeout_grace_s
        self._loop_lane = LoopLane(runners, self._outcomes, board, self._gate, hard_grace_s=grace_s)
        self._thread_lane = ThreadLane(
            threads, runners, self._outcomes, board, self._gate, hard_grace_s=grace_s
        )
        self.witness = Witness(slot, self._loop_lane)
        self._gate.guard(self._loop_lane, self._thread_lane)
        self._gate.is_settled = self._settler.is_settled
        self._gate.on_hold = self._on_hold
        self._loop_lane.on_end = self._on_end
        self._room = Room(registry, self._loop_lane, self._thread_lane, settings)
        self._fetcher = Fetcher(
            broker,
            wake_transport,
            self._service,
            Sorter(broker, self._service.sources()),
            settings,
            known=frozenset(registry),
            appetite=self._appetite,
            admit=self._admit,
            fenced=self._on_fenced,
        )
        self._loop_lane.on_rest = self._thread_lane.on_rest = self._fetcher.stir
        self._thread_lane.on_death = self._on_thread_death

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Enter the lifespan, take an epoch and begin to fetch.

        Raises:
            BrokerError: The epoch could not be registered.
        """
        if self._lifespan is not None:
            await self._stack.enter_async_context(self._lifespan())
        self._loop_lane.start()
        self._thread_lane.start()
        self._settler.start()
        if self._service.only_tasks:
            await self._broker.specialise(self._settings.lease_ttl_s, self._service.only_tasks)
        await self._take_epoch()
        self._fetcher.start(self.epoch)
        loop = asyncio.get_running_loop()
        end_copies(self._board, loop)
        self._tasks = [
            loop.create_task(self._tick_for_ever(), name="ticker"),
            loop.create_task(self._reconcile_for_ever(), name="reconciler"),
        ]
        for task in (*self._tasks, *self._fetcher.tasks, *self._settler.tasks):
            task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Report a part that has ended: without it the worker would hold jobs and do nothing."""
        if self._leaving or self.broken.is_set():
            return
        error = None if task.cancelled() else task.exception()
        if task.get_name() == _RENEWER and not task.cancelled() and error is None:
            self._tasks.remove(task)
            return
        log.critical("the %s has ended", task.get_name(), exc_info=error)
        self.broken.set()

    def _on_thread_death(self, name: str, error: BaseException) -> None:
        if not self._leaving:
            log.critical("the thread %s has ended", name, exc_info=error)
            self.broken.set()

    def quiet(self) -> None:
        """Take no more jobs; those here go on."""
        if not self._leaving:
            self._slot.state = SlotState.QUIET
        self._fetcher.closed = True
        self._fetcher.stir()

    async def stop(self, grace_s: float) -> None:
        """Leave in order: see the module. A second call can only shorten the grace.

        Args:
            grace_s: How long running jobs may go on; 0 = they are given back at once, and nothing
                that Redis does not answer is waited for longer than a second.
        """
        self._grace_ends_s = min(self._grace_ends_s, time.monotonic() + grace_s)
        self._settled.set()
        if grace_s <= 0:
            self._cut.set()
            self._fetcher.cut()
        if self._leaving:
            await self._stopped.wait()
            return
        self._leaving = True
        self._slot.state = SlotState.DRAINING
        self._fetcher.closed = True
        self._gate.close()
        self._release(self._take_waiting())
        await self._fetcher.stop(max(0.0, min(grace_s, _FETCH_GRACE_S)))
        self._release(self._take_waiting())
        await self._wait_for_running()
        if self._loop_lane.running() or self._thread_lane.running():
            self._loop_lane.give_back_running()
            self._thread_lane.give_back_running()
            self._grace_ends_s = time.monotonic() + _CANCEL_GRACE_S
            await self._wait_for_running()
        await self._leave()
        self._stopped.set()

    async def _wait_for_running(self) -> None:
        """Wait until nothing runs, or the grace is over."""
        while self._loop_lane.running() or self._thread_lane.running():
            left_s = self._grace_ends_s - time.monotonic()
            if left_s <= 0:
                log.info("the grace is over, jobs still running are given back")
                return
            self._settled.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._settled.wait()

    async def _leave(self) -> None:
        """Send the last outcomes, end what we started, give back what is still leased."""
        flushed = await self._bounded(self._settler.flushed(), "settle everything")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._settler.stop()
        await self._loop_lane.stop()
        await self._bounded(self._stack.aclose(), "leave the lifespan")
        # a server that did not answer so long is not waited for as long again
        await self._give_epoch_back(_LEAVE_S if flushed else _CUT_S)

    async def _give_epoch_back(self, within_s: float) -> None:
        """Give back what is leased, as the last thing: what was given back may run elsewhere.

        While a thread runs on, its job is held: whoever sees the end of this process gives it
        back, and charges nobody for it.
        """
        if self._thread_lane.running():
            self._board.end_everything()
        elif self.epoch and await self._bounded(
            self._reclaim(self.epoch), "give everything back", within_s
        ):
            self._slot.epoch = ""

    async def _reclaim(self, epoch: str) -> None:
        placed: dict[bytes, str] = {}
        state = "more"
        while state == "more":
            step = await self._broker.reclaim(epoch, proven=True, placed=placed)
            state = step.state
            placed = await find_places(self._broker, step.unplaced)

    async def _bounded(
        self, part: Coroutine[Any, Any, object], what: str, within_s: float = _LEAVE_S
    ) -> bool:
        """Await a part of leaving, not for ever and after a cut not long; returns if it is done."""
        task = asyncio.ensure_future(part)
        cut = asyncio.ensure_future(self._cut.wait())
        await asyncio.wait((task, cut), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and cut.done():
            await asyncio.wait((task,), timeout=_CUT_S)
        cut.cancel()
        if not task.done():
            log.warning("could not %s in time", what)
            task.cancel()
        elif not task.cancelled() and task.exception() is not None:
            log.warning("could not %s", what, exc_info=task.exception())
        else:
            return True
        return False

    # --- the way of a job ------------------------------------------------------------------------

    def _appetite(self) -> int:
        """Return how many jobs to ask for."""
        if self._settler.blocked or self._gate.held:
            return 0
        return self._room.wanted()

    def _admit(self, batch: Batch) -> None:
        """Take a batch in: to the lanes, to a gatherer, or behind the gate."""
        self._clock.heard(batch.now_ms)
        lease, attempts = self._intake.admit(batch, self.epoch, self._broker.specials)
        self._settler.open(lease)
        ways = self._room.ways
        suspicious = self._settings.poison_deaths - 1
        for attempt in attempts:
            way = ways[attempt.definition.name]
            if attempt.crashes and attempt.crashes >= suspicious:
                unit = Bunch(attempt.definition, [attempt]) if way.gathers else attempt
                self._gate.suspect(way.side.lane, unit)
            else:
                way.put(attempt)
        if self._gate.held:
            self._on_hold()
        if self._room.mixed:
            self._release(self._room.came(attempts))
        self._loop_lane.nudge()
        self._thread_lane.nudge()
        if attempts:
            created_us = attempts[0].job.created_us
            if created_us is not None:
                self._slot.wait_time.observe((self._clock.now_us() - created_us) / 1e6)

    def _on_hold(self) -> None:
        """Give back, in a moment, what would wait here for a suspect to end or a lease to begin."""
        asyncio.get_running_loop().call_soon(self._release_held)

    def _release_held(self) -> None:
        if self._gate.held:
            self._release(self._room.take_waiting())

    def _take_waiting(self) -> list[Attempt]:
        """Take out everything that has not begun."""
        waiting: list[Attempt] = []
        for unit in self._gate.take_suspects():
            waiting += unit.attempts if isinstance(unit, Bunch) else (unit,)
        return waiting + self._room.take_waiting()

    def _drop_expired(self) -> None:
        """Let go of what may no longer begin: it was in time when it came, and has waited since."""
        left: list[Attempt] = []
        for attempt in self._intake.expiring:
            if attempt.started_s or attempt.finished:
                continue
            side = self._room.ways[attempt.definition.name].side
            if not self._intake.too_late(attempt.job):
                left.append(attempt)
            elif self._gate.take_out(attempt) or side.take_out(attempt):
                self._outcomes.expire(attempt)
        self._intake.expiring = left

    def _release(self, attempts: Sequence[Attempt]) -> None:
        # in their order: the settlement gives them back so that the oldest is taken first
        for attempt in sorted(attempts, key=lambda attempt: attempt.job_id):
            self._outcomes.release(attempt)

    def _on_outcome(self) -> None:
        self._fetcher.stir()

    def _on_settled(self) -> None:
        self._room.saw_pace(time.monotonic())
        self._settled.set()
        if self._gate.held:
            self._gate.settle()
        self._fetcher.stir()

    # --- the epoch -------------------------------------------------------------------------------

    async def _take_epoch(self) -> None:
        """Register a fresh epoch; the slot knows it first, so that our death is never unseen."""
        slot, ttl_s = self._slot, self._settings.lease_ttl_s
        epoch = request_id()
        slot.lease_until_ns = 0
        slot.epoch = epoch
        places = self._service.places(self._intake.known, self._broker.specials)
        places += self._service.sources()  # what waits there is to be seen by audits, too
        info = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "mode": self._settings.worker_mode,
            "routing_keys": list(self._service.routing_keys),
            "priorities": list(self._service.priorities),
            "tasks": sorted(self._intake.known),
            "concurrency": self._settings.worker_concurrency,
            "started_at": self._clock.text(),
        }
        asked_ns = SYSTEM_CLOCK.boot_ns()
        await self._broker.register(epoch, ttl_s, info, places)
        slot.lease_until_ns = asked_ns + int(ttl_s * 1e9)
        self.epoch = self._fetcher.epoch = epoch

    def _on_fenced(self, epoch: str) -> None:
        """Our jobs belong to others: forget what has not begun, and take a new epoch."""
        if epoch != self.epoch or self._leaving:
            return
        self._fenced += 1
        log.warning("epoch %s was fenced: its jobs were given to others", epoch)
        self.epoch = ""
        self._fetcher.closed = True
        self._settler.disown()
        self._take_waiting()
        self._intake.expiring.clear()
        # their outcomes would be refused: others run these jobs, from now on or soon
        self._loop_lane.give_back_running()
        self._thread_lane.give_back_running()
        task = asyncio.get_running_loop().create_task(self._renew_epoch(epoch), name=_RENEWER)
        task.add_done_callback(self._on_end)
        self._tasks.append(task)

    async def _renew_epoch(self, fenced: str) -> None:
        while not self._leaving:
            try:
                # where Redis has lost the epoch itself, nobody else would give its jobs back
                await self._reclaim(fenced)
                await self._take_epoch()
            except BrokerError as error:
                log.warning("cannot take a new epoch: %s", error)
                await asyncio.sleep(_RENEW_S)
            else:
                self._fetcher.closed = self._slot.quiet
                self._fetcher.stir()
                return

    async def _reconcile_for_ever(self) -> None:
        settings = self._settings
        placed: dict[bytes, str] = {}
        while True:
            await asyncio.sleep(settings.beat_interval_s)
            if not self.epoch:
                continue
            try:
                if self._service.only_tasks:
                    await self._broker.specialise(settings.lease_ttl_s, self._service.only_tasks)
                placed = await self._reconcile(placed)
            except BrokerError as error:
                log.warning("cannot compare leases: %s", error)

    async def _reconcile(self, placed: dict[bytes, str]) -> dict[bytes, str]:
        """Compare what we hold with what Redis thinks we hold: finds a lost dequeue reply.

        Takes the places of ids that the step before could not place; returns those of this one.
        """
        epoch = self.epoch
        leased = await self._broker.requests_of(epoch)
        # looked at after the answer: what was leased before it is here or under way
        known = {*self._settler.requests, *self._fetcher.in_flight}
        unknown = [request for request in leased if request not in known]
        step = await self._broker.reconcile(epoch, unknown, placed)
        if step.state == "fenced":
            self._on_fenced(epoch)
        elif step.moved:
            self._reconciled += step.moved
            log.warning("gave back %d jobs of a lost answer", step.moved)
        return await find_places(self._broker, step.unplaced)

    # --- a few times a second --------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        rss_at_s = 0.0
        while True:
            now_s = time.monotonic()
            self._loop_lane.overdue(now_s)
            self._thread_lane.overdue(now_s)
            self._watch_lease(now_s)
            self._publish()
            if now_s >= rss_at_s:
                rss_at_s = now_s + 1.0
                self._slot.rss_bytes = self._process.memory_info().rss
                self._consider_recycling(now_s)
            if self._intake.expiring:
                self._drop_expired()
            self._release(self._room.take_stuck(now_s))
            self._thread_lane.nudge()  # one that looked while units were out lets nobody in
            if self._fetcher.starved:
                self._fetcher.stir()  # should a change have gone unnoticed, it lasts so long
            if self._slot.quiet and not self._fetcher.closed:
                self.quiet()
            await asyncio.sleep(_TICK_S)

    def _watch_lease(self, now_s: float) -> None:
        """Begin nothing on a lease that has ended by our own clock (I5)."""
        until_ns = self._slot.lease_until_ns
        left_s = (until_ns - SYSTEM_CLOCK.boot_ns()) / 1e9 if until_ns else float("inf")
        self._loop_lane.lease_until_s = self._thread_lane.lease_until_s = now_s + left_s
        self._lease_is_over = left_s <= 0
        self._gate.bar(barred=self._lease_is_over)
        self._gate.settle()

    def _publish(self) -> None:
        slot, outcomes = self._slot, self._outcomes
        slot.tick_ns = time.monotonic_ns()
        slot.cannot_settle = self._settler.blocked
        fetched_ns = slot.tick_ns if self._needs_nothing() else self._fetcher.answered_ns
        slot.fetched_ns = max(slot.fetched_ns, fetched_ns)
        links = [transport.counters for transport in self._transports]
        self._totals.publish(
            started=self._loop_lane.started + self._thread_lane.started,
            completed=outcomes.completed,
            retried=outcomes.retried,
            failed=outcomes.failed,
            released=outcomes.released,
            stale=self._settler.stale,
            repeated=self._settler.repeated,
            poisoned=outcomes.poisoned,
            reconciled=self._reconciled,
            fenced=self._fenced,
            connects=sum(link.connects for link in links),
            drops=sum(link.drops for link in links),
            resends=sum(link.resends for link in links),
            script_loads=sum(link.script_loads for link in links),
        )

    def _needs_nothing(self) -> bool:
        """Tell whether it asks for no jobs because it has enough, and for no other reason."""
        hindered = self._settler.blocked or not self.epoch or self._lease_is_over
        return self._fetcher.starved and not hindered

    def _rss_limit(self) -> int:
        """Return at what size to be replaced, 0 = at none.

        A limit below what a fresh process needs must not make a loop of restarts.
        """
        limit, fresh = self._settings.recycle_rss_bytes, self._fresh_bytes
        if fresh == 0:  # the first look
            fresh = self._fresh_bytes = self._slot.rss_bytes
            if 0 < limit <= fresh:
                log.warning(
                    "a fresh process holds %d MiB, more than the limit of %d",
                    fresh >> 20,
                    limit >> 20,
                )
        return max(limit, fresh + fresh // 2) if limit else 0

    def _consider_recycling(self, now_s: float) -> None:
        """Ask to be replaced, between jobs: after N jobs, or too large."""
        settings = self._settings
        started = self._loop_lane.started + self._thread_lane.started
        too_many = 0 < settings.recycle_jobs <= started
        old_enough = started > 0 and now_s - self._born_s > _RECYCLE_AGE_S
        too_large = 0 < self._rss_limit() <= self._slot.rss_bytes and old_enough
        if (too_many or too_large) and not self._slot.recycle:
            log.info(
                "asking to be replaced after %d jobs, %d MiB", started, self._slot.rss_bytes >> 20
            )
            self._slot.recycle = True
