"""Row 16: the network loses answers, one way: what was asked is done, and nobody hears of it.

One answer at a time, each in turn, is lost by the exhaustive cut (`test_cut.py`); here all of
them are, for a while.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bananas.app import Bananas
from bananas.context import current_job
from bananas.transport import Transport
from faults.proxy import FaultProxy
from fleets import wait_for
from workbench import Bench, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.cables import Cable, FarServer
    from fleets import Fleet, Scene
    from servers import Server


@pytest.fixture
def own_server(far_server: FarServer) -> FarServer:
    """Let fleets, scene and submissions be about the server at the far end."""
    return far_server


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
async def test_for_a_while_no_answer_comes_through(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tcp: bool
) -> None:
    """Producer, worker and warden ask again by the same names: one acceptance, one run, one end."""
    made = Transport.__init__
    monkeypatch.setattr(
        Transport,
        "__init__",
        lambda self, url, **options: made(self, url, **{"reply_timeout_s": 0.2, **options}),
    )
    runs: list[str] = []
    server = make_server()
    async with FaultProxy(server.socket, tcp=tcp) as proxy, Bench(server.url, "t") as bench:
        app = Bananas(proxy.url, settings=bench.settings)

        async def t() -> None:
            runs.append(f"{current_job().id} {current_job().attempt}")
            await asyncio.sleep(0.01)

        app.task(name="t")(t)
        bench.warden(url=proxy.url)
        worker = await bench.worker(app, url=proxy.url, poll_interval_s=0.1)
        ids: list[str] = []

        async def produce() -> None:
            for _ in range(60):
                ids.append((await app.client.submit("t")).id)
                await asyncio.sleep(0.01)

        producing = asyncio.ensure_future(produce())
        for _ in range(3):
            await until(lambda: len(runs) > len(set(runs)) or bool(runs))
            seen = len(proxy.seen)
            proxy.mute()
            await until(lambda seen=seen: len(proxy.seen) > seen + 5)
            proxy.speak()
            proxy.reset()
            ended = len(runs)
            await until(lambda ended=ended: len(runs) > ended or producing.done())
        await producing
        await bench.idle()
        assert sorted(runs) == sorted(f"{job_id} 1" for job_id in ids)
        counters = await bench.counters()
        assert counters["accepted"] == counters["completed"] == len(set(ids)) == 60
        await worker.stop()
        await app.aclose()


@pytest.mark.slow
def test_a_fleet_to_which_no_answer_comes_through(
    cable: Cable,
    own_server: FarServer,
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
) -> None:
    """Packets to it are dropped for longer than a reply timeout: yet each job runs once."""
    near = fleet(own_server.far_url, LEASE_TTL="30s").start(under=cable.at_near_end)
    for _ in range(200):
        submit("slow", {"seconds": 0.05})
    wait_for(lambda: scene.counters().get("completed", 0) > 20)
    cable.cut_answers()
    wait_for(lambda: near.said("dropped", "no answer"), what="the end of a reply timeout")
    cable.mend()
    wait_for(scene.drained)
    scene.judge().check()
    assert near.stop() == 0
