"""Row 36: very many jobs fail at the same moment; their retries do not come at the same moment."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import pytest

from bananas.job import Job
from workbench import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

BASE_S = 50.0  # the first retry comes after 100 s, and up to 10 s later


async def spread(server: Server, count: int) -> tuple[Counter[int], Counter[int]]:
    """Let `count` jobs fail; returns how many retries fall in each second: waits and due times."""
    waits: Counter[int] = Counter()
    dues: Counter[int] = Counter()
    async with Bench(server.url, "f", retry_base_s=BASE_S, log_level="error") as bench:

        @bench.app.task(inline=True)
        def fail() -> None:
            raise ValueError("no stock")

        await fail.enqueue_many(({} for _ in range(count)), keep_verdicts=False)
        await bench.worker(worker_concurrency=100)
        counters: dict[str, int] = {}
        while counters.get("retried", 0) < count:
            counters = await bench.counters()
        cursor = 0
        while True:
            cursor, some = cast(
                "Any", bench.redis.zscan(bench.keys.scheduled, cursor=cursor, count=5000)
            )
            keys = [bench.keys.job_prefix.encode() + job_id for job_id, _ in some]
            records = cast("Any", bench.redis.mget(keys)) if keys else []
            for (_, due_s), record in zip(some, records, strict=True):
                failed_us = Job.decode(record).with_(created_at=_updated(record)).created_us
                assert failed_us is not None
                waits[int(due_s - failed_us / 1e6)] += 1
                dues[int(due_s)] += 1
            if not cursor:
                return waits, dues


def _updated(record: bytes) -> str:
    return str(json.loads(record)["updated_at"])


def check(waits: Counter[int], dues: Counter[int], count: int) -> None:
    """No retry early, none later than the jitter allows, and no second has twice its share."""
    assert waits.total() == dues.total() == count
    # a settlement that waits its turn is late by what it waited
    assert min(waits) >= 2 * BASE_S
    in_time = {second: n for second, n in waits.items() if second < 2.2 * BASE_S}
    assert sum(in_time.values()) > 0.5 * count
    share = count / (max(dues) - min(dues) + 1)
    assert max(dues.values()) <= 2 * share, dues
    assert max(in_time.values()) <= 2 * count / 10, waits


@pytest.mark.slow
async def test_retries_of_a_mass_failure_are_spread(make_server: Callable[..., Server]) -> None:
    """Five thousand at once."""
    check(*await spread(make_server(), 5_000), 5_000)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_retries_of_a_million_failures_are_spread(
    make_server: Callable[..., Server],
) -> None:
    """A million."""
    check(*await spread(make_server(), 1_000_000), 1_000_000)
