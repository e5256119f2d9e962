"""Row 17: half-open connections: no FIN, no RST, only silence; each use of one notices in time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from bananas.client import Client
from bananas.context import current_job
from bananas.errors import BrokerUnavailableError
from bananas.table import SlotState
from bananas.transport import Transport
from faults.proxy import FaultProxy
from fleets import wait_for
from workbench import Bench, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from faults.cables import Cable, FarServer
    from fleets import Fleet, Scene
    from servers import Server

HEARTBEAT_TIMEOUT_S = 15.0
"""What `LEASE_TTL` is by default: by then somebody else may have the jobs."""


@pytest.fixture
async def bench(make_server: Callable[..., Server]) -> AsyncIterator[Bench]:
    """Return a bench on a server of its own."""
    async with Bench(make_server().url, "half", poll_interval_s=0.2, lease_ttl_s=60) as bench:
        yield bench


def runs_of(bench: Bench) -> list[str]:
    """Register the task `t`; return where its runs are noted."""
    runs: list[str] = []

    async def t() -> None:
        runs.append(current_job().id)

    bench.app.task(name="t")(t)
    return runs


def socket_of(bench: Bench) -> str:
    """Return the path that a proxy is to stand before."""
    return str(bench.settings.redis_url).removeprefix("unix://")


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
async def test_in_the_blocked_wake_read(bench: Bench, tcp: bool) -> None:
    """The worker looks for itself once its poll interval is over, and the connection is remade."""
    runs = runs_of(bench)
    async with FaultProxy(socket_of(bench), tcp=tcp) as proxy:
        worker = await bench.worker(wake_url=proxy.url)
        first = await bench.app.client.submit("t")
        await bench.status(first.id, "completed")
        await until(lambda: worker.wake_transport.outstanding == 1)
        proxy.silence()
        began_s = time.monotonic()
        for _ in range(5):  # none of these is heard of
            job = await bench.app.client.submit("t")
            await until(lambda job=job: runs[-1] == job.id, within_s=4.0)
        heard_of = worker.wake_transport.counters
        await until(lambda: heard_of.timeouts == 1 and heard_of.connects == 2)
        assert time.monotonic() - began_s < HEARTBEAT_TIMEOUT_S
        assert len(runs) == len(set(runs)) == 6
        await worker.stop()


async def test_while_nothing_is_asked(bench: Bench) -> None:
    """An idle worker compares its leases at every beat: the silence shows then, and is mended."""
    runs = runs_of(bench)
    async with FaultProxy(socket_of(bench), tcp=True) as proxy:
        worker = await bench.worker(url=proxy.url, wake_url=bench.settings.redis_url)
        worker.transport._reply_timeout_s = 0.5
        await bench.idle()
        worker.worker.quiet()  # nothing but the comparison of leases
        connects = worker.transport.counters.connects
        proxy.silence()
        await until(lambda: worker.transport.counters.connects > connects, within_s=10.0)
        worker.slot.state = SlotState.READY
        worker.worker._fetcher.closed = False
        worker.worker._fetcher.stir()
        job = await bench.app.client.submit("t")
        await until(lambda: runs == [job.id])
        await worker.stop()


async def test_while_an_answer_is_owed(bench: Bench) -> None:
    """An outcome under way when the line goes dead is sent again: one end, one run."""
    runs = runs_of(bench)
    gate = asyncio.Event()

    async def waits() -> None:
        runs.append(current_job().id)
        await gate.wait()

    bench.app.task(name="waits")(waits)
    async with FaultProxy(socket_of(bench), tcp=True) as proxy:
        worker = await bench.worker(url=proxy.url)
        worker.transport._reply_timeout_s = 0.5
        jobs = [(await bench.app.client.submit("waits")).id for _ in range(3)]
        await until(lambda: sorted(runs) == sorted(jobs))
        proxy.silence()
        gate.set()
        for job_id in jobs:
            assert (await bench.status(job_id, "completed")).attempts == 1
        assert worker.transport.counters.timeouts >= 1
        assert len(runs) == 3
        assert (await bench.counters())["completed"] == 3
        await worker.stop()


async def test_while_sending(make_server: Callable[..., Server]) -> None:
    """What does not leave, since nobody reads at the other end, counts as silence too."""
    server = make_server()
    async with FaultProxy(server.socket, tcp=True) as proxy:
        transport = Transport(proxy.url, reply_timeout_s=0.5)
        try:
            await transport.command("PING")
            proxy.deafen()
            link = transport._link
            assert link is not None
            data = b"x" * (32 << 20)  # more than both sockets hold
            sent = asyncio.ensure_future(transport.command("SET", "k", data))
            await until(lambda: link.paused)
            with pytest.raises(BrokerUnavailableError, match="no answer"):
                await asyncio.wait_for(sent, HEARTBEAT_TIMEOUT_S)
            assert transport.counters.timeouts == 1
            proxy.reset()
            proxy.speak()
            assert await transport.command("PING", repeat=True) == b"PONG"
        finally:
            await transport.close()


async def test_while_waiting_for_a_result(bench: Bench) -> None:
    """Who waits for a job looks for himself now and then, whatever became of the subscription."""
    runs = runs_of(bench)
    async with FaultProxy(socket_of(bench), tcp=True) as proxy:
        client = Client(proxy.url, settings=bench.settings, broker=bench.broker)
        waiting = asyncio.ensure_future(client.submit_and_wait("t", timeout_s=HEARTBEAT_TIMEOUT_S))
        await until(lambda: proxy.accepted == 1)
        proxy.silence()
        await bench.worker()
        await asyncio.wait_for(waiting, HEARTBEAT_TIMEOUT_S)
        assert len(runs) == 1
        await client.aclose()


@pytest.fixture
def own_server(far_server: FarServer) -> FarServer:
    """Let the fleet, the scene and the submissions be about the server at the far end."""
    return far_server


@pytest.mark.slow
def test_a_server_that_came_back_behind_a_cut(
    cable: Cable,
    own_server: FarServer,
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
) -> None:
    """A real one: the server knows no connection of the fleet's, and cannot say so."""
    near = fleet(own_server.far_url, LEASE_TTL="30s").start(under=cable.at_near_end)
    submit("quick")
    wait_for(scene.drained)
    cable.cut()
    own_server.restart()
    scene.redis.connection_pool.disconnect()
    cable.mend_but_for_ends()
    began_s = time.monotonic()
    for _ in range(8):
        submit("slow", {"seconds": 0.05})
    wait_for(scene.drained)
    assert time.monotonic() - began_s < HEARTBEAT_TIMEOUT_S
    assert near.said("dropped", "no answer") >= 1
    scene.judge().check()
    assert near.stop() == 0
