"""Tasks of an application, enqueued by their functions, against real servers."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bananas.app import Bananas
from bananas.errors import (
    DuplicateJobError,
    FieldError,
    PayloadError,
    PayloadTypeError,
    SettingsError,
)
from bananas.registry import Outcome
from bananas.settings import Settings
from scripted_worker import ScriptedWorker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from redis import Redis

    from servers import Server


@dataclass
class Row:
    """An item of a batch task."""

    n: int
    text: str = ""


@pytest.fixture
async def app(server: Server, prefix: str) -> AsyncIterator[Bananas]:
    """Return a connected application under a prefix of its own."""
    async with Bananas(server.url, key_prefix=prefix) as app:
        yield app


@pytest.fixture
async def worker(app: Bananas) -> ScriptedWorker:
    """Return a worker that ends jobs as the test says."""
    places = ("queue:high", "route:gpu:queue:normal", "queue:normal", "queue:low")
    return ScriptedWorker((await app.client.session()).broker, places)


async def test_a_task_is_enqueued_by_its_signature(app: Bananas, worker: ScriptedWorker) -> None:
    """Positional and keyword arguments become the members of the payload."""

    @app.task
    async def send(to: str, subject: str = "none", *, urgent: bool = False) -> int:
        return len(to) + len(subject) + urgent

    await send.enqueue("a@example.com", urgent=True)
    (job,) = await worker.take()
    assert job.name == "send"
    assert job.payload == {"to": "a@example.com", "urgent": True}
    assert (job.priority, job.routing_key, job.max_retries) == ("normal", "default", 3)
    assert await send("abc", "") == 3
    for wrong in ({}, {"to": "a", "too": 1}):
        with pytest.raises(PayloadTypeError, match='payload of "send"'):
            await send.enqueue(**wrong)  # type: ignore[call-arg]
    with pytest.raises(PayloadError):
        await send.enqueue(float("nan"))  # type: ignore[arg-type]


async def test_a_value_comes_back_typed(app: Bananas, worker: ScriptedWorker) -> None:
    """`await job.result()` is what the handler returned."""

    @app.task(result=True)
    def double(n: int) -> int:
        return 2 * n

    job = await double.enqueue(21)
    (taken,) = await worker.take()
    assert taken.result
    await worker.complete(taken, double(**taken.payload))
    assert await job.result(timeout_s=10) == 42


async def test_options_of_task_and_call(app: Bananas, worker: ScriptedWorker) -> None:
    """A task's options hold for its jobs; those of a call win, and stay with their copy."""

    @app.task(name="jobs.t", priority="high", max_retries=7, description="d", timeout_s=5)
    async def t() -> None: ...

    await t.enqueue()
    low = t.options(priority="low", max_retries=1, timeout_s=2, id="mine", result=True)
    await low.enqueue()
    with pytest.raises(DuplicateJobError):
        await low.enqueue()
    await low.options(id="other", routing_key="gpu", priority="normal").enqueue()
    high, gpu, mine = await worker.take()
    assert (high.name, high.priority, high.max_retries) == ("jobs.t", "high", 7)
    assert (high.description, high.timeout_s, high.result) == ("d", None, False)
    assert (mine.id, mine.priority, mine.max_retries) == ("mine", "low", 1)
    assert (mine.timeout_s, mine.result) == (2.0, True)
    assert (gpu.id, gpu.routing_key, gpu.max_retries) == ("other", "gpu", 1)
    with pytest.raises(FieldError, match="priority"):
        await t.options(priority="?").enqueue()  # type: ignore[arg-type]
    with pytest.raises(FieldError, match="id"):
        await t.options(id="a b").enqueue()


async def test_a_delay_counts_from_each_call(app: Bananas, redis: Redis, prefix: str) -> None:
    """A copy with a delay can be kept: each of its jobs is due that long after its own call."""

    @app.task
    async def t() -> None: ...

    later = t.options(delay_s=60)
    first = await later.enqueue()
    await asyncio.sleep(0.05)
    second = await later.enqueue()
    due = [redis.zscore(f"{prefix}:queue:scheduled", job.id) for job in (first, second)]
    assert due[1] - due[0] >= 0.045
    texts = [(await app.client.get_job(job.id)).scheduled_for for job in (first, second)]
    assert texts[0] != texts[1]
    fixed = await t.options(scheduled_for="2999-01-01T00:00:00Z").enqueue()
    assert await fixed.status() == "scheduled"


async def test_rows_of_keywords_are_enqueued_in_bulk(app: Bananas, worker: ScriptedWorker) -> None:
    """Each row is a call; one that does not fit the signature is rejected alone."""

    @app.task
    async def t(a: int, b: int = 0) -> None: ...

    async def rows() -> AsyncIterator[dict[str, int]]:
        yield {"a": 1}
        yield {"b": 1}
        yield {"a": 1, "b": 2}

    report = await t.enqueue_many(rows())
    assert [v.status for v in report.verdicts or []] == ["accepted", "rejected", "accepted"]
    assert (report.verdicts or [])[1].rule == "missing arguments: a"
    assert [job.payload for job in await worker.take()] == [{"a": 1}, {"a": 1, "b": 2}]
    report = await t.enqueue_many([{"a": 1}, 5])  # type: ignore[list-item]
    assert report.rejected == 1
    with pytest.raises(FieldError, match="id"):
        await t.options(id="x").enqueue_many([])


async def test_items_of_a_batch_task(app: Bananas, worker: ScriptedWorker) -> None:
    """Items are jobs: dataclasses go as objects, anything else as it is."""

    @app.batch_task(max_size=10, linger_s=0.01)
    async def load(rows: list[Row]) -> list[Outcome]:
        return [Outcome.ok(row.n) for row in rows]

    @app.batch_task
    def plain(numbers: list[int]) -> int:
        return sum(numbers)

    await load.enqueue(Row(1, "x"))
    report = await load.enqueue_many(Row(n) for n in range(2, 4))
    assert report.accepted == 2
    await plain.enqueue(7)
    jobs = await worker.take()
    assert [job.payload for job in jobs] == [
        {"n": 1, "text": "x"},
        {"n": 2, "text": ""},
        {"n": 3, "text": ""},
        7,
    ]
    assert app.registry["load"].from_payload(jobs[0].payload) == Row(1, "x")
    assert plain([1, 2]) == 3
    assert [o.value for o in await load([Row(5)])] == [5]


def test_code_that_blocks_enqueues_too(server: Server, prefix: str) -> None:
    """`enqueue_sync` and `enqueue_many_sync` need no loop."""
    app = Bananas(settings=Settings(redis_url=server.url), key_prefix=prefix)

    @app.task
    def t(n: int) -> int:
        return n

    @app.task
    async def u(n: int) -> int:
        return n

    @app.batch_task
    def b(items: list[int]) -> None: ...

    assert t.enqueue_sync(1).status() == "pending"
    assert u.enqueue_sync(1).status() == "pending"
    assert b.enqueue_sync(1).status() == "pending"
    assert t.enqueue_many_sync({"n": n} for n in range(10)).accepted == 10
    assert u.enqueue_many_sync([{"n": 1}]).accepted == 1
    assert b.enqueue_many_sync([1, 2]).accepted == 2
    assert app.sync_client.stats()["accepted"] == 16
    app.sync_client.close()


async def test_fifty_enqueues_share_round_trips(app: Bananas, redis: Redis) -> None:
    """Concurrent enqueues of one application join in few script calls."""

    @app.task
    async def t(n: int) -> None: ...

    await t.enqueue(n=0)
    before = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    await asyncio.gather(*(t.enqueue(n=n) for n in range(50)))
    assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1


# --- the application itself ---------------------------------------------------------------------


def test_tasks_keep_what_functions_have() -> None:
    """A task has its function's name, documentation and module, and shows its own name."""
    app = Bananas()

    @app.task(name="other")
    def documented() -> None:
        """Say something."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "Say something."
    assert repr(documented) == "<SyncTask other>"
    assert "other" in app.registry
    with pytest.raises(FieldError, match="registered already"):
        app.task(name="other")(lambda: None)


def test_wrong_task_options_are_refused_at_once() -> None:
    """A decorator's mistake shows at import."""
    app = Bananas()
    with pytest.raises(FieldError, match="max_retries"):
        app.task(max_retries=0)(lambda: None)
    with pytest.raises(FieldError, match="max_size"):
        app.batch_task(max_size=0)
    with pytest.raises(PayloadTypeError):
        app.task(name="t")(lambda *args: None)  # noqa: ARG005


def test_settings_come_from_arguments_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments win over the environment, which is not read before it is needed."""
    monkeypatch.setenv("BANANAS_MAX_RETRIES", "wrong")
    app = Bananas("redis://one", job_timeout_s=7)
    with pytest.raises(SettingsError, match="MAX_RETRIES"):
        _ = app.settings
    monkeypatch.setenv("BANANAS_MAX_RETRIES", "9")
    monkeypatch.setenv("REDIS_URL", "redis://two")
    assert (app.settings.redis_url, app.settings.max_retries) == ("redis://one", 9)
    assert app.settings.job_timeout_s == 7
    given = Bananas(settings=Settings(max_retries=2), job_timeout_s=8).settings
    assert (given.max_retries, given.job_timeout_s) == (2, 8)
    with pytest.raises(TypeError, match="no_such"):
        _ = Bananas(no_such=1).settings


def test_whoever_starts_a_process_has_the_last_word() -> None:
    """`configure` replaces the settings, for clients made after it."""
    app = Bananas("redis://one")
    assert app.client.settings.redis_url == "redis://one"
    app.configure(Settings(redis_url="redis://two"))
    assert app.client.settings.redis_url == "redis://two"
    assert app.sync_client.settings.redis_url == "redis://two"
    assert app.overrides == {"redis_url": "redis://one"}


async def test_lifespans_wrap_a_process() -> None:
    """Lifespans are entered in the order given and left in the other, of either form."""
    app = Bananas()
    seen: list[str] = []

    @app.lifespan
    async def first() -> AsyncGenerator[None]:
        seen.append("first in")
        yield
        seen.append("first out")

    @app.lifespan
    @asynccontextmanager
    async def second() -> AsyncIterator[None]:
        seen.append("second in")
        yield
        seen.append("second out")

    async with app.process():
        seen.append("work")
    assert seen == ["first in", "second in", "work", "second out", "first out"]


def test_an_application_closes_what_it_opened(server: Server, prefix: str) -> None:
    """Leaving the application ends its connections and its thread."""
    app = Bananas(server.url, key_prefix=prefix)

    @app.task
    async def t() -> None: ...

    async def use() -> None:
        async with app:
            await t.enqueue()
            await asyncio.to_thread(t.enqueue_sync)

    asyncio.run(use())
    deadline = time.monotonic() + 10
    with server.client() as plain:
        while [e for e in plain.client_list() if e["name"] == "bananas-client"]:
            assert time.monotonic() < deadline
