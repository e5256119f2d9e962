"""How long from `enqueue` to the handler's first line, when nothing else is to be done?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bananas.app import Bananas
from bananas.settings import Settings
from benchmarks.inner_worker import working

if TYPE_CHECKING:
    from asyncio import Runner

    from benchmarks.rounds import Rounds
    from servers import Server


def bench_idle(rounds: Rounds, server: Server, runner: Runner) -> None:
    """One job to an idle worker in the same loop; across processes the harness measures."""
    app = Bananas(settings=Settings(redis_url=server.url, retention_completed_s=0))
    began = asyncio.Event()

    @app.task
    async def begin() -> None:
        began.set()

    async def one() -> None:
        began.clear()
        await begin.enqueue()
        await began.wait()

    work = working(app)
    runner.run(work.__aenter__())
    runner.run(one())
    rounds.time(lambda: runner.run(one()), 200, before=lambda: runner.run(asyncio.sleep(0.003)))
    runner.run(work.__aexit__(None, None, None))
    runner.run(app.aclose())
