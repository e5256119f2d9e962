"""What the cases share: one server, one loop, and how many rounds they make."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from benchmarks.rounds import Rounds
from servers import KINDS, Server, available

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture
    from redis import Redis


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run choose its server, and how long it takes."""
    parser.addoption("--bench-server", default=None, choices=KINDS, help="default: the first")
    parser.addoption("--bench-quick", action="store_true", help="one round of the long cases")


@pytest.fixture(scope="session")
def _server(pytestconfig: pytest.Config) -> Iterator[Server]:
    here = available()
    if not here:
        pytest.skip("no server on this machine")
    server = Server(pytestconfig.getoption("--bench-server") or here[0]).start()
    yield server
    server.discard()


@pytest.fixture
def redis(_server: Server) -> Iterator[Redis]:
    """Return a plain client of the server."""
    client = _server.client()
    yield client
    client.close()


@pytest.fixture
def server(_server: Server, redis: Redis) -> Server:
    """Return the server, empty."""
    redis.flushall()
    return _server


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Return what runs coroutines, always in the same loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def rounds(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Rounds:
    """Return what makes the rounds of a long case."""
    return Rounds(benchmark, quick=bool(pytestconfig.getoption("--bench-quick")))
