"""What a waiting client sees of a job that ends while it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench import Bench


async def test_a_result_is_seen_when_the_server_knows_no_script(bench: Bench) -> None:
    """A job that ends between the look at its record and the read of its result has both."""

    async def quick(n: int) -> int:
        return n

    task = bench.app.task(name="t", result=True)(quick)
    await bench.worker()
    for n in range(30):
        bench.redis.script_flush()
        job = await task.enqueue(n=n)
        assert await job.result(timeout_s=5) == n
