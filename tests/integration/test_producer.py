"""The producer against real servers: what travels together, and what happens on the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from bananas.broker import Broker, Entry
from bananas.errors import BrokerFullError, DuplicateJobError
from bananas.job import Job
from bananas.keys import Keys
from bananas.producer import MAX_CALL_BYTES, MAX_IN_FLIGHT, Draft, Form, Producer
from bananas.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from redis import Redis

    from servers import Server

FORM = Form("t", "normal", "default", 3)


class WatchedBroker(Broker):
    """The real broker; remembers each enqueue call, and can lose the answer of one."""

    def __init__(self, transport: Transport, prefix: str) -> None:
        """Speak through `transport`."""
        super().__init__(transport, Keys(prefix))
        self.calls: list[tuple[str, list[Entry]]] = []
        self.open = 0
        self.opened = asyncio.Event()
        self.most_open = 0

    async def enqueue(self, request: str, entries: Sequence[Entry]) -> list[bool] | None:
        """Enqueue and remember."""
        self.calls.append((request, list(entries)))
        self.open += 1
        self.opened.set()
        self.most_open = max(self.most_open, self.open)
        try:
            return await super().enqueue(request, entries)
        finally:
            self.open -= 1


@pytest.fixture
async def broker(server: Server, prefix: str) -> AsyncIterator[WatchedBroker]:
    """Return a watched broker under a prefix of its own."""
    transport = Transport(server.url)
    yield WatchedBroker(transport, prefix)
    await transport.close()


@pytest.fixture
async def producer(broker: WatchedBroker) -> Producer:
    """Return a producer that sends through `broker`."""
    return Producer(broker)


async def test_jobs_of_one_tick_share_a_call(producer: Producer, broker: WatchedBroker) -> None:
    """Fifty submissions made at once leave in one script call, and each gets its own id."""
    entries = await asyncio.gather(*(producer.submit(Draft(FORM, b"%d" % n)) for n in range(50)))
    ids = [entry.job_id for entry in entries]
    assert len(broker.calls) == 1
    assert len(set(ids)) == 50
    assert ids == sorted(ids)


async def test_newcomers_gather_while_calls_are_in_flight(
    producer: Producer, broker: WatchedBroker
) -> None:
    """Beyond the calls in flight, whatever comes shares the next one."""
    answers: list[asyncio.Future[Entry]] = []
    for _ in range(MAX_IN_FLIGHT + 30):
        answers.append(asyncio.ensure_future(producer.submit(Draft(FORM, b"1"))))
        await asyncio.sleep(0)
    await asyncio.gather(*answers)
    assert broker.most_open <= MAX_IN_FLIGHT
    assert len(broker.calls) < len(answers)


async def test_an_id_that_exists_is_a_duplicate(producer: Producer) -> None:
    """The second job of an id is refused alone; those beside it are accepted."""
    await producer.submit(Draft(FORM, b"1", "mine"))
    mine, other = await asyncio.gather(
        producer.submit(Draft(FORM, b"2", "mine")),
        producer.submit(Draft(FORM, b"3", "other")),
        return_exceptions=True,
    )
    assert isinstance(mine, DuplicateJobError)
    assert mine.job_id == "mine"
    assert isinstance(other, Entry)
    assert other.job_id == "other"


async def test_an_id_given_twice_is_sent_once(
    producer: Producer, broker: WatchedBroker, redis: Redis, prefix: str
) -> None:
    """In one list the first of equal ids counts, the others are duplicates; new ids stay apart."""
    drafts = [Draft(FORM, b"%d" % n, job_id) for n, job_id in enumerate(["a", None, "a", "b", "a"])]
    receipt = await producer.submit_chunk(drafts)
    assert receipt.accepted == [True, True, False, True, False]
    assert receipt.ids[0] == receipt.ids[2] == receipt.ids[4] == "a"
    assert [entry.job_id for entry in broker.calls[-1][1]] == ["a", receipt.ids[1], "b"]
    record = redis.get(f"{prefix}:job:a")
    assert Job.decode(record).payload == 0
    assert redis.llen(f"{prefix}:queue:normal") == 3


async def test_long_lists_are_cut(producer: Producer, broker: WatchedBroker) -> None:
    """A list is cut by count and by bytes; a job over the limit of bytes goes alone."""
    await producer.submit_chunk([Draft(FORM, b"1")] * 1200)
    assert [len(entries) for _, entries in broker.calls] == [500, 500, 200]
    broker.calls.clear()
    large = b'"%b"' % (b"x" * (MAX_CALL_BYTES // 3))
    huge = b'"%b"' % (b"x" * (2 * MAX_CALL_BYTES))
    payloads = [large, large, large, b"1", huge, b"1"]
    receipt = await producer.submit_chunk([Draft(FORM, payload) for payload in payloads])
    assert [len(entries) for _, entries in broker.calls] == [2, 2, 1, 1]
    assert receipt.accepted == [True] * 6
    assert len(set(receipt.ids)) == 6


async def test_lists_and_single_jobs_take_turns(producer: Producer, broker: WatchedBroker) -> None:
    """A long list does not make a single job wait for its end."""
    drafts = [Draft(FORM, b'"list"')] * 20_000
    chunk = asyncio.ensure_future(producer.submit_chunk(drafts))
    await asyncio.sleep(0)
    await producer.submit(Draft(FORM, b'"single"'))
    assert len(broker.calls) <= 2 * MAX_IN_FLIGHT + 1
    await chunk


async def test_nothing_is_asked_of_the_server_for_nothing(
    producer: Producer, broker: WatchedBroker
) -> None:
    """An empty list is answered at once."""
    receipt = await producer.submit_chunk([])
    assert (receipt.ids, receipt.accepted) == ([], [])
    assert broker.calls == []


async def test_a_repeated_request_is_one_acceptance(
    producer: Producer, broker: WatchedBroker, redis: Redis, prefix: str
) -> None:
    """A call whose answer was lost is asked again with its request id: same answer, same jobs."""
    await producer.submit(Draft(FORM, b"1", "before"))
    receipt = await producer.submit_chunk([Draft(FORM, b"2"), Draft(FORM, b"3", "before")])
    request, entries = broker.calls[-1]
    assert await broker.enqueue(request, entries) == receipt.accepted == [True, False]
    assert redis.llen(f"{prefix}:queue:normal") == 2
    assert redis.hget(f"{prefix}:counters", "accepted") == b"2"


async def test_lost_connections_lose_and_double_nothing(
    producer: Producer, redis: Redis, prefix: str
) -> None:
    """While connections are killed over and over, each submission is enqueued exactly once."""
    reached: asyncio.Queue[str] = asyncio.Queue()
    submitting = [asyncio.ensure_future(_submit_some(producer, 100, reached)) for _ in range(5)]
    ids: list[str] = []
    for count in range(1, 501):
        ids.append(await reached.get())
        if count % 50 == 0:
            redis.client_kill_filter(_type="normal", skipme=True)
    await asyncio.gather(*submitting)
    listed = [job_id.decode() for job_id in redis.lrange(f"{prefix}:queue:normal", 0, -1)]
    assert sorted(listed) == sorted(ids)
    assert redis.hget(f"{prefix}:counters", "accepted") == b"500"


async def _submit_some(producer: Producer, count: int, reached: asyncio.Queue[str]) -> None:
    for _ in range(count):
        reached.put_nowait((await producer.submit(Draft(FORM, b"1"))).job_id)


async def test_jobs_go_to_the_lists_that_workers_want(
    producer: Producer, broker: WatchedBroker, redis: Redis, prefix: str
) -> None:
    """When a task gets lists of its own mid-way, the call is placed anew under one request id."""
    await producer.submit(Draft(FORM, b"1"))
    await Broker(broker.transport, Keys(prefix)).specialise(60.0, ["t"])
    await producer.submit(Draft(FORM, b"2", "alone"))
    requests = [request for request, _ in broker.calls]
    assert len(requests) == 3
    assert requests[1] == requests[2]
    assert redis.lrange(f"{prefix}:task:t:queue:normal", 0, -1) == [b"alone"]
    assert Job.decode(redis.get(f"{prefix}:job:alone")).place == "task:t:queue:normal"


async def test_records_are_what_the_core_would_write(
    producer: Producer, redis: Redis, prefix: str
) -> None:
    """A record made from a mould is byte for byte the one encoded member by member."""
    form = Form(
        "t",
        "high",
        "gpu",
        7,
        description_json=rb'"tricky \",\"payload\":0,\" \u00e9"',
        timeout_s=2.5,
        result=True,
        expires_at="2030-01-01T00:00:00.000000Z",
        scheduled_for="2029-01-01T00:00:00.000000Z",
        due="1861920000.000000",
    )
    await producer.submit(Draft(form, b'{"a":[1,2]}', "x"))
    record = redis.get(f"{prefix}:job:x")
    job = Job.decode(record)
    assert job.encode("route:gpu:queue:high") == record
    assert job.payload == {"a": [1, 2]}
    assert (job.status, job.attempts, job.max_retries) == ("scheduled", 0, 7)
    assert redis.zscore(f"{prefix}:queue:scheduled", "x") == 1861920000.0


async def test_a_cancelled_caller_disturbs_nobody(producer: Producer) -> None:
    """Cancelling one of several submissions leaves the others their answers."""
    first, second, third = (
        asyncio.ensure_future(producer.submit(Draft(FORM, b"1", name)))
        for name in ("one", "two", "three")
    )
    await asyncio.sleep(0)
    second.cancel()
    assert [(await first).job_id, (await third).job_id] == ["one", "three"]


async def test_the_first_of_a_tick_who_is_cancelled_leaves_its_job_on_the_way(
    producer: Producer, broker: WatchedBroker
) -> None:
    """It is the one that would have made the call; the others have theirs, with its job in it."""
    first, second = (
        asyncio.ensure_future(producer.submit(Draft(FORM, b"1", name))) for name in ("one", "two")
    )
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).job_id == "two"
    assert [[entry.job_id for entry in entries] for _, entries in broker.calls] == [["one", "two"]]
    assert first.cancelled()


async def test_a_lone_caller_who_is_cancelled_stops_nobody(
    producer: Producer, broker: WatchedBroker
) -> None:
    """Whoever comes after it has an answer, and the close does not wait for it."""
    alone = asyncio.ensure_future(producer.submit(Draft(FORM, b"1", "alone")))
    await broker.opened.wait()
    alone.cancel()
    await asyncio.wait([alone])
    assert alone.cancelled()
    assert (await producer.submit(Draft(FORM, b"1", "next"))).job_id == "next"
    await producer.close()
    assert broker.open == 0


async def test_a_lone_caller_makes_no_task(producer: Producer, broker: WatchedBroker) -> None:
    """One call after the other is made by the caller; it fails by itself, too."""
    await producer.submit(Draft(FORM, b"1", "mine"))
    broker.opened.clear()
    before = asyncio.all_tasks()
    begun = asyncio.ensure_future(producer.submit(Draft(FORM, b"1", "mine")))
    await broker.opened.wait()
    assert asyncio.all_tasks() - before == {begun}
    with pytest.raises(DuplicateJobError, match="mine"):
        await begun


async def test_a_full_server_refuses_each_caller(make_server: Callable[..., Server]) -> None:
    """At maxmemory every waiting caller is told so, and later ones are accepted again."""
    server = make_server()
    transport = Transport(server.url)
    producer = Producer(Broker(transport))
    await producer.submit(Draft(FORM, b"1"))
    with server.client() as plain:
        plain.config_set("maxmemory", "1")
        calls: list[Any] = [producer.submit(Draft(FORM, b"1")) for _ in range(3)]
        calls.append(producer.submit_chunk([Draft(FORM, b"1")]))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [BrokerFullError] * 4
        plain.config_set("maxmemory", "0")
    assert await producer.submit(Draft(FORM, b"1"))
    await transport.close()


async def test_closing_waits_for_what_is_on_its_way(
    producer: Producer, redis: Redis, prefix: str
) -> None:
    """Everything submitted before the close is enqueued by its end."""
    answers = [asyncio.ensure_future(producer.submit(Draft(FORM, b"1"))) for _ in range(2000)]
    await asyncio.sleep(0)
    await producer.close()
    assert redis.llen(f"{prefix}:queue:normal") == 2000
    assert len(await asyncio.gather(*answers)) == 2000


async def test_closing_waits_for_a_lone_call(
    producer: Producer, broker: WatchedBroker, redis: Redis, prefix: str
) -> None:
    """The caller makes it, and yet it has its answer before the close is over."""
    answer = asyncio.ensure_future(producer.submit(Draft(FORM, b"1")))
    await broker.opened.wait()
    await producer.close()
    assert broker.open == 0
    assert redis.llen(f"{prefix}:queue:normal") == 1
    await answer
