"""Row 40: copies of old commands arrive after the jobs have moved on, from the same process too.

One held copy a run, each in turn, is in the exhaustive cut (`test_cut.py`, HOLD); here all the
old ones come, again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bananas.broker import Batch, Broker, Entry, Retention, Settlement
from bananas.client import Client
from bananas.errors import BrokerUnavailableError, DuplicateJobError
from bananas.keys import Keys
from bananas.table import SlotState
from bananas.transport import Transport
from bare_queue import BareQueue, plain_scripts, record
from faults.cut import Names, Stage
from faults.proxy import Fault, FaultProxy, command_of
from workbench import Bench, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from servers import Kind, Server

NORMAL = "queue:normal"


async def left_by_scenario(server: Server, order: int) -> tuple[dict[str, object], list[str], int]:
    """Play the cut's scenario; with an order, before every script call all older ones come again.

    But for dequeues that found nothing: those are not remembered, see the test of them.
    Returns the state, the runs, and how many copies came.
    """
    past: list[bytes] = []
    copies = 0
    names = Names(plain_scripts())

    async def again(request: bytes) -> None:
        nonlocal copies
        if command_of(request) != b"EVALSHA":
            return
        old = [one for one in past if names(one) != "dequeue" or redis.exists(_first_key(one))]
        copies += len(old)
        await proxy.deliver(old[::order])
        past.append(request)

    with server.client() as redis:
        redis.flushall()
        for source in names.sources:
            redis.script_load(source)
        async with FaultProxy(server.socket) as proxy:
            if order:
                proxy.before = again
            async with Stage(redis, "late", proxy.url) as stage:
                await stage.play()
                left = stage.left()
    assert left.drift == 0
    return dict(left.state), left.runs, copies


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_before_every_command_all_older_ones_come_again(
    make_server: Callable[..., Server],
) -> None:
    """In their order and against it: the same ends, the same runs, the same books."""
    server = make_server()
    state, runs, none = await left_by_scenario(server, 0)
    assert none == 0
    for order in (1, -1):
        again, runs_again, copies = await left_by_scenario(server, order)
        assert copies > 1000
        assert runs_again == runs
        unlike = {name for name in state | again if state.get(name) != again.get(name)}
        assert not unlike, [(state.get(name), again.get(name)) for name in unlike]


def _first_key(request: bytes) -> bytes:
    """Return KEYS[1] of a script call."""
    return request.split(b"\r\n", 9)[8]


async def test_of_a_dequeue_that_found_nothing(make_server: Callable[..., Server]) -> None:
    """It leases to a worker that does not know of it, which gives back at its next beat."""
    runs: list[int] = []
    server = make_server()
    async with FaultProxy(server.socket) as proxy, Bench(server.url, "t") as bench:

        async def t(n: int) -> None:
            runs.append(n)

        bench.app.task(name="t")(t)
        worker = await bench.worker(url=proxy.url)
        await until(lambda: worker.wake_transport.outstanding == 1)
        nothing = [request for request in proxy.seen if b":request:" in request]
        worker.worker.quiet()
        job = await bench.app.client.submit("t", {"n": 1})
        await proxy.deliver(nothing[-1:])
        assert (await bench.job(job.id)).status == "processing"
        await bench.status(job.id, "pending")
        assert (await bench.counters())["reconciled"] == 1
        worker.slot.state = SlotState.READY
        worker.worker._fetcher.closed = False
        worker.worker._fetcher.stir()
        await bench.status(job.id, "completed")
        assert runs == [1]
        await worker.stop()


async def test_of_the_same_process(server: Server, redis: Redis, prefix: str) -> None:
    """It holds the same job again, under another request: its old outcome is not for that one."""
    queue = BareQueue(redis, prefix)
    async with FaultProxy(server.socket) as proxy:
        transport = Transport(proxy.url)
        broker = Broker(transport, Keys(prefix), plain_scripts())
        try:
            await broker.register("e", 60, {}, [NORMAL])
            await broker.enqueue("r", [Entry("j", NORMAL, record("j"))])
            batch = await broker.dequeue("q1", "e", [NORMAL], limit=1, room_bytes=1 << 20)
            assert isinstance(batch, Batch)
            later = Settlement("q1", later=[(b"j", record("j", again=1), 0, "retried")])
            assert await broker.settle("e", later, Retention()) == []
            await broker.promote()
            batch = await broker.dequeue("q2", "e", [NORMAL], limit=1, room_bytes=1 << 20)
            assert isinstance(batch, Batch)
            assert [job.job_id for job in batch.jobs] == [b"j"]
            before = queue.snapshot()
            for order in (1, -1):
                await proxy.deliver(proxy.seen[::order])
                assert queue.snapshot() == before
                assert await broker.requests_of("e") == ["q2"]
            assert await broker.settle("e", Settlement("q2", dropped=[b"j"]), Retention()) == []
            before = queue.snapshot()
            await proxy.deliver(proxy.seen)
            assert queue.snapshot() == before
            assert (await broker.audit()).drift == 0
        finally:
            await transport.close()


@pytest.mark.parametrize("applied", [False, True], ids=["on the way", "applied"])
async def test_given_up_and_repeated_by_the_caller(
    make_server: Callable[..., Server], server_kind: Kind, applied: bool
) -> None:
    """The outcome was told as unknown; asked again under the same id, the job is there once."""
    server = make_server(server_kind)
    runs: list[int] = []
    async with FaultProxy(server.socket) as proxy, Bench(server.url, "t") as bench:

        async def t(n: int) -> None:
            runs.append(n)

        bench.app.task(name="t")(t)
        transport = Transport(proxy.url, retry_window_s=0.5)
        client = Client(settings=bench.settings, broker=Broker(transport, Keys("t")))
        await client.submit("t", {"n": 1}, id="first")
        proxy.plan(Fault.CUT_AFTER if applied else Fault.HOLD, command=b"EVALSHA")
        proxy.refuse(only_new=True)
        with pytest.raises(BrokerUnavailableError):
            await client.submit("t", {"n": 2}, id="second")
        assert proxy.fired == 1
        proxy.speak()
        transport._retry_window_s = 25.0
        if applied:
            with pytest.raises(DuplicateJobError):
                await client.submit("t", {"n": 3}, id="second")
        else:
            await client.submit("t", {"n": 3}, id="second")
        await bench.worker()
        await bench.idle()
        await proxy.release()
        await bench.idle()
        assert runs == ([1, 2] if applied else [1, 3])
        assert (await bench.counters())["accepted"] == 2
        await client.aclose()
        await transport.close()
