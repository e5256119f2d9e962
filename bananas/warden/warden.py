"""The warden: beat, reclaimer, promoter and pruner, each in its own rhythm, all replaceable.

Its death costs nothing but its restart: everything it does is one script that several
wardens may call at once, and what it must know stands in the table.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from bananas.errors import BrokerError
from bananas.stalls import find_stalls, patience_s
from bananas.table import Totals
from bananas.warden.beat import Beat
from bananas.warden.culprits import Culprits
from bananas.warden.policy import Policy
from bananas.warden.promoter import Promoter
from bananas.warden.pruner import Pruner
from bananas.warden.reclaimer import Reclaimer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from bananas.broker import Broker
    from bananas.clock import Clock
    from bananas.settings import Settings
    from bananas.table import Slot, Table
    from bananas.watch import Watch

log = logging.getLogger("bananas.warden")

_PRUNE_S: Final = 10.0
_LOOK_S: Final = 1.0
_POLICY_S: Final = 60.0
_RETRY_S: Final = 0.5


class Warden:
    """The services of one host."""

    def __init__(  # noqa: PLR0913 - what it is made of, each given from outside
        self,
        broker: Broker,
        settings: Settings,
        table: Table,
        slot: Slot,
        clock: Clock,
        *,
        watch: Watch,
        served: Sequence[str],
        scheduler: bool,
    ) -> None:
        """Serve a table, and count in `slot` of it; `watch` is closed by `stop`.

        With `scheduler`, also promote, sweep and prune for the whole fleet.
        """
        ttl_s = settings.lease_ttl_s
        self._table = table
        self._totals = Totals(slot)
        self._link = None if slot.role == "worker" else broker.transport.counters
        self._patience_s = patience_s(settings)
        self._stalled: set[int] = set()
        self.on_stalled: Callable[[int], None] = _ignore
        """Told how many workers have stopped asking for jobs, when that changes."""
        self._beat_s = settings.beat_interval_s
        self._sweep_s = min(settings.scheduler_interval_s, ttl_s / 4)
        self._scheduler = scheduler
        self._bells = watch
        self.beat = Beat(broker, table, clock, ttl_s=ttl_s)
        culprits = Culprits(broker, settings, clock)
        self.reclaimer = Reclaimer(broker, table, clock, culprits, ttl_s=ttl_s)
        interval_s = settings.promote_interval_s
        self.promoter = Promoter(broker, served, interval_s=interval_s, clock=clock)
        self.pruner = Pruner(broker, retention_failed_s=settings.retention_failed_s)
        self.policy = Policy(broker)
        self._death = asyncio.Event()
        self.broken = asyncio.Event()
        """Set when a rhythm has ended by itself: the process must be replaced."""
        self._tasks: list[asyncio.Task[None]] = []

    def notice_death(self) -> None:
        """A child has ended: look at once."""
        self._death.set()

    def start(self) -> None:
        """Start the rhythms."""
        loop = asyncio.get_running_loop()
        rhythms: list[tuple[str, Coroutine[None, None, None]]] = [
            ("beat", self._every(self._beat_s, self.beat.beat, "beat")),
            ("reclaimer of the dead", self._reclaim_dead()),
            ("watch over the workers", self._watch()),
        ]
        if self._scheduler:
            rhythms += [
                ("promoter", self._promote()),
                (
                    "reclaimer of the lapsed",
                    self._every(self._sweep_s, self.reclaimer.reclaim_lapsed, "sweep"),
                ),
                ("pruner", self._every(_PRUNE_S, self._prune, "prune")),
                ("watch of the policy", self._every(_POLICY_S, self.policy.look, "ask the policy")),
            ]
        self._tasks = [loop.create_task(rhythm, name=name) for name, rhythm in rhythms]
        for task in self._tasks:
            task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Report a rhythm that has ended: nobody would miss it until it is too late."""
        if not task.cancelled():
            log.critical("the %s has ended", task.get_name(), exc_info=task.exception())
            self.broken.set()

    async def stop(self) -> None:
        """End the rhythms; returns what the dead held first, if Redis answers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._bells.close()
        try:
            async with asyncio.timeout(2 * _RETRY_S):
                await self.reclaimer.reclaim_dead()
        except (BrokerError, TimeoutError) as error:
            log.warning("left with leases of the dead, they will lapse: %s", error)

    async def _reclaim_dead(self) -> None:
        while True:
            self._death.clear()
            try:
                await self.reclaimer.reclaim_dead()
            except BrokerError as error:
                log.warning("cannot reclaim: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            except Exception:  # a defect of ours: the dead of the next round must not pay for it
                log.exception("cannot reclaim")
            # a lost notice costs one beat; wait_for() may lose a cancellation to a notice
            with suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await self._death.wait()

    async def _watch(self) -> None:
        """Report workers that stopped asking for jobs, and keep the counts of the table."""
        while True:
            self._look()
            await asyncio.sleep(_LOOK_S)

    def _look(self) -> None:
        stalls = find_stalls(self._table, self._patience_s, time.monotonic_ns())
        for stall in stalls:
            if stall.pid not in self._stalled:
                log.error("%s", stall)
        now = {stall.pid for stall in stalls}
        for pid in self._stalled - now:
            log.info("worker process %d asks for jobs again, or is gone", pid)
        if now != self._stalled:
            self._stalled = now
            self.on_stalled(len(now))
        reclaimer = self.reclaimer
        self._totals.publish(reclaimed=reclaimer.reclaimed, reclaimed_epochs=reclaimer.epochs)
        if (link := self._link) is not None:  # a worker publishes the counts of a shared one
            self._totals.publish(
                connects=link.connects,
                drops=link.drops,
                resends=link.resends,
                script_loads=link.script_loads,
            )

    async def _promote(self) -> None:
        with self._bells.open(self.promoter.bell) as bell:
            while True:
                try:
                    wait_s = await self.promoter.promote()
                except BrokerError as error:
                    log.warning("cannot promote: %s", error)
                    await asyncio.sleep(_RETRY_S)
                except Exception:  # a defect of ours: what is due next must not pay for it
                    log.exception("cannot promote")
                    await asyncio.sleep(_RETRY_S)
                else:
                    await bell.wait(wait_s)

    async def _prune(self) -> None:
        await self.pruner.prune()
        await self.pruner.give_up_lists()
        await self.pruner.forget_places()
        await self.promoter.learn_places()

    async def _every(
        self, interval_s: float, step: Callable[[], Awaitable[object]], name: str
    ) -> None:
        """Take a step, then wait; an outage or a defect is logged and outlived."""
        while True:
            try:
                await step()
            except BrokerError as error:
                log.warning("cannot %s: %s", name, error)
            except Exception:  # a defect of ours: the next step may well succeed
                log.exception("cannot %s", name)
            await asyncio.sleep(interval_s)


def _ignore(_count: int) -> None:
    """Do nothing."""
