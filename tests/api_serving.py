"""The API in the test's own loop, on a free port of loopback."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx

from bananas.http.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bananas.settings import Settings


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the API while the block lasts; gives a client of it."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        serve(replace(settings, api_port=0), on_ready=ready.set_result, stop=stop)
    )
    try:
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        port = ready.result()[0].getsockname()[1]
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False
        ) as http:
            yield http
    finally:
        stop.set()
        await running
