"""One process's server: uvicorn inside our own loop, on sockets of our own, ended in order.

Each API process opens its own socket with SO_REUSEPORT, so the kernel spreads the
connections. Stopping: no new connections, long polls answer with what there is, batches
end where they are, requests under way are finished, within the shutdown grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import resource
import socket
from typing import TYPE_CHECKING, Final

from uvicorn import Config

from bananas.client import Client
from bananas.errors import SettingsError
from bananas.http.api import Api
from bananas.http.gate import is_loopback
from bananas.http.protocol import GuardedProtocol, GuardedServer
from bananas.tokens import read_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bananas.settings import Settings
    from bananas.table import Table

log = logging.getLogger("bananas.http")

BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 15
MAX_CONNECTIONS: Final = 4096
_SPARE_FILES: Final = 64


def check_exposure(settings: Settings) -> None:
    """Refuse to open the API to the network without a token, or with a file that is none.

    Raises:
        SettingsError: Names the variables.
    """
    if settings.api_tokens_file is not None:
        read_tokens(settings.api_tokens_file)
    elif settings.api_token is None and not is_loopback(settings.api_host):
        reason = (
            f'"{settings.api_host}" is open to the network: it needs BANANAS_API_TOKEN '
            "or BANANAS_API_TOKENS_FILE"
        )
        raise SettingsError([("BANANAS_API_HOST", reason)])


def open_socket(settings: Settings) -> socket.socket:
    """Return a listening-to-be socket on the settings' host and port.

    Several processes may open the same one: connections are spread over them.

    Raises:
        SettingsError: The token is missing, or the host has no address.
        OSError: The port is taken, or may not be used.
    """
    check_exposure(settings)
    try:
        found = socket.getaddrinfo(
            settings.api_host,
            settings.api_port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except socket.gaierror as error:
        raise SettingsError([("BANANAS_API_HOST", f"has no address: {error.strerror}")]) from None
    family, kind, protocol, _, address = found[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # On macOS it does not spread connections: run one process there.
        if hasattr(socket, "SO_REUSEPORT"):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind(address)
    except OSError:
        opened.close()
        raise
    opened.setblocking(False)
    return opened


async def serve(  # noqa: PLR0913 - each has a default that most callers take
    settings: Settings,
    *,
    sockets: Sequence[socket.socket] | None = None,
    on_ready: Callable[[list[socket.socket]], object] | None = None,
    stop: asyncio.Event,
    client: Client | None = None,
    table: Table | None = None,
) -> None:
    """Serve the API until `stop` is set and what was under way has ended.

    Args:
        settings: Where to listen, the limits, the token, the grace.
        sockets: Bound ones to listen on, which it closes; default: `open_socket`.
        on_ready: Called once connections are taken, with the sockets.
        stop: Ends it; signals are the caller's.
        client: Instead of one of its own; the caller closes it.
        table: Of the fleet that runs beside it on this host.

    Raises:
        SettingsError: Open to the network without a token, or the host has no address.
        OSError: The port is taken.
    """
    check_exposure(settings)
    listening = [open_socket(settings)] if sockets is None else list(sockets)
    used = client or Client(settings=settings)
    try:
        await _run(Api(used, settings, table), settings, listening, on_ready, stop)
    finally:
        for each in listening:
            each.close()
        if client is None:
            await used.aclose()


async def _run(
    api: Api,
    settings: Settings,
    listening: list[socket.socket],
    on_ready: Callable[[list[socket.socket]], object] | None,
    stop: asyncio.Event,
) -> None:
    _adopt_logs()
    config = Config(
        api,
        http=_protocol(),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, math.ceil(settings.shutdown_grace_s)),
    )
    server = GuardedServer(config, lambda: on_ready(listening) if on_ready is not None else None)
    serving = asyncio.create_task(server.serve(listening), name="bananas.http")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        api.stop()
        server.leave()
        await asyncio.wait({serving})  # unlike `await serving`, not cancelled together with us
        serving.result()
    finally:
        stopping.cancel()
        if not serving.done():  # we are cancelled ourselves: at once
            server.leave(at_once=True)
            with contextlib.suppress(asyncio.CancelledError):
                await serving


def _protocol() -> type[GuardedProtocol]:
    """Return the protocol with as many connections as this process has files for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, soft - _SPARE_FILES)

    class Protocol(GuardedProtocol):
        max_connections = min(MAX_CONNECTIONS, room)

    return Protocol


def _adopt_logs() -> None:
    """Let uvicorn's warnings come out where ours do; its news are of no interest."""
    theirs = logging.getLogger("uvicorn")
    theirs.setLevel(logging.WARNING)
    theirs.parent = log
