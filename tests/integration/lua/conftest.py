"""A queue of its own for every test of a script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bare_queue import CLOCK_KEY, BareQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from servers import Kind, Server


@pytest.fixture
def queue(redis: Redis, prefix: str) -> Iterator[BareQueue]:
    """Return an empty queue on the shared server, at `START_MS`."""
    yield BareQueue(redis, prefix)
    redis.delete(CLOCK_KEY)


@pytest.fixture
def own_queue(server_kind: Kind, make_server: Callable[..., Server]) -> Iterator[BareQueue]:
    """Return an empty queue on a server that the test may fill to its last byte."""
    with make_server(server_kind).client() as client:
        yield BareQueue(client, "bananas")
