"""Which processes a command means, composed and run under one supervisor.

Nothing here opens a connection or starts a loop: this process only forks. Where no server
was named, one is prepared and becomes a child of its own, the last to leave.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bananas.embedded import PreparedServer, prepare, start
from bananas.log import occupy_standard_streams
from bananas.runtime import keeper
from bananas.supervisor import ProcessSpec, Supervisor, log_event, slots_needed
from bananas.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.settings import Settings
    from bananas.supervisor import Child, Event

# Lower ranks leave first: those who bring work, those who do it, who watches, the server.
_API_RANK: Final = 0
_WORKER_RANK: Final = 1
_WARDEN_RANK: Final = 2
_SERVER_RANK: Final = 3


@dataclass(frozen=True, slots=True)
class Fleet:
    """What to run.

    Attributes:
        target: The application, `module:attribute`; needed for workers.
        workers: Worker processes; 0 = none.
        warden: Whether a warden runs beside them; every host with workers needs one.
        scheduler: Whether it also promotes, sweeps and prunes for the whole fleet.
        apis: API processes.
    """

    target: str | None = None
    workers: int = 0
    warden: bool = True
    scheduler: bool = True
    apis: int = 0

    @classmethod
    def of(cls, settings: Settings, target: str | None, *, apis: int = 0) -> Fleet:
        """Return the fleet that the worker mode asks for."""
        return cls(
            target=target,
            workers=settings.proc_count,
            scheduler=settings.scheduler_enabled,
            apis=apis,
        )


@dataclass(frozen=True, slots=True)
class Server:
    """The server a fleet uses: its address, and the child that runs it if it is ours."""

    url: str
    prepared: PreparedServer | None = None


def settle_server(settings: Settings) -> Server:
    """Return the server that settings name, else the embedded one, running or prepared.

    Raises:
        EmbeddedServerError: There is none to be had.
    """
    if settings.redis_url is not None:
        return Server(settings.redis_url)
    synced = settings.durability == "fsync"
    prepared = prepare(settings.data_dir, synced=synced)
    if prepared is None:
        return Server(start(settings.data_dir, synced=synced).url)
    return Server(prepared.url, prepared)


def specs_of(fleet: Fleet, settings: Settings, server: Server) -> list[ProcessSpec]:
    """Return the kinds of children, the server first."""
    # imported by name only: the bodies import user code and open connections in the child
    from bananas.runtime import processes  # noqa: PLC0415

    prepared = server.prepared

    def child_of_fleet(body: Callable[[Child], int]) -> Callable[[Child], int]:
        def target(child: Child) -> int:
            if prepared is not None:
                prepared.release()
                prepared.wait_listening()
            return body(child)

        return target

    specs: list[ProcessSpec] = []
    if prepared is not None:
        specs.append(
            ProcessSpec(
                keeper.ROLE,
                1,
                lambda child: keeper.keep(prepared, child, grace_s=settings.shutdown_grace_s),
                stop_rank=_SERVER_RANK,
                execs=True,
            )
        )
    thin = settings.worker_mode == "thin"
    if fleet.warden and not (thin and fleet.workers):
        body = processes.warden_body(settings, scheduler=fleet.scheduler)
        detail = "scheduler" if fleet.scheduler else ""
        specs.append(
            ProcessSpec("warden", 1, child_of_fleet(body), stop_rank=_WARDEN_RANK, detail=detail)
        )
    if fleet.workers and fleet.target is not None:
        body = processes.worker_body(settings, fleet.target, with_warden=thin)
        specs.append(
            ProcessSpec(
                "worker",
                fleet.workers,
                child_of_fleet(body),
                stop_rank=_WORKER_RANK,
                detail=settings.worker_mode,
            )
        )
    if fleet.apis:
        body = processes.api_body(settings)
        specs.append(
            ProcessSpec(
                "api",
                fleet.apis,
                child_of_fleet(body),
                stop_rank=_API_RANK,
                detail=f"{settings.api_host}:{settings.api_port}",
            )
        )
    return specs


def run_fleet(
    fleet: Fleet,
    settings: Settings,
    *,
    server: Server | None = None,
    on_event: Callable[[Event], None] = log_event,
) -> int:
    """Run a fleet until it is told to stop; returns the exit status.

    Args:
        fleet: What to run.
        settings: For all of it.
        server: What `settle_server` gave, for callers that need to know it before.
        on_event: Told of everything that the supervisor does and sees.

    Raises:
        EmbeddedServerError: No server was named and none can be started.
    """
    occupy_standard_streams()
    if server is None:
        server = settle_server(settings)
    settings = dataclasses.replace(settings, redis_url=server.url)
    specs = specs_of(fleet, settings, server)
    table = Table.create(slots_needed(specs), settings.begun_entries if fleet.workers else 1)
    supervisor = Supervisor(specs, table, grace_s=settings.shutdown_grace_s, on_event=on_event)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        return supervisor.run()
    finally:
        if server.prepared is not None:
            server.prepared.release()
