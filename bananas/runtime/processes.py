"""The bodies of the children: worker, warden, both in one, api.

Each opens everything anew after its fork: loop, connections, logging. A body returns its
exit status; what it raises before it is ready is a boot failure.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import setproctitle

from bananas.address import parse_url
from bananas.broker import Broker, Specials
from bananas.clock import SYSTEM_CLOCK
from bananas.context import running_job
from bananas.errors import BrokerError, BrokerUnavailableError
from bananas.eviction import refuse_eviction
from bananas.keys import Keys
from bananas.log import configure
from bananas.runtime import keeper
from bananas.runtime.application import load
from bananas.runtime.signals import Leave, drain_or_cut, start_or_drain
from bananas.supervisor.process import ASK_SIGNAL, EXIT_TARGET_RAISED
from bananas.transport import Transport
from bananas.warden.warden import Warden
from bananas.watch import Watch
from bananas.worker.places import Service
from bananas.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from bananas.address import Address
    from bananas.settings import Settings
    from bananas.supervisor import Child

log = logging.getLogger("bananas.runtime")

_ORPHAN_MARGIN_S: Final = 5.0
_LOOK_S: Final = 0.1


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)


@asynccontextmanager
async def open_broker(settings: Settings, name: str) -> AsyncGenerator[Broker, None]:
    """Open the one connection that a process needs for its scripts."""
    transport = Transport(address_of(settings), client_name=f"bananas:{name}:{os.getpid()}")
    try:
        yield Broker(transport, Keys(settings.key_prefix))
    finally:
        await transport.close()


def address_of(settings: Settings) -> Address:
    """Return the address of the server; by now there is one.

    Raises:
        RuntimeError: A defect of ours: the fleet settles the address before it forks.
    """
    if settings.redis_url is None:
        raise RuntimeError("no server address was settled")
    return parse_url(settings.redis_url, settings.key_prefix)


def _served(settings: Settings) -> list[str]:
    service = Service.of(settings)
    return Service(service.routing_keys, service.priorities).places((), Specials())


async def _notice_deaths(child: Child, warden: Warden) -> None:
    """Look whenever a sibling has ended."""
    loop = asyncio.get_running_loop()

    def noticed() -> None:
        try:
            while os.read(child.notice_fd, 4096):
                pass
        except BlockingIOError:
            pass
        else:  # the supervisor is gone: there is nothing more to be heard, for ever
            loop.remove_reader(child.notice_fd)
        warden.notice_death()

    loop.add_reader(child.notice_fd, noticed)


def worker_body(
    settings: Settings, target: str, *, with_warden: bool = False
) -> Callable[[Child], int]:
    """Return the body of a worker; `with_warden` puts its warden into the same process."""

    def body(child: Child) -> int:
        configure(settings.log_level, settings.log_format, running_job=running_job)
        app = load(target)
        app.configure(settings)

        async def main() -> None:
            leave = Leave()
            leave.listen(child)
            async with open_broker(settings, "worker") as broker:
                wake = Transport(address_of(settings), client_name=f"bananas:wake:{os.getpid()}")
                worker = Worker(
                    broker, wake, app.registry, settings, child.slot, lifespan=app.process
                )
                signal.signal(ASK_SIGNAL, worker.witness.asked)
                signal.siginterrupt(ASK_SIGNAL, False)
                warden = None
                if with_warden:
                    warden = Warden(
                        broker,
                        settings,
                        child.table,
                        child.slot,
                        SYSTEM_CLOCK,
                        watch=Watch(
                            address_of(settings), client_name=f"bananas:watch:{os.getpid()}"
                        ),
                        served=_served(settings),
                        scheduler=settings.scheduler_enabled,
                    )
                    _title_stalls(warden)
                crashes = [asyncio.ensure_future(_crash_with(worker.broken))]

                async def start() -> None:
                    await until_redis_answers(broker)
                    if not settings.allow_eviction:
                        await refuse_eviction(broker)
                    await worker.start()

                if await start_or_drain(leave, start):
                    if warden is not None:
                        warden.start()
                        crashes.append(asyncio.ensure_future(_crash_with(warden.broken)))
                        await _notice_deaths(child, warden)
                    # What stands by now stays: collections that walk it anew cost each no-op job
                    # a tenth of its CPU (10.1 us against 11.0).
                    gc.collect()
                    gc.freeze()
                    child.ready()
                await drain_or_cut(leave, worker.stop, settings.shutdown_grace_s)
                for crash in crashes:
                    crash.cancel()
                if warden is not None:
                    await warden.stop()
                await wake.close()
            # handlers that heed no cancellation, and threads, must not hold up the exit
            _exit(0)

        run_loop(main())
        return 0

    return body


async def until_redis_answers(broker: Broker) -> None:
    """Wait, for as long as it takes: an outage is no fault of this process.

    Were it a boot failure, a worker that dies in a long outage would end the whole fleet.
    """
    while True:
        try:
            await broker.transport.command("PING", repeat=True)
        except BrokerUnavailableError as error:
            log.warning("this worker begins when Redis answers: %s", error)
        except BrokerError:
            return  # an answer all the same: what is wrong shows with the first call
        else:
            return


async def _crash_with(broken: asyncio.Event) -> None:
    """End the process with a part of it: another takes its place, what it held is given back."""
    await broken.wait()
    _exit(EXIT_TARGET_RAISED)


def _exit(status: int) -> NoReturn:
    logging.shutdown()
    os._exit(status)


def _title_stalls(warden: Warden) -> None:
    """Have the process title say when workers stand still: `ps` and container probes see it."""
    title = setproctitle.getproctitle()

    def entitle(stalled: int) -> None:
        setproctitle.setproctitle(f"{title}, {stalled} workers stalled" if stalled else title)

    warden.on_stalled = entitle


def warden_body(settings: Settings, *, scheduler: bool) -> Callable[[Child], int]:
    """Return the body of a warden."""

    def body(child: Child) -> int:
        configure(settings.log_level, settings.log_format, running_job=running_job)

        async def main() -> None:
            leave = Leave()
            leave.listen(child)
            async with open_broker(settings, "warden") as broker:
                warden = Warden(
                    broker,
                    settings,
                    child.table,
                    child.slot,
                    SYSTEM_CLOCK,
                    watch=Watch(address_of(settings), client_name=f"bananas:watch:{os.getpid()}"),
                    served=_served(settings),
                    scheduler=scheduler,
                )
                _title_stalls(warden)
                warden.start()
                crash = asyncio.ensure_future(_crash_with(warden.broken))
                await _notice_deaths(child, warden)
                child.ready()
                await leave.drain.wait()
                await _outlast_siblings(child, settings.shutdown_grace_s)
                crash.cancel()
                await warden.stop()

        run_loop(main())
        return 0

    return body


async def _outlast_siblings(child: Child, grace_s: float) -> None:
    """Without a supervisor, beat for the siblings while they drain, then end what is left."""
    if not child.supervisor_gone():
        return
    log.warning(
        "the supervisor is gone: waiting for %d siblings",
        len(child.living_siblings(but=keeper.ROLE)),
    )
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + grace_s + _ORPHAN_MARGIN_S
    while child.living_siblings(but=keeper.ROLE) and loop.time() < deadline_s:  # noqa: ASYNC110 - no event comes
        await asyncio.sleep(_LOOK_S)
    for pid in child.kill_siblings(but=keeper.ROLE):
        log.warning("ended process %d, which did not leave", pid)


def api_body(settings: Settings) -> Callable[[Child], int]:
    """Return the body of an API process; each listens on a socket of its own (SO_REUSEPORT)."""

    def body(child: Child) -> int:
        configure(settings.log_level, settings.log_format, running_job=running_job)

        async def main() -> None:
            from bananas.http.server import serve  # noqa: PLC0415 - only API processes need the web stack

            leave = Leave()
            leave.listen(child)
            await serve(
                settings,
                on_ready=lambda _: child.ready(),
                stop=leave.drain,
                table=child.table,
            )

        run_loop(main())
        return 0

    return body
