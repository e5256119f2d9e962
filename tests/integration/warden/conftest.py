"""A bench for every test of a warden."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from workbench import Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from servers import Server


@pytest.fixture
async def make_bench(
    first_server: Server,
    prefix: str,
    make_server: Callable[..., Server],  # noqa: ARG001 - its servers must outlive the bench
) -> AsyncIterator[Callable[..., Coroutine[Any, Any, Bench]]]:
    """Return a maker of a bench with settings of its own; it is closed, and audited, after."""
    async with AsyncExitStack() as stack:

        async def make(url: str | None = None, **settings: Any) -> Bench:  # noqa: ANN401
            bench = Bench(url or first_server.url, prefix, **settings)
            return await stack.enter_async_context(bench)

        yield make
    with first_server.client() as client:
        keys = list(client.scan_iter(f"{prefix}:*", count=5000))
        for begin in range(0, len(keys), 5000):
            client.unlink(*keys[begin : begin + 5000])


@pytest.fixture
async def bench(make_bench: Callable[..., Coroutine[Any, Any, Bench]]) -> Bench:
    """Return a bench with the usual settings."""
    return await make_bench()
