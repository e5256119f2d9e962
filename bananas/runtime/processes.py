"""The bodies of the children: worker, warden, both in one, api.

Each opens everything anew after its fork: loop, connections, logging. A body returns its
exit status; what it raises before it is ready is a boot failure.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from bananas import log as logs
from bananas.broker import Broker, Specials
from bananas.clock import SYSTEM_CLOCK
from bananas.context import running_job
from bananas.keys import Keys
from bananas.runtime.application import load
from bananas.runtime.signals import Leave, drain_or_cut
from bananas.transport import Transport
from bananas.warden.warden import Warden
from bananas.worker.places import Service
from bananas.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from bananas.settings import Settings
    from bananas.supervisor import Child

log = logging.getLogger("bananas.runtime")


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
    transport = Transport(url_of(settings), client_name=f"bananas:{name}:{os.getpid()}")
    try:
        yield Broker(transport, Keys(settings.key_prefix))
    finally:
        await transport.close()


def url_of(settings: Settings) -> str:
    """Return the address of the server; by now there is one.

    Raises:
        RuntimeError: A defect of ours: the fleet settles the address before it forks.
    """
    if settings.redis_url is None:
        raise RuntimeError("no server address was settled")
    return settings.redis_url


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
        warden.notice_death()

    loop.add_reader(child.notice_fd, noticed)


def worker_body(
    settings: Settings, target: str, *, with_warden: bool = False
) -> Callable[[Child], int]:
    """Return the body of a worker; `with_warden` puts its warden into the same process."""

    def body(child: Child) -> int:
        logs.configure(settings.log_level, settings.log_format, running_job=running_job)
        app = load(target)
        app.configure(settings)

        async def main() -> None:
            leave = Leave()
            leave.listen(child)
            async with open_broker(settings, "worker") as broker:
                wake = Transport(url_of(settings), client_name=f"bananas:wake:{os.getpid()}")
                worker = Worker(
                    broker, wake, app.registry, settings, child.slot, lifespan=app.process
                )
                warden = None
                if with_warden:
                    warden = Warden(
                        broker,
                        settings,
                        child.table,
                        SYSTEM_CLOCK,
                        served=_served(settings),
                        scheduler=settings.scheduler_enabled,
                    )
                await worker.start()
                if warden is not None:
                    warden.start()
                    await _notice_deaths(child, warden)
                child.ready()
                await drain_or_cut(leave, worker.stop, settings.shutdown_grace_s)
                if warden is not None:
                    await warden.stop()
                await wake.close()

        run_loop(main())
        logging.shutdown()
        # threads may still be inside handlers: they must not hold up the exit
        os._exit(0)

    return body


def warden_body(settings: Settings, *, scheduler: bool) -> Callable[[Child], int]:
    """Return the body of a warden."""

    def body(child: Child) -> int:
        logs.configure(settings.log_level, settings.log_format, running_job=running_job)

        async def main() -> None:
            leave = Leave()
            leave.listen(child)
            async with open_broker(settings, "warden") as broker:
                warden = Warden(
                    broker,
                    settings,
                    child.table,
                    SYSTEM_CLOCK,
                    served=_served(settings),
                    scheduler=scheduler,
                )
                warden.start()
                await _notice_deaths(child, warden)
                child.ready()
                await leave.drain.wait()
                await warden.stop()

        run_loop(main())
        return 0

    return body


def api_body(settings: Settings) -> Callable[[Child], int]:
    """Return the body of an API process; each listens on a socket of its own (SO_REUSEPORT)."""

    def body(child: Child) -> int:
        logs.configure(settings.log_level, settings.log_format, running_job=running_job)

        async def main() -> None:
            from bananas.http.server import serve  # noqa: PLC0415 - only API processes need the web stack

            leave = Leave()
            leave.listen(child)
            await serve(settings, on_ready=lambda _: child.ready(), stop=leave.drain)

        run_loop(main())
        return 0

    return body
