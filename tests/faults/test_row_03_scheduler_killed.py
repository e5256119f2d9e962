"""Row 3: the scheduler is killed before, within and after a move of due jobs, chunk after chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from bananas.keys import place
from bananas.settings import Settings
from bananas.sync_client import SyncClient
from fleets import wait_for
from whereabouts import look

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Scene
    from servers import Server

DUE = 10_000  # 40 steps


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    "point",
    [
        "after_promote_sent:9",
        pytest.param("before_promote:9", marks=pytest.mark.long),
        pytest.param("after_promote_reply:9", marks=pytest.mark.long),
    ],
)
def test_due_jobs_move_once_and_in_order_whoever_dies_over_it(
    fleet: Callable[..., Fleet], scene: Scene, own_server: Server, point: str
) -> None:
    """Every scheduler dies at its ninth step; all jobs arrive, none twice, by their due time."""
    settings = Settings(redis_url=own_server.url, key_prefix=scene.keys.prefix)
    with SyncClient(settings=settings) as client:
        items = [
            {"name": "quick", "payload": {}, "delay_s": 0.001 * (n % 500 + 1)} for n in range(DUE)
        ]
        report = client.submit_many(items, keep_verdicts=False)
    assert report.accepted == DUE
    in_order = cast("Any", scene.redis.zrange(scene.keys.scheduled, 0, -1))
    assert len(in_order) == DUE

    one = fleet(FAIL=point, WORKER_MODE="scheduler-only", PROCS="1").start(ready=0)
    wait_for(lambda: not scene.redis.zcard(scene.keys.scheduled), within_s=90)
    deaths = one.said("child-ended", "warden")
    assert deaths >= 3, deaths
    one.end()

    waiting = cast("Any", scene.redis.lrange(scene.keys.waiting(place("normal")), 0, -1))
    assert waiting[::-1] == in_order
    assert scene.counters()["promoted"] == DUE
    assert look(scene.redis, scene.keys).problems() == []
