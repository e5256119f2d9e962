"""What becomes of a job, by what its handler returns or asks for, in each kind of handler."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from typing import TYPE_CHECKING, Any

import pytest

from bananas.context import current_job
from bananas.errors import Discard, JobFailedError, Retry, Snooze
from bananas.registry import Outcome
from bananas.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from workbench import Bench

KINDS = ("async", "sync", "inline")


def define(bench: Bench, kind: str, body: Callable[..., Any], **options: Any) -> Any:  # noqa: ANN401
    """Register `body` as a task of one kind."""
    if kind == "async":

        async def handler(**kwargs: Any) -> Any:  # noqa: ANN401
            return body(**kwargs)

        return bench.app.task(name="t", **options)(handler)

    def plain(**kwargs: Any) -> Any:  # noqa: ANN401
        return body(**kwargs)

    return bench.app.task(name="t", inline=kind == "inline", **options)(plain)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_value_is_a_completed_job_with_a_result(bench: Bench, kind: str) -> None:
    """A handler that returns completes its job; the result is what HGETALL shows."""
    task = define(bench, kind, lambda a, b: a + b, result=True)
    await bench.worker()
    job = await task.enqueue(a=1, b=2)
    assert await job.result(timeout_s=5) == 3
    done = await bench.job(job.id)
    assert (done.status, done.attempts, done.error) == ("completed", 1, None)
    stored = bench.result(job.id)
    assert stored[b"status"] == b"completed"
    assert json.loads(stored[b"result"]) == 3
    assert float(stored[b"duration_ms"]) >= 0
    assert 0 < bench.redis.ttl(bench.keys.result(job.id)) <= 3600


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_that_asks_for_no_result_leaves_none(bench: Bench, kind: str) -> None:
    """Without `result=True` nothing but the record is kept."""
    task = define(bench, kind, lambda: 7)
    await bench.worker()
    job = await task.enqueue()
    await bench.status(job.id, "completed")
    assert bench.result(job.id) == {}


@pytest.mark.parametrize(("retention_s", "kept"), [(0, False), (7, True)])
async def test_retention_of_a_task_beats_the_setting(
    bench: Bench, retention_s: int, kept: bool
) -> None:
    """A task's own retention decides how long its completed records stay; 0 deletes at once."""
    task = define(bench, "async", lambda: None, retention_s=retention_s)
    await bench.worker()
    job = await task.enqueue()
    audit = await bench.idle()
    assert audit.counters["completed"] == 1
    ttl_s = bench.redis.ttl(bench.keys.job(job.id))
    assert (0 < ttl_s <= retention_s) if kept else ttl_s == -2


async def test_retention_of_the_settings_holds_where_a_task_says_nothing(
    make_bench: Callable[..., Coroutine[Any, Any, Bench]],
) -> None:
    """`retention_completed_s=0` deletes completed records of tasks without their own."""
    bench = await make_bench(retention_completed_s=0)
    task = define(bench, "async", lambda: None)
    await bench.worker()
    job = await task.enqueue()
    await bench.idle()
    assert not bench.redis.exists(bench.keys.job(job.id))


@pytest.mark.parametrize("kind", KINDS)
async def test_retry_is_charged_and_comes_not_early(bench: Bench, kind: str) -> None:
    """`Retry(delay)` runs the job again after the delay, one attempt charged, reason kept."""
    starts: list[float] = []

    def body() -> int:
        starts.append(time.monotonic())
        if len(starts) == 1:
            raise Retry(0.2, "not yet")
        return current_job().attempt

    task = define(bench, kind, body, result=True)
    bench.warden()
    await bench.worker()
    job = await task.enqueue()
    waiting = await bench.status(job.id, "scheduled", "completed")
    assert waiting.error == "not yet"
    assert await job.result(timeout_s=5) == 2
    assert starts[1] - starts[0] >= 0.2 - 0.001, "Redis counts from the millisecond that has begun"
    assert (await bench.job(job.id)).attempts == 2
    assert (await bench.counters())["retried"] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_snooze_is_not_charged(bench: Bench, kind: str) -> None:
    """`Snooze` runs the job again without an attempt: it may be done without end."""
    attempts: list[int] = []

    def body() -> None:
        attempts.append(current_job().attempt)
        if len(attempts) < 5:
            raise Snooze(0.01)

    task = define(bench, kind, body, max_retries=2)
    bench.warden()
    await bench.worker()
    job = await task.enqueue()
    done = await bench.status(job.id, "completed", "failed")
    assert (done.status, attempts) == ("completed", [1] * 5)
    assert (await bench.counters())["snoozed"] == 4


@pytest.mark.parametrize("kind", KINDS)
async def test_discard_fails_at_once(bench: Bench, kind: str) -> None:
    """`Discard` fails the job whatever attempts are left, with its reason."""

    def body() -> None:
        raise Discard("no use")

    task = define(bench, kind, body, max_retries=9, result=True)
    await bench.worker()
    job = await task.enqueue()
    with pytest.raises(JobFailedError, match="no use"):
        await job.result(timeout_s=5)
    dead = await bench.job(job.id)
    assert (dead.status, dead.attempts, dead.error) == ("failed", 1, "no use")
    assert bench.redis.zscore(bench.keys.dead, job.id) is not None
    assert bench.result(job.id)[b"status"] == b"failed"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failing_job_runs_as_often_as_it_may_and_waits_longer_each_time(
    make_bench: Callable[..., Coroutine[Any, Any, Bench]], kind: str
) -> None:
    """Waits are base * 2^n or longer, never earlier; the last run fails the job for good."""
    bench = await make_bench(retry_base_s=0.05)
    starts: list[float] = []

    def body() -> None:
        starts.append(time.monotonic())
        raise ValueError("broken")

    task = define(bench, kind, body, max_retries=3)
    bench.warden()
    await bench.worker()
    job = await task.enqueue()
    dead = await bench.status(job.id, "failed")
    assert (len(starts), dead.attempts) == (3, 3)
    assert dead.error is not None
    assert dead.error.startswith("ValueError: broken (test_outcomes.py:")
    waits = [after - before for before, after in itertools.pairwise(starts)]
    assert waits[0] >= 0.1
    assert waits[1] >= 0.2


async def test_give_up_on_ends_a_job_at_its_first_such_error(bench: Bench) -> None:
    """A task's retry policy names errors that no retry mends."""

    def body() -> None:
        raise LookupError("gone")

    policy = RetryPolicy(give_up_on=(LookupError,))
    task = define(bench, "async", body, max_retries=9, retry=policy)
    await bench.worker()
    job = await task.enqueue()
    dead = await bench.status(job.id, "failed", "scheduled")
    assert (dead.status, dead.attempts) == ("failed", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay_s", [math.inf, 1e300, 1e12])
async def test_a_delay_beyond_the_calendar_is_cut_not_fatal(
    bench: Bench, kind: str, delay_s: float
) -> None:
    """A handler may name any delay; what no calendar holds is cut, and the worker lives."""

    def body(absurd: bool = False, snooze: bool = False) -> int:
        if absurd:
            raise Snooze(delay_s) if snooze else Retry(delay_s)
        return 1

    task = define(bench, kind, body, result=True)
    await bench.worker(worker_concurrency=1)
    jobs = [await task.enqueue(absurd=True, snooze=snooze) for snooze in (False, True)]
    for job in jobs:
        assert (await bench.status(job.id, "scheduled", "failed")).status == "scheduled"
    assert await (await task.enqueue()).result(timeout_s=5) == 1


def _nest(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class _Awaitable:
    def __await__(self) -> Any:  # noqa: ANN401
        yield


UNSTORABLE: dict[str, Callable[[], Any]] = {
    "set": lambda: {1},
    "object": object,
    "bytes": lambda: b"x",
    "nan": lambda: math.nan,
    "deep": lambda: _nest(100_000),
    "cycle": _cycle,
    "surrogate": lambda: "\ud800",
    "large": lambda: "x" * (2 << 20),
    "huge integer": lambda: 10**5000,
    "awaitable": _Awaitable,
    "key": lambda: {object(): 1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", UNSTORABLE)
async def test_a_result_that_cannot_be_stored_fails_its_job_alone(
    bench: Bench, kind: str, name: str
) -> None:
    """The job is failed with the reason, the worker goes on, nothing is stuck (row 31)."""
    task = define(bench, kind, lambda bad=True: UNSTORABLE[name]() if bad else "fine", result=True)
    await bench.worker(worker_concurrency=1)
    job = await task.enqueue()
    dead = await bench.status(job.id, "failed", "completed")
    if name == "huge integer" and dead.status == "completed":
        return  # JSON has no largest integer
    assert dead.status == "failed"
    assert dead.error is not None
    assert "result cannot be stored" in dead.error
    assert len(dead.error) < 5000
    assert await (await task.enqueue(bad=False)).result(timeout_s=5) == "fine"


@pytest.mark.parametrize("is_async", [True, False])
async def test_each_item_of_a_bunch_has_its_own_verdict(bench: Bench, is_async: bool) -> None:
    """ok, retry, dead and raised verdicts end each item by itself; runs count for each."""
    sizes: list[int] = []
    seen: list[str] = []

    def judge(items: list[dict[str, Any]]) -> list[Any]:
        sizes.append(len(items))
        verdicts: list[Any] = []
        for item in items:
            what = item["what"]
            again = what in seen
            seen.append(what)
            verdicts.append(
                {
                    "ok": Outcome.ok(item["n"]),
                    "none": None,
                    "retry": Outcome.ok("again") if again else Outcome.retry("later", delay_s=0.01),
                    "dead": Outcome.dead("bad row"),
                    "raised": ValueError("as an object"),
                    "nonsense": 17,
                }[what]
            )
        return verdicts

    async def judge_async(items: list[dict[str, Any]]) -> list[Any]:
        await asyncio.sleep(0)
        return judge(items)

    handler = judge_async if is_async else judge
    task = bench.app.batch_task(
        name="b", max_size=10, linger_s=0.05, result=True, max_retries=1000, retention_s=60
    )(handler)  # type: ignore[arg-type]
    bench.warden()
    await bench.worker()
    names = ["ok", "none", "retry", "dead", "nonsense"]
    jobs = {name: await task.enqueue({"what": name, "n": i}) for i, name in enumerate(names)}
    assert await jobs["ok"].result(timeout_s=5) == 0
    assert await jobs["none"].result(timeout_s=5) is None
    assert await jobs["retry"].result(timeout_s=5) == "again"
    assert (await bench.job(jobs["retry"].id)).attempts == 2
    with pytest.raises(JobFailedError, match="bad row"):
        await jobs["dead"].result(timeout_s=5)
    with pytest.raises(JobFailedError, match="answered int, not Outcome"):
        await jobs["nonsense"].result(timeout_s=5)
    raised = await task.enqueue({"what": "raised", "n": 0})
    assert (await bench.status(raised.id, "scheduled")).error == "ValueError: as an object"
    assert max(sizes) > 1


@pytest.mark.parametrize("answer", [[], [None] * 3, "text", 5])
async def test_a_batch_handler_that_miscounts_fails_a_run_of_every_item(
    bench: Bench, answer: object
) -> None:
    """An answer that is not one verdict an item is an error of the whole call."""

    async def judge(_items: list[Any]) -> object:
        return answer

    task = bench.app.batch_task(name="b", linger_s=0.02, max_retries=1)(judge)
    await bench.worker()
    jobs = [await task.enqueue(i) for i in range(2)]
    for job in jobs:
        dead = await bench.status(job.id, "failed", "completed")
        assert dead.status == "failed"
        assert "verdicts" in str(dead.error)


async def test_a_payload_that_does_not_fit_is_dead_alone(bench: Bench) -> None:
    """Arguments of another form than the handler's fail that job; its neighbours run."""

    async def wants(a: int) -> int:
        return a

    task = bench.app.task(name="t", result=True, max_retries=1)(wants)
    await bench.worker()
    broken = [
        (await bench.app.client.submit("t", payload, max_retries=1)).id
        for payload in ([1], "text", {"b": 2}, {"a": 1, "b": 2}, None, 5)
    ]
    good = await task.enqueue(a=3)
    assert await good.result(timeout_s=5) == 3
    for job_id in broken:
        assert (await bench.status(job_id, "failed")).error
