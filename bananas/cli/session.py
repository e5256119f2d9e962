"""One command, one client: finds the server, runs a coroutine on the fastest loop, closes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bananas.address import parse_url
from bananas.broker import Broker
from bananas.client import Client
from bananas.embedded import running
from bananas.errors import BananasError
from bananas.keys import Keys
from bananas.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from bananas.settings import Settings

T = TypeVar("T")

IMPATIENT_S: Final = 5.0
"""How long a command that a person waits for tries to reach the server."""

PATIENT_S: Final = 25.0
"""How long one that would have to be started again does."""


class NoServerError(BananasError, ConnectionError):
    """No address was given, and no embedded server runs."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, on uvloop where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def located(settings: Settings) -> Settings:
    """Return the settings with the address of a server that runs.

    Raises:
        NoServerError: None was named, and no embedded one runs on the data folder.
    """
    if settings.redis_url is not None:
        return settings
    server = running(settings.data_dir)
    if server is None:
        error = NoServerError(
            "no server: BANANAS_REDIS_URL is not set, and no embedded server runs on "
            f"{settings.data_dir}"
        )
        error.hint = "start one with `bananas up yourmodule:app`, or say --redis-url URL"
        raise error
    return replace(settings, redis_url=server.url)


@asynccontextmanager
async def opened(settings: Settings, *, patience_s: float = IMPATIENT_S) -> AsyncGenerator[Client]:
    """Open a client that gives up sooner than a program's would.

    Raises:
        BrokerUnavailableError: The server does not answer.
    """
    address = parse_url(settings.redis_url or "", settings.key_prefix)
    transport = Transport(
        address, client_name="bananas-cli", retry_window_s=patience_s, denied_window_s=0.0
    )
    client = Client(settings=settings, broker=Broker(transport, Keys(settings.key_prefix)))
    try:
        await client.ping()
        yield client
    finally:
        await client.aclose()
        await transport.close()


def with_client(
    settings: Settings,
    action: Callable[[Client], Awaitable[T]],
    *,
    patience_s: float = IMPATIENT_S,
) -> T:
    """Run an action with a client on the server that settings, or the data folder, name.

    Raises:
        NoServerError: There is none.
        BananasError: What the action raises.
    """

    async def main() -> T:
        async with opened(found, patience_s=patience_s) as client:
            return await action(client)

    found = located(settings)
    return run(main())
