"""The client against real servers: submit, look, wait, cancel."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from bananas.broker import Broker
from bananas.client import Client
from bananas.errors import (
    BrokerUnavailableError,
    DuplicateJobError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    ResultTimeoutError,
    SettingsError,
    StateError,
)
from bananas.keys import Keys
from bananas.results import Result
from bananas.settings import Settings
from bananas.submission import Submission, Verdict
from bananas.transport import Transport
from scripted_worker import ScriptedWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from servers import Server


@pytest.fixture
async def client(server: Server, prefix: str) -> AsyncIterator[Client]:
    """Return a connected client under a prefix of its own."""
    async with Client(settings=Settings(redis_url=server.url, key_prefix=prefix)) as client:
        yield client


@pytest.fixture
async def worker(client: Client) -> ScriptedWorker:
    """Return a worker that ends jobs as the test says."""
    return ScriptedWorker((await client.session()).broker)


# --- submit ---------------------------------------------------------------------------------


async def test_a_submitted_job_is_found_by_others(
    client: Client, redis: Redis, prefix: str
) -> None:
    """A job submitted is a record and an id in its list, as the wire format says."""
    job = await client.submit("t", {"a": 1}, priority="high", routing_key="gpu")
    record = json.loads(redis.get(f"{prefix}:job:{job.id}"))
    assert list(record)[:6] == ["id", "name", "payload", "status", "priority", "routing_key"]
    assert (record["payload"], record["status"]) == ({"a": 1}, "pending")
    assert redis.lrange(f"{prefix}:route:gpu:queue:high", 0, -1) == [job.id.encode()]
    assert (job.name, await job.status()) == ("t", "pending")
    assert repr(job) == f"<JobHandle t {job.id}>"


async def test_an_existing_id_is_refused(client: Client) -> None:
    """Submitting an id again is a DuplicateJobError and changes nothing."""
    await client.submit("t", {"n": 1}, id="mine")
    with pytest.raises(DuplicateJobError):
        await client.submit("t", {"n": 2}, id="mine")
    assert (await client.get_job("mine")).payload == {"n": 1}


async def test_scheduled_jobs_are_kept_for_their_time(
    client: Client, redis: Redis, prefix: str
) -> None:
    """A delay counts from the server's clock, and the job is scheduled until then."""
    job = await client.submit("t", delay_s=60)
    due = redis.zscore(f"{prefix}:queue:scheduled", job.id)
    assert abs(due - time.time() - 60) < 5
    found = await client.get_job(job.id)
    assert found.status == "scheduled"
    assert found.scheduled_us is not None
    assert abs(found.scheduled_us / 1e6 - due) < 5


async def test_every_item_of_a_chunk_has_its_verdict(client: Client) -> None:
    """Good items are accepted, others told what is wrong with them, in the order given."""
    await client.submit("t", id="old")
    verdicts = await client.submit_chunk(
        [
            {"name": "t", "priority": "urgent"},
            Submission(name="t", id="old"),
            {"name": "t", "id": "new"},
            {"name": "t", "payload": {"x": float("inf")}},
            Submission(name="t", id="new"),
            {"name": "t"},
        ]
    )
    assert [verdict.status for verdict in verdicts] == [
        "rejected",
        "duplicate",
        "accepted",
        "rejected",
        "duplicate",
        "accepted",
    ]
    assert [verdict.index for verdict in verdicts] == [0, 1, 2, 3, 4, 5]
    assert verdicts[0].field == "priority"
    assert verdicts[3] == Verdict(3, None, "rejected", "payload", verdicts[3].rule)
    assert verdicts[4].id == "new"
    assert len(verdicts.exceptions) == 4
    assert (await client.submit_chunk([{}]))[0].field == "name"
    assert len(await client.submit_chunk([])) == 0


# --- foreign records --------------------------------------------------------------------------


async def test_foreign_jobs_are_read_with_their_live_status(
    client: Client, worker: ScriptedWorker, redis: Redis, prefix: str
) -> None:
    """What a foreign client wrote with SET and LPUSH is a job like ours, at every stage."""
    record = {"payload": {"n": 1}, "name": "t", "id": "theirs", "extra": [1, None]}
    redis.set(f"{prefix}:job:theirs", json.dumps(record, indent=2))
    redis.lpush(f"{prefix}:queue:normal", "theirs")
    job = await client.get_job("theirs")
    assert (job.status, job.priority, job.max_retries) == ("pending", "normal", 3)
    assert job.to_dict()["extra"] == [1, None]
    (taken,) = await worker.take()
    assert (await client.get_job("theirs")).status == "processing"
    await worker.complete(taken, 5)
    assert (await client.get_job("theirs")).status == "completed"
    result = await client.get_result("theirs")
    assert result == Result("theirs", "completed", 5, None, "", 1.5)


async def test_foreign_scheduled_jobs_are_scheduled(
    client: Client, redis: Redis, prefix: str
) -> None:
    """An id that a foreign client put into the scheduled set is scheduled, whatever it wrote."""
    redis.set(f"{prefix}:job:theirs", '{"id":"theirs","name":"t","status":"pending"}')
    redis.zadd(f"{prefix}:queue:scheduled", {"theirs": time.time() + 60.5})
    assert (await client.get_job("theirs")).status == "scheduled"
    await client.cancel("theirs")
    assert (await client.get_job("theirs")).status == "cancelled"
    assert redis.zcard(f"{prefix}:queue:scheduled") == 0


async def test_a_broken_record_is_shown(client: Client, redis: Redis, prefix: str) -> None:
    """A record that cannot be read shows its bytes and the reason, and cannot be cancelled."""
    redis.set(f"{prefix}:job:broken", b'{"id": nonsense \xff')
    job = await client.get_job("broken")
    assert (job.id, job.name, job.status) == ("broken", "", "failed")
    assert job.payload == '{"id": nonsense �'
    assert "broken job record" in (job.error or "")
    with pytest.raises(StateError):
        await client.cancel("broken")


async def test_jobs_are_read_in_the_order_asked(client: Client) -> None:
    """Many ids are read at once, None where there is no record."""
    handles = [await client.submit("t", n) for n in range(150)]
    ids = [handle.id for handle in handles]
    jobs = await client.get_jobs([*ids[:120], "absent", *ids[120:]])
    assert jobs[120] is None
    assert [job.payload for job in jobs if job is not None] == list(range(150))
    with pytest.raises(JobNotFoundError):
        await client.get_job("absent")


# --- results ------------------------------------------------------------------------------------


async def test_submit_and_wait_returns_the_value(client: Client, worker: ScriptedWorker) -> None:
    """The caller gets what the handler returned."""
    waiting = asyncio.ensure_future(
        client.submit_and_wait("t", {"n": 1}, timeout_s=10, priority="high", run_timeout_s=7)
    )
    job = await _next(worker)
    assert (job.result, job.timeout_s, job.priority) == (True, 7.0, "high")
    await worker.complete(job, {"answer": 42})
    assert await waiting == {"answer": 42}


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the looks between messages so rare that only a message can end a wait in time."""
    monkeypatch.setattr("bananas.results._ANNOUNCED_S", (600.0, 600.0))


@pytest.mark.usefixtures("no_looks")
async def test_a_wake_up_is_not_missed(client: Client, worker: ScriptedWorker) -> None:
    """A job that ends while its waiter subscribes wakes it all the same."""
    for n in range(100):
        job = await client.submit("t", n, result=True)
        (taken,) = await worker.take()
        ending = asyncio.ensure_future(_complete_after(worker, taken, n, delay_s=n * 5e-5))
        assert await _soon(job.result()) == n
        await ending


@pytest.mark.usefixtures("no_looks")
async def test_waiters_hear_of_it_after_a_lost_connection(
    client: Client, worker: ScriptedWorker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that was published while the connection was down is made up for by a look."""
    job = await client.submit("t", result=True)
    (taken,) = await worker.take()
    looked = await _looks(client, monkeypatch)
    waiting = asyncio.ensure_future(job.result())
    await looked.wait()
    redis.client_kill_filter(_type="pubsub")
    await worker.complete(taken, "late")
    assert await _soon(waiting) == "late"


@pytest.mark.usefixtures("no_looks")
async def test_a_message_ends_the_wait(
    client: Client, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has looked and found nothing is woken by the message."""
    job = await client.submit("t", result=True)
    (taken,) = await worker.take()
    looked = await _looks(client, monkeypatch)
    waiting = asyncio.ensure_future(job.result())
    await looked.wait()
    await worker.complete(taken, "soon")
    assert await _soon(waiting) == "soon"


async def test_waiting_goes_on_where_channels_are_forbidden(
    make_server: Callable[..., Server],
) -> None:
    """A user who may not subscribe gets results by looking."""
    server = make_server()
    with server.client() as plain:
        plain.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "resetchannels")
    url = server.url.replace("unix://", "unix://u:p@")
    async with Client(url) as client:
        transport = Transport(server.url)
        worker = ScriptedWorker(Broker(transport))
        waiting = asyncio.ensure_future(client.submit_and_wait("t", timeout_s=20))
        await worker.complete(await _next(worker), 8)
        assert await waiting == 8
        await transport.close()


async def test_two_waiters_of_one_job_both_hear(client: Client, worker: ScriptedWorker) -> None:
    """Everyone who waits for a job gets its value, also who comes when it has ended."""
    job = await client.submit("t", result=True)
    (taken,) = await worker.take()
    waiting = [asyncio.ensure_future(job.result(timeout_s=10)) for _ in range(3)]
    await asyncio.sleep(0)
    await worker.complete(taken, 1)
    assert await asyncio.gather(*waiting) == [1, 1, 1]
    assert await job.result(timeout_s=0) == 1


async def test_a_failed_job_raises_its_error(client: Client, worker: ScriptedWorker) -> None:
    """Waiting for a job that failed for good raises JobFailedError with its last error."""
    for kept in (True, False):
        job = await client.submit("t", result=kept)
        (taken,) = await worker.take()
        waiting = asyncio.ensure_future(job.result(timeout_s=10))
        await worker.fail(taken, "ValueError: no", kept=kept)
        with pytest.raises(JobFailedError) as caught:
            await waiting
        assert (caught.value.job_id, caught.value.error) == (job.id, "ValueError: no")
        result = await client.get_result(job.id)
        assert result is not None
        assert (result.status, result.error) == ("failed", "ValueError: no")


async def test_a_pending_retry_is_no_failure(client: Client, worker: ScriptedWorker) -> None:
    """A job that failed and is scheduled again has not ended."""
    job = await client.submit("t", result=True)
    (taken,) = await worker.take()
    await worker.postpone(taken, 60_000)
    with pytest.raises(ResultTimeoutError) as caught:
        await job.result(timeout_s=0.1)
    assert (caught.value.job_id, caught.value.timeout_s) == (job.id, 0.1)
    assert await job.status() == "scheduled"
    assert await client.get_result(job.id) is None
    assert await client.get_result(job.id, wait_s=0.05) is None


async def test_jobs_without_results_can_be_waited_for(
    client: Client, worker: ScriptedWorker
) -> None:
    """Where no result is kept, waiting ends with None, also when the record is gone at once."""
    for retention_s in (60, 0):
        job = await client.submit("t")
        (taken,) = await worker.take()
        waiting = asyncio.ensure_future(job.result(timeout_s=10))
        await worker.complete(taken, kept=False, retention_s=retention_s)
        assert await waiting is None


async def test_the_result_of_an_unknown_job_is_not_found(client: Client) -> None:
    """Asking for the result of a job that never was raises JobNotFoundError at once."""
    with pytest.raises(JobNotFoundError):
        await client.get_result("absent", wait_s=5)


async def test_waiting_works_without_pub_sub(
    client: Client, worker: ScriptedWorker, prefix: str
) -> None:
    """A client that was given a broker but no URL waits by looking."""
    looker = Client(settings=Settings(key_prefix=prefix), broker=(await client.session()).broker)
    job = await looker.submit("t", result=True)
    (taken,) = await worker.take()
    waiting = asyncio.ensure_future(job.result(timeout_s=10))
    await worker.complete(taken, 3)
    assert await waiting == 3
    await looker.aclose()
    await client.ping()


# --- cancel -------------------------------------------------------------------------------------


async def test_cancel_in_every_state(client: Client, worker: ScriptedWorker) -> None:
    """Waiting and scheduled jobs end at once; running and ended ones are left alone."""
    scheduled = await client.submit("t", delay_s=60)
    await scheduled.cancel()
    assert await scheduled.status() == "cancelled"
    with pytest.raises(StateError, match="is cancelled"):
        await scheduled.cancel()

    pending = await client.submit("t")
    await pending.cancel()
    assert await pending.status() == "cancelled"
    with pytest.raises(JobCancelledError):
        await pending.result(timeout_s=1)

    running = await client.submit("t")
    taken = next(job for job in await worker.take() if job.id == running.id)
    with pytest.raises(StateError, match="is processing"):
        await running.cancel()
    await worker.complete(taken)
    with pytest.raises(StateError, match="is completed"):
        await running.cancel()

    failed = await client.submit("t")
    (taken,) = await worker.take()
    await worker.fail(taken, "no")
    with pytest.raises(StateError, match="is failed"):
        await failed.cancel()
    with pytest.raises(JobNotFoundError):
        await client.cancel("absent")


@pytest.mark.usefixtures("no_looks")
async def test_a_waiter_hears_of_a_cancellation(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a job that is cancelled is told at once."""
    job = await client.submit("t", result=True)
    looked = await _looks(client, monkeypatch)
    waiting = asyncio.ensure_future(job.result())
    await looked.wait()
    await job.cancel()
    with pytest.raises(JobCancelledError):
        await _soon(waiting)


async def test_cancelled_jobs_are_conserved(client: Client) -> None:
    """Cancelling moves the counters with the job: nothing drifts, ours or foreign."""
    redis_command = (await client.session()).broker.transport.command
    await redis_command(
        "SET", (await client.session()).broker.keys.job("x"), '{"id":"x","name":"t"}'
    )
    await redis_command("LPUSH", (await client.session()).broker.keys.waiting("queue:normal"), "x")
    await (await client.submit("t")).cancel()
    await client.cancel("x")
    audit = await client.audit()
    assert audit.drift == 0
    assert (audit.counters["accepted"], audit.counters["cancelled"]) == (2, 2)
    stats = await client.stats()
    assert (stats["waiting"], stats["drift"]) == (0, 0)


# --- where it connects ----------------------------------------------------------------------------


def test_a_client_follows_its_loop(server: Server, prefix: str) -> None:
    """Used from one loop after another, a client connects anew and leaves nothing open."""
    client = Client(settings=Settings(redis_url=server.url, key_prefix=prefix))

    async def submit() -> str:
        return (await client.submit("t")).id

    async def submit_and_close() -> str:
        job_id = await submit()
        await client.aclose()
        return job_id

    ids = [asyncio.run(submit()), asyncio.run(submit()), asyncio.run(submit_and_close())]
    assert len(set(ids)) == 3

    async def jobs() -> list[Any]:
        return await client.get_jobs(ids)

    assert None not in asyncio.run(jobs())


async def test_a_closed_client_opens_again(client: Client) -> None:
    """Closing ends the connections, not the client."""
    await client.aclose()
    await client.aclose()
    await client.ping()


async def test_a_given_broker_is_used_and_left_open(server: Server, prefix: str) -> None:
    """A client that speaks through somebody's broker does not close it."""
    transport = Transport(server.url)
    settings = Settings(redis_url=server.url)
    async with Client(settings=settings, broker=Broker(transport, Keys(prefix))) as client:
        job = await client.submit("t")
        assert await client.get_result(job.id, wait_s=0.01) is None
    assert await transport.command("PING") == b"PONG"
    await transport.close()


async def test_a_wrong_address_shows_on_entering() -> None:
    """Nobody at the address is an error of the first use, not a hang."""
    transport = Transport("unix:///nonexistent/socket", retry_window_s=0.2)
    with pytest.raises(BrokerUnavailableError):
        async with Client(broker=Broker(transport)):
            pass
    await transport.close()


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments the environment decides; an argument wins over it."""
    monkeypatch.setenv("REDIS_URL", "redis://example:1234/5")
    assert Client().settings.redis_url == "redis://example:1234/5"
    assert Client("redis://other").settings.redis_url == "redis://other"
    given = Settings(max_retries=9)
    both = Client("redis://other", settings=given).settings
    assert (both.redis_url, both.max_retries) == ("redis://other", 9)
    with pytest.raises(SettingsError):
        Client("http://no")


@pytest.fixture
def no_server_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear the environment of addresses."""
    for name in list(os.environ):
        if name.startswith("BANANAS_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_server_named")
async def test_without_an_address_a_server_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no server named anywhere, two clients share an embedded one."""
    from bananas import embedded  # noqa: PLC0415 - patched below

    started: list[embedded.EmbeddedServer] = []
    start = embedded.start

    def remember(data_dir: Path, *, synced: bool) -> embedded.EmbeddedServer:
        started.append(start(data_dir, synced=synced))
        return started[-1]

    monkeypatch.setattr(embedded, "start", remember)
    monkeypatch.setenv("BANANAS_DATA_DIR", str(tmp_path))
    try:
        async with Client() as first, Client() as second:
            await first.aclose()
            await asyncio.gather(first.ping(), first.ping(), first.ping())
            with Redis.from_url(started[0].url) as plain:
                names = [entry["name"] for entry in plain.client_list()]
            assert names.count("bananas-client") == 2
            job = await first.submit("t", {"n": 1})
            assert (await second.get_job(job.id)).payload == {"n": 1}
        assert [server.owned for server in started if server.owned] == [True]
    finally:
        for server in started:
            server.stop()


async def test_first_uses_at_once_open_one_connection(
    make_server: Callable[..., Server],
) -> None:
    """Callers that come together before anything is open share what the first one opens."""
    server = make_server()
    client = Client(server.url)
    await asyncio.gather(*(client.submit("t") for _ in range(20)))
    with server.client() as plain:
        names = [entry["name"] for entry in plain.client_list()]
    assert names.count("bananas-client") == 1
    await client.aclose()


# --- helpers ------------------------------------------------------------------------------------


async def _soon(waiting: Awaitable[Any]) -> Any:  # noqa: ANN401 - whatever is waited for
    """Wait much shorter than any look would take to come."""
    return await asyncio.wait_for(waiting, 10)


async def _looks(client: Client, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Return an event that is set once somebody who waits has looked."""
    results = (await client.session()).results
    end = results.end
    looked = asyncio.Event()

    async def look(job_id: str, *, known: bool = False) -> Any:  # noqa: ANN401
        found = await end(job_id, known=known)
        looked.set()
        return found

    monkeypatch.setattr(results, "end", look)
    return looked


async def _next(worker: ScriptedWorker) -> Any:  # noqa: ANN401 - a Job
    while True:
        jobs = await worker.take(1)
        if jobs:
            return jobs[0]


async def _complete_after(worker: ScriptedWorker, job: Any, value: object, delay_s: float) -> None:  # noqa: ANN401
    await asyncio.sleep(delay_s)
    await worker.complete(job, value)
