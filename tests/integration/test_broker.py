"""The broker over the real transport: values in, values out, and every call safe to repeat."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from bananas.broker import (
    Batch,
    Broker,
    Entry,
    Fenced,
    GiveBack,
    Leased,
    Retention,
    Settlement,
    Specials,
)
from bananas.errors import BrokerFullError, ScriptError
from bananas.keys import Keys, place
from bananas.transport import Transport
from bare_queue import BareQueue, ids_of, record
from faults.proxy import Fault, FaultProxy, command_of
from queue_model import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from redis import Redis

    from servers import Kind, Server

HIGH, NORMAL = "queue:high", "queue:normal"
RESIZE = place("normal", task="resize")
ROOM = 1 << 20


@contextlib.asynccontextmanager
async def opened(url: str, prefix: str, **options: Any) -> AsyncIterator[Broker]:  # noqa: ANN401
    """Give a broker on a transport of its own, and close it."""
    transport = Transport(url, **options)
    try:
        yield Broker(transport, Keys(prefix))
    finally:
        await transport.close()


@pytest.fixture
async def broker(server: Server, prefix: str) -> AsyncIterator[Broker]:
    """Return a broker on the shared server."""
    async with opened(server.url, prefix) as broker:
        yield broker


def entry(job_id: str, where: str = NORMAL, due: str | None = None) -> Entry:
    """Return a job of our own to enqueue."""
    return Entry(job_id, where, record(job_id, where), due)


# --- values ----------------------------------------------------------------------------------


async def test_verdicts_come_in_the_order_of_the_call(broker: Broker) -> None:
    """Whatever the order on the wire, each job's verdict stands where the job stood."""
    assert await broker.enqueue("r1", [entry("b"), entry("c", due="+60000")]) == [True, True]
    mixed = [entry("c", due="+1"), entry("a", HIGH), entry("b"), entry("d"), entry("e", HIGH)]
    assert await broker.enqueue("r2", mixed) == [False, True, False, True, True]
    assert await broker.enqueue("r2", mixed) == [False, True, False, True, True]


async def test_batch_names_each_job_its_place_and_its_crashes(broker: Broker, redis: Redis) -> None:
    """Jobs come in the order to start them; a repeated answer knows no places."""
    await broker.register("e", 15, {"pid": 1}, [HIGH, NORMAL])
    await broker.enqueue("r", [entry("n"), entry("h1", HIGH), entry("h2", HIGH)])
    redis.hset(broker.keys.crashes, "h2", 2)
    batch = await broker.dequeue("q", "e", [HIGH, NORMAL], limit=10, room_bytes=ROOM)
    assert isinstance(batch, Batch)
    assert batch.jobs == [
        Leased(b"h1", record("h1", HIGH), HIGH, 0),
        Leased(b"h2", record("h2", HIGH), HIGH, 2),
        Leased(b"n", record("n"), NORMAL, 0),
    ]
    seconds, microseconds = redis.time()
    assert 0 <= seconds * 1000 + microseconds // 1000 - batch.now_ms < 10_000
    again = await broker.dequeue("q", "e", [HIGH, NORMAL], limit=10, room_bytes=ROOM)
    assert isinstance(again, Batch)
    assert again.jobs == [job._replace(place=None) for job in batch.jobs]


async def test_stale_ids_are_named(broker: Broker) -> None:
    """A settle answers with the ids its token does not hold, wherever they stand in the call."""
    await broker.register("e", 15, {}, [NORMAL])
    await broker.enqueue("r", [entry("a"), entry("b"), entry("c")])
    await broker.dequeue("q", "e", [NORMAL], limit=2, room_bytes=ROOM)
    settlement = Settlement(
        "q",
        dropped=[b"x", b"a"],
        released=[(b"c", NORMAL), (b"b", NORMAL), (b"y", NORMAL)],
    )
    stale = await broker.settle("e", settlement, Retention())
    assert sorted(stale) == [b"c", b"x", b"y"]
    assert (await broker.audit()).drift == 0


async def test_old_view_of_the_specials_is_renewed_by_a_refusal(
    broker: Broker, server: Server, prefix: str
) -> None:
    """None says: place the jobs, or choose the places, anew; the broker knows the tasks by then."""
    await broker.register("e", 15, {}, [NORMAL])
    async with opened(server.url, prefix) as other:
        specials = await other.specialise(60, ["resize"])
        assert specials == Specials("1", frozenset({"resize"}))
        assert await broker.enqueue("r", [entry("a")]) is None
        assert broker.specials == specials
        assert await broker.enqueue("r", [entry("a", RESIZE)]) == [True]
        await other.specialise(60, ["other"])
    assert await broker.dequeue("q", "e", [RESIZE], limit=1, room_bytes=ROOM) is None
    assert broker.specials.version == "2"
    batch = await broker.dequeue("q", "e", [RESIZE], limit=1, room_bytes=ROOM)
    assert isinstance(batch, Batch)
    assert ids_of(batch) == ["a"]


async def test_fenced_epoch_is_told_everywhere(broker: Broker) -> None:
    """After a reclaim the epoch neither leases, nor beats, nor reconciles."""
    await broker.register("e", 15, {}, [NORMAL])
    assert await broker.reclaim("e", proven=True) == GiveBack("done", 0, [])
    fenced = await broker.dequeue("q", "e", [NORMAL], limit=1, room_bytes=ROOM)
    assert fenced == Fenced("e")
    assert await broker.beat(15, ["e"]) == [False]
    assert await broker.reconcile("e", []) == GiveBack("fenced", 0, [])
    assert await broker.reclaim("e", proven=True) == GiveBack("gone", 0, [])


async def test_time_is_the_servers(broker: Broker, redis: Redis) -> None:
    """The shipped clock is TIME: what is due in 50 ms is due then, and the wait says so."""
    await broker.enqueue("r", [entry("a", due="+50")])
    step = await broker.promote()
    assert step.moved == 0
    assert step.wait_ms is not None
    assert 0 < step.wait_ms <= 50
    while (step := await broker.promote()).moved == 0:
        assert step.wait_ms is not None
        await asyncio.sleep(step.wait_ms / 1000)
    assert step.wait_ms is None
    assert redis.lrange(broker.keys.waiting(NORMAL), 0, -1) == [b"a"]


async def test_answer_of_no_known_kind_is_our_defect() -> None:
    """A script that breaks its header is told as such, not passed on as an empty batch."""

    class Odd:
        async def call(self, *_: object) -> list[bytes]:
            return [b"odd"]

    broker = Broker(Odd())  # type: ignore[arg-type]
    with pytest.raises(ScriptError, match="odd"):
        await broker.dequeue("q", "e", [NORMAL], limit=1, room_bytes=ROOM)


async def test_wrong_type_is_told_as_a_script_error(broker: Broker, redis: Redis) -> None:
    """The server's words are in it."""
    redis.set(broker.keys.scheduled, "wrong")
    with pytest.raises(ScriptError, match="WRONGTYPE"):
        await broker.enqueue("r", [entry("a")])


async def test_full_server_refuses_new_jobs_and_drains(
    server_kind: Kind, make_server: Callable[..., Server]
) -> None:
    """`BrokerFullError` at enqueue, with no effect; everything waiting is worked off meanwhile."""
    server = make_server(server_kind)
    async with opened(server.url, "bananas") as broker:
        await broker.register("e", 15, {}, [NORMAL])
        await broker.enqueue("r1", [entry("a"), entry("b")])
        with BareQueue(server.client(), "bananas").full():
            with pytest.raises(BrokerFullError):
                await broker.enqueue("r2", [entry("c")])
            await broker.dequeue("q", "e", [NORMAL], limit=2, room_bytes=ROOM)
            done = Settlement("q", dropped=[b"a", b"b"])
            assert await broker.settle("e", done, Retention()) == []
        assert await broker.enqueue("r2", [entry("c")]) == [True]
        assert (await broker.audit()).counters["completed"] == 2


# --- a scenario, and everything that can happen to one of its calls ---------------------------

FAULTS = [
    Fault.DROP_REQUEST,
    Fault.DROP_REPLY,
    Fault.CUT_BEFORE,
    Fault.CUT_AFTER,
    Fault.RESET_MID_REPLY,
    Fault.DUPLICATE,
]
RETENTION = Retention(completed_s=90, failed_s=900)


async def live(broker: Broker) -> None:
    """Let jobs live every kind of life, in calls of which each is one script."""
    await broker.register("one", 60, {}, [NORMAL])
    await broker.register("two", 60, {}, [NORMAL])
    await broker.enqueue("r1", [entry(job_id) for job_id in "abcd"])
    await broker.enqueue("r2", [entry("a"), entry("s", due="+0"), entry("t", due="+3600000")])
    await broker.dequeue("q1", "one", [NORMAL], limit=2, room_bytes=ROOM)
    ended = Settlement("q1", dropped=[b"a"], later=[(b"b", record("b", again=1), 0, "retried")])
    await broker.settle("one", ended, RETENTION)
    await broker.beat(60, ["one", "two"])
    await broker.dequeue("q2", "two", [NORMAL], limit=1, room_bytes=ROOM)
    await broker.reclaim("two", proven=True, charged=[b"c"])
    await broker.cancel("t", record("t"), record("t", gone=1), ttl_s=60, foreign=False)
    await broker.cancel("d", record("d"), record("d", gone=1), ttl_s=60, foreign=False)
    await broker.promote()
    await broker.dequeue("q3", "one", [NORMAL], limit=5, room_bytes=ROOM)
    await broker.reconcile("one", ["q0"])
    ended = Settlement(
        "q3",
        failed=[(b"c", record("c", failed=1))],
        forgotten=[b"d"],
        released=[(b"b", NORMAL)],
        kept={90: [(b"s", record("s", done=1))]},
        results=[(b"s", 90, b"completed", ["status", "completed"])],
    )
    await broker.settle("one", ended, RETENTION)
    await broker.revive(NORMAL, [("c", record("c", revived=1))])
    await broker.dequeue("q4", "one", [NORMAL], limit=5, room_bytes=ROOM)
    await broker.settle("one", Settlement("q4", failed=[(b"c", b"{}"), (b"b", b"{}")]), RETENTION)
    await broker.purge(["c"])


CALLS = 19


def outcome(queue: BareQueue) -> dict[str, Any]:
    """Return all that the scenario left, without the times."""
    snapshot = queue.snapshot()
    results = {
        name: snapshot.pop(name)[:2] for name in list(snapshot) if name.startswith("result:")
    }
    found = State.read(snapshot).canonical()
    for name in ("epochs", "scheduled", "dead"):
        found[name] = set(found[name])
    return found | {"results": results}


@pytest.fixture
def expected() -> dict[str, Any]:
    """Return what an undisturbed run must leave."""
    return {
        "records": {
            "t": (record("t", gone=1), True),
            "d": (record("d", gone=1), True),
            "s": (record("s", done=1), True),
            "b": (b"{}", True),
        },
        "common": {},
        "looked_through": {},
        "marked": {NORMAL},
        "scheduled": set(),
        "dead": {"b"},
        "leases": {},
        "owners": {},
        "epochs": {"one"},
        "workers": {"one"},
        "cancelled": set(),
        "crashes": {},
        "counters": {
            "accepted": 6,
            "leased": 9,
            "completed": 2,
            "retried": 1,
            "reclaimed": 1,
            "cancelled": 2,
            "promoted": 2,
            "failed": 3,
            "released": 1,
            "revived": 1,
            "purged": 1,
        },
        "places": {NORMAL},
        "specials": {},
        "version": 0,
        "requests": {"r1": "", "r2": "daa", "q1": "1", "q2": "1", "q3": "1", "q4": "1"},
        "results": {"result:s": ("hash", {"status": b"completed"})},
    }


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name.lower() for fault in FAULTS])
async def test_one_fault_anywhere_changes_nothing(
    server: Server, redis: Redis, prefix: str, expected: dict[str, Any], fault: Fault
) -> None:
    """Whichever call is lost, cut, answered to nobody or sent twice, the end is the same."""
    queue = BareQueue(redis, prefix)
    async with FaultProxy(server.socket) as proxy:
        for nth in range(1, CALLS + 1):
            queue.clear()
            async with opened(proxy.url, prefix, reply_timeout_s=0.05) as broker:
                await broker.audit()
                plan = proxy.plan(fault, nth=nth, command=b"EVALSHA")
                await live(broker)
                assert plan.fired.is_set(), f"the scenario has fewer than {nth} calls"
                assert outcome(queue) == expected, f"{fault} at call {nth}"
                assert (await broker.audit()).drift == 0


async def test_late_copies_of_every_call_change_nothing(
    server: Server, redis: Redis, prefix: str, expected: dict[str, Any]
) -> None:
    """Copies that were on the way while everything ended have no effect, in any order."""
    queue = BareQueue(redis, prefix)
    async with FaultProxy(server.socket) as proxy, opened(proxy.url, prefix) as broker:
        await live(broker)
        assert outcome(queue) == expected
        copies = [frame for frame in proxy.seen if command_of(frame) == b"EVALSHA"]
    assert len(copies) == CALLS
    for order in (copies, copies[::-1], copies[::2] + copies[1::2]):
        reader, writer = await asyncio.open_unix_connection(server.socket)
        for frame in order:
            writer.write(frame)
        writer.write(b"PING\r\n")
        await reader.readuntil(b"+PONG\r\n")
        writer.close()
        await writer.wait_closed()
        assert outcome(queue) == expected


async def test_scripts_may_be_forgotten_between_any_two_calls(
    server_kind: Kind, make_server: Callable[..., Server], expected: dict[str, Any]
) -> None:
    """A server that knows no script is told each one anew; nothing is lost or doubled."""
    server = make_server(server_kind)
    client = server.client()

    class Forgetting(Transport):
        async def call(self, *call: Any) -> Any:  # noqa: ANN401
            client.script_flush()
            return await super().call(*call)

        async def aclose(self) -> None:
            await self.close()

    async with contextlib.aclosing(Forgetting(server.url)) as transport:
        await live(Broker(transport))
        assert transport.counters.script_loads == CALLS
    assert outcome(BareQueue(client, "bananas")) == expected
