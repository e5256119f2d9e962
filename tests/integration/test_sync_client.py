"""The client for code that blocks, used as such code does: threads, forks, generators."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from bananas.broker import Broker
from bananas.client import Client
from bananas.errors import (
    BrokerFullError,
    DuplicateJobError,
    FieldError,
    JobCancelledError,
    JobNotFoundError,
    ResultTimeoutError,
)
from bananas.keys import Keys
from bananas.settings import Settings
from bananas.sync_client import SyncClient
from bananas.transport import Transport
from scripted_worker import ScriptedWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from bananas.submission import Verdicts
    from servers import Server


@pytest.fixture
def client(server: Server, prefix: str) -> Iterator[SyncClient]:
    """Return a connected client under a prefix of its own."""
    with SyncClient(settings=Settings(redis_url=server.url, key_prefix=prefix)) as client:
        yield client


def run_one_job(server: Server, prefix: str, end: str) -> None:
    """Take one job and end it, in a loop of its own."""

    async def run() -> None:
        transport = Transport(server.url)
        worker = ScriptedWorker(Broker(transport, Keys(prefix)))
        while not (jobs := await worker.take(1)):  # noqa: ASYNC110 - by polling, as a worker
            await asyncio.sleep(0.001)
        await (worker.fail(jobs[0], "no") if end == "fail" else worker.complete(jobs[0], end))
        await transport.close()

    asyncio.run(run())


def test_threads_share_one_connection(client: SyncClient, redis: Redis, prefix: str) -> None:
    """Eight threads that submit at once get each its own ids, over one connection."""
    barrier = threading.Barrier(8)

    def submit(number: int) -> list[str]:
        barrier.wait()
        return [client.submit("t", {"thread": number, "n": n}).id for n in range(50)]

    with ThreadPoolExecutor(8) as pool:
        ids = [job_id for ids in pool.map(submit, range(8)) for job_id in ids]
    assert len(set(ids)) == 400
    assert redis.llen(f"{prefix}:queue:normal") == 400
    accepted = redis.hget(f"{prefix}:counters", "accepted")
    assert accepted == b"400"
    names = [entry["name"] for entry in redis.client_list()]
    assert names.count("bananas-client") == 1


def test_every_verb_blocks_for_its_answer(client: SyncClient, server: Server, prefix: str) -> None:
    """Each verb does what the async one does, and raises the same."""
    job = client.submit("t", {"n": 1}, id="mine")
    assert repr(job) == "<SyncJobHandle t mine>"
    assert job.status() == "pending"
    with pytest.raises(DuplicateJobError):
        client.submit("t", id="mine")
    with pytest.raises(FieldError):
        client.submit("t", priority="?")  # type: ignore[arg-type]
    assert client.get_job("mine").payload == {"n": 1}
    assert client.get_jobs(["absent"]) == [None]
    with pytest.raises(JobNotFoundError):
        client.get_job("absent")
    assert client.get_result("mine") is None
    with pytest.raises(ResultTimeoutError):
        job.result(timeout_s=0.01)
    job.cancel()
    with pytest.raises(JobCancelledError):
        job.result(timeout_s=1)
    assert [v.status for v in client.submit_chunk([{"name": "t"}, {}])] == ["accepted", "rejected"]
    run_one_job(server, prefix, "fail")
    (dead,) = client.dead().jobs
    assert client.dead_count() == 1
    assert client.dead_groups()[0].count == 1
    client.retry(dead.id)
    run_one_job(server, prefix, "fail")
    assert client.retry_dead() == 1
    run_one_job(server, prefix, "fail")
    assert client.delete_dead() == 1
    assert client.stats()["drift"] == 0
    assert client.audit().drift == 0
    assert len(client.queues()) == 3
    assert len(client.workers()) == 3


def test_submit_and_wait(client: SyncClient, server: Server, prefix: str) -> None:
    """A blocking caller gets the handler's value."""
    worker = threading.Thread(target=run_one_job, args=(server, prefix, "value"))
    worker.start()
    assert client.submit_and_wait("t", timeout_s=10) == "value"
    worker.join()


def test_a_stream_is_read_in_the_callers_thread(client: SyncClient) -> None:
    """A source bound to its thread, as a SQLite cursor is, can be streamed from."""
    database = sqlite3.connect(":memory:")
    database.execute("create table rows (n integer)")
    database.executemany("insert into rows values (?)", ((n,) for n in range(3000)))
    rows = database.execute("select n from rows order by n")
    told = 0

    def on_chunk(verdicts: Verdicts) -> None:
        nonlocal told
        told += len(verdicts)

    report = client.submit_many(
        ({"name": "t", "payload": {"n": n}} for (n,) in rows), on_chunk=on_chunk
    )
    assert report.accepted == told == 3000
    database.close()


def test_a_failing_source_ends_its_stream(client: SyncClient) -> None:
    """The error of a source is raised as it is, and the client goes on."""

    def failing() -> Iterator[dict[str, Any]]:
        yield from ({"name": "t"} for _ in range(1200))
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        client.submit_many(failing())
    client.ping()


def test_a_refused_stream_does_not_hang(make_server: Callable[..., Server]) -> None:
    """When the server refuses, the caller is told, though its source has no end."""
    server = make_server()
    with SyncClient(server.url) as client:
        with server.client() as plain:
            plain.config_set("maxmemory", "1")
        with pytest.raises(BrokerFullError):
            client.submit_many({"name": "t"} for _ in iter(int, 1))


def test_a_closed_client_opens_again(client: SyncClient) -> None:
    """Closing ends the thread, not the client."""
    client.close()
    client.close()
    assert not [t for t in threading.enumerate() if t.name == "bananas-client"]
    client.ping()


def test_it_does_not_wait_for_itself(client: SyncClient) -> None:
    """Used from its own thread it would wait for ever; it says so instead."""
    problems: list[BaseException] = []

    def on_chunk(_: Verdicts) -> None:
        try:
            client.ping()
        except RuntimeError as problem:
            problems.append(problem)

    client.submit_many([{"name": "t"}], on_chunk=on_chunk)
    assert "wait for itself" in str(problems[0])


def test_a_forked_child_has_a_thread_of_its_own(client: SyncClient) -> None:
    """After a fork both parent and child submit."""
    client.submit("t", id="before")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)  # a child that hangs ends, and the test fails
            os.write(write, client.submit("t", id="child").id.encode())
            client.close()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"child"
    assert os.waitpid(pid, 0)[1] == 0
    client.submit("t", id="after")
    assert None not in client.get_jobs(["before", "child", "after"])


def test_it_has_all_that_the_async_client_has() -> None:
    """Every public verb of the async client exists here too."""
    own = {"session", "open_session", "aclose", "drafter", "enter"}  # parts, for other modules
    verbs = {name for name in vars(Client) if not name.startswith("_")} - own
    assert verbs <= set(vars(SyncClient))
