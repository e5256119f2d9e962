"""Records that others wrote: SET and LPUSH, in any form, right or wrong (rows 32, 33)."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bananas.clock import SYSTEM_CLOCK
from bananas.ids import IdMaker
from bananas.job import PROTOCOL
from bananas.keys import place
from bananas.worker.outcomes import UNCLAIMED_TRIES
from workbench import until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from workbench import Bench

_ids = IdMaker(SYSTEM_CLOCK)


def foreign(name: str = "t", **fields: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401
    """Return an id and a record as the reference writes it."""
    job_id = fields.pop("id", _ids.new_id())
    record: dict[str, Any] = {
        "payload": {"n": 1},
        "id": job_id,
        "status": "pending",
        "name": name,
        "description": "text",
        "priority": "normal",
        "routing_key": "default",
        "created_at": "2026-11-24T02:53:15.123456789+01:00",
        "updated_at": "2026-11-24T02:53:15+01:00",
        "scheduled_for": None,
        "attempts": 0,
        "max_retries": 3,
        "error": None,
    }
    record.update(fields)
    return job_id, record


@pytest.fixture
def seen(bench: Bench) -> list[Any]:
    """Return what the task `t` was given so far."""
    calls: list[Any] = []

    async def t(**payload: Any) -> int:  # noqa: ANN401
        calls.append(payload)
        if payload.get("fail"):
            raise ValueError("again")
        return 7

    bench.app.task(name="t", result=True)(t)
    return calls


@pytest.mark.parametrize("form", ["compact", "spaced", "escaped", "reversed"])
async def test_a_foreign_job_runs_like_our_own(bench: Bench, seen: list[Any], form: str) -> None:
    """Whatever its order and spacing: it runs, and its end is readable by GET and HGETALL."""
    job_id, record = foreign(payload={"n": "é", "deep": {"id": "x", "list": "y"}}, extra=[1, {}])
    if form == "reversed":
        record = dict(reversed(record.items()))
    text = json.dumps(
        record,
        indent=2 if form == "spaced" else None,
        ensure_ascii=form == "escaped",
        separators=(",", ":") if form == "compact" else None,
    )
    bench.push(text.encode(), job_id)
    await bench.worker()
    done = await bench.status(job_id, "completed", "failed")
    assert (done.status, done.attempts) == ("completed", 1)
    assert seen == [{"n": "é", "deep": {"id": "x", "list": "y"}}]
    stored = json.loads(bench.redis.get(bench.keys.job(job_id)))  # type: ignore[arg-type]
    assert stored["extra"] == [1, {}]
    assert stored["payload"] == record["payload"]
    assert bench.result(job_id)[b"result"] == b"7"
    assert (await bench.counters())["accepted"] == 1


async def test_a_record_without_a_payload_has_no_arguments(bench: Bench) -> None:
    """Id and name suffice; `null` is another thing, and no arguments."""
    seen: list[str] = []

    async def tick() -> None:
        seen.append("tick")

    bench.app.task(name="tick")(tick)
    for rest, end in ("", "completed"), (',"max_retries":1,"payload":null', "failed"):
        job_id = _ids.new_id()
        bench.push(f'{{"id":"{job_id}","name":"tick"{rest}}}'.encode(), job_id)
        if not seen:
            await bench.worker()
        await bench.status(job_id, end)
    assert seen == ["tick"]


async def test_unknown_members_outlive_a_retry_and_the_end(bench: Bench, seen: list[Any]) -> None:
    """What we do not know is kept byte for byte through every rewrite."""
    odd = '"x-trace":{"a":[1.50,1e3,"\\u00e9"]},"big":12345678901234567890123'
    job_id = _ids.new_id()
    text = f'{{{odd},"id":"{job_id}","name":"t","payload":{{"fail":true}},"max_retries":2}}'
    bench.push(text.encode(), job_id)
    bench.warden()
    await bench.worker(retry_base_s=0.01)
    await bench.status(job_id, "failed")
    assert len(seen) == 2
    assert odd.encode() in bench.redis.get(bench.keys.job(job_id))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"routing_key": "gpu"}, place("high", "gpu")),
        ({"routing_key": "gpu", "priority": "low"}, place("low", "gpu")),
        ({"priority": "low"}, place("low")),
    ],
)
async def test_a_job_in_the_wrong_list_reaches_its_own(
    bench: Bench, seen: list[Any], fields: dict[str, str], where: str
) -> None:
    """A routing key or a priority in the record beats the list that it was pushed to."""
    fields = {"priority": "high", **fields}
    job_id, record = foreign(**fields)
    bench.push(json.dumps(record).encode(), job_id, place("normal"))
    await bench.worker()
    if fields.get("routing_key") == "gpu":
        await until(
            lambda: bench.redis.lrange(bench.keys.waiting(where), 0, -1) == [job_id.encode()]
        )
        assert seen == []
        await bench.worker(worker_routing_keys=("gpu",))
    await bench.status(job_id, "completed")
    assert len(seen) == 1


async def test_a_worker_of_one_key_finds_its_foreign_jobs_in_the_default_list(
    bench: Bench, seen: list[Any]
) -> None:
    """A worker that serves only `gpu` sorts the default lists and leaves the rest in order."""
    mine, record = foreign(routing_key="gpu")
    others = [foreign() for _ in range(3)]
    for job_id, other in others[:2]:
        bench.push(json.dumps(other).encode(), job_id)
    bench.push(json.dumps(record).encode(), mine)
    bench.push(json.dumps(others[2][1]).encode(), others[2][0])
    gpu = await bench.worker(worker_routing_keys=("gpu",))
    await bench.status(mine, "completed")
    assert len(seen) == 1
    await gpu.stop()
    waiting = [
        *bench.redis.lrange(bench.keys.waiting(place("normal")), 0, -1),  # type: ignore[misc]
        *bench.redis.lrange(bench.keys.sorted(place("normal")), 0, -1),  # type: ignore[misc]
    ]
    assert waiting == [job_id.encode() for job_id, _ in reversed(others)]
    await bench.worker()
    await bench.idle()


async def test_a_fractional_time_schedules_a_foreign_job(bench: Bench, seen: list[Any]) -> None:
    """`ZADD queue:scheduled <unix s with fraction>` is due then, and not before."""
    job_id, record = foreign(status="scheduled")
    due_s = SYSTEM_CLOCK.real_us() / 1e6 + 0.35
    record["scheduled_for"] = datetime.fromtimestamp(due_s, UTC).isoformat()
    bench.redis.set(bench.keys.job(job_id), json.dumps(record))
    bench.redis.zadd(bench.keys.scheduled, {job_id: due_s})
    bench.warden()
    await bench.worker()
    await bench.status(job_id, "completed")
    assert SYSTEM_CLOCK.real_us() / 1e6 >= due_s
    assert len(seen) == 1


BROKEN: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "no JSON": b"\x80\x04\x95pickle",
    "array": b"[1,2]",
    "truncated": b'{"id":"ID","name":"t","payload":{"a":',
    "no name": b'{"id":"ID","payload":{}}',
    "other id": b'{"id":"somebody","name":"t","payload":{}}',
    "number as name": b'{"id":"ID","name":5}',
    "odd priority": b'{"id":"ID","name":"t","priority":"urgent"}',
    "odd routing key": b'{"id":"ID","name":"t","routing_key":"a b"}',
    "odd status": b'{"id":"ID","name":"t","status":"sleeping"}',
    "negative attempts": b'{"id":"ID","name":"t","attempts":-1}',
    "huge attempts": b'{"id":"ID","name":"t","attempts":99999999999999999999}',
    "deep": b'{"id":"ID","name":"t","payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nul": b'{"id":"ID","name":"t","payload":"\x00"}',
    "odd time": b'{"id":"ID","name":"t","expires_at":"tomorrow"}',
    "infinite timeout": b'{"id":"ID","name":"t","timeout_s":1e999}',
    "negative timeout": b'{"id":"ID","name":"t","timeout_s":-1}',
    "ours but broken": b'{"id":"ID","name":"t","payload":{,"list":"queue:normal"}',
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_record_is_dead_alone_with_its_bytes(
    bench: Bench, seen: list[Any], name: str
) -> None:
    """It goes to the dead-letter queue as it is; the jobs around it run."""
    before, after = foreign(), foreign()
    job_id = _ids.new_id()
    record = BROKEN[name]
    if record is not None:
        record = record.replace(b"ID", job_id.encode())
    bench.push(json.dumps(before[1]).encode(), before[0])
    bench.push(record, job_id)
    bench.push(json.dumps(after[1]).encode(), after[0])
    await bench.worker()
    await bench.status(before[0], "completed")
    await bench.status(after[0], "completed")
    await until(lambda: bench.redis.zscore(bench.keys.dead, job_id) is not None)
    assert len(seen) == 2
    if record:
        assert bench.redis.get(bench.keys.job(job_id)) == record
    assert bench.result(job_id)[b"status"] == b"failed"
    if name in ("ours but broken", "missing"):
        bench.drift_allowed = 1  # it counts as one of ours, which was counted when it came


HOSTILE: dict[str, bytes] = {
    "NaN": b'{"n":NaN}',
    "Infinity": b'{"n":-Infinity}',
    "beyond a double": b'{"n":1e400}',
    "a hundred thousand digits": b'{"n":' + b"9" * 100_000 + b"}",
    "wrong UTF-8": b'{"n":"\xff\xfe"}',
    "half a surrogate": b'{"n":"\\ud800"}',
    "nul": b'{"n":"\x00"}',
    "escaped nul": b'{"n":"\\u0000"}',
    "a member twice": b'{"n":1,"n":2}',
    "minus zero": b'{"n":-0}',
    "single quotes": b"{'n':1}",
    "a comment": b'{"n":1/**/}',
    "array": b"[1]",
    "text": b'"n"',
    "binary": bytes(range(256)),
}
RUNS = ("escaped nul", "a member twice", "minus zero")


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_payload_is_dead_alone_with_its_bytes(
    bench: Bench, seen: list[Any], name: str
) -> None:
    """What is no JSON for a handler costs that job alone, and can be looked at as it came."""
    payload = HOSTILE[name]
    before, after = foreign(), foreign()
    job_id = _ids.new_id()
    bench.push(json.dumps(before[1]).encode(), before[0])
    bench.push(b'{"id":"%b","name":"t","payload":%b}' % (job_id.encode(), payload), job_id)
    bench.push(json.dumps(after[1]).encode(), after[0])
    await bench.worker()
    await bench.status(before[0], "completed")
    await bench.status(after[0], "completed")
    await until(lambda: bench.result(job_id) != {})
    status = b"completed" if name in RUNS else b"failed"
    assert bench.result(job_id)[b"status"] == status
    assert len(seen) == 2 + (name in RUNS)
    kept: Any = bench.redis.get(bench.keys.job(job_id))
    assert payload in kept


@pytest.mark.parametrize(
    "job_id", [b"\xff\xfe\x00", b"x" * 300, b"a b\r\nc", "ключ".encode(), b"", b"a:{b}"]
)
async def test_an_id_may_be_any_bytes(bench: Bench, seen: list[Any], job_id: bytes) -> None:
    """An id that no producer of ours would make ends, one way or the other; others run."""
    name = job_id.decode("utf-8", "replace")
    bench.push(json.dumps(foreign(id=name)[1]).encode(), job_id)
    after = foreign()
    bench.push(json.dumps(after[1]).encode(), after[0])
    worker = await bench.worker()
    await bench.status(after[0], "completed")
    await bench.idle()
    assert not worker.worker.broken.is_set()
    ended = bench.redis.zscore(bench.keys.dead, job_id) is not None
    assert ended != (len(seen) == 2)


@pytest.mark.parametrize("kind", ["hash", "list", "zset"])
async def test_a_record_key_of_another_type_is_a_missing_record(
    bench: Bench, seen: list[Any], kind: str
) -> None:
    """A key of a wrong type under a record's name fails that job alone (row 43)."""
    job_id, after = _ids.new_id(), foreign()
    key = bench.keys.job(job_id)
    if kind == "hash":
        bench.redis.hset(key, "a", "b")
    elif kind == "list":
        bench.redis.lpush(key, "a")
    else:
        bench.redis.zadd(key, {"a": 1})
    bench.redis.lpush(bench.keys.waiting(place("normal")), job_id)
    bench.push(json.dumps(after[1]).encode(), after[0])
    await bench.worker()
    await bench.status(after[0], "completed")
    await until(lambda: bench.redis.zscore(bench.keys.dead, job_id) is not None)
    assert len(seen) == 1
    bench.drift_allowed = 1  # it counts as one of ours whose record was taken away


@pytest.mark.parametrize("claimed", ["queue:scheduled", "counters", "queue:dead", "nowhere", ""])
async def test_a_foreign_place_is_not_believed(bench: Bench, claimed: str) -> None:
    """A record that ends in a `list` of its own is given back to where it belongs."""
    started = asyncio.Event()

    async def t(**_: object) -> None:
        started.set()
        await asyncio.sleep(30)

    bench.app.task(name="t")(t)
    job_id, record = foreign()
    record["list"] = claimed
    bench.push(json.dumps(record, separators=(",", ":")).encode(), job_id)
    worker = await bench.worker()
    await asyncio.wait_for(started.wait(), 5)
    await worker.stop(0.0)
    assert bench.redis.lrange(bench.keys.waiting(place("normal")), 0, -1) == [job_id.encode()]
    bench.drift_allowed = 1


async def test_a_job_pushed_twice_runs_once(bench: Bench, seen: list[Any]) -> None:
    """An id that lies in a list twice is one job, whatever order its copies are met in."""
    job_id, record = foreign()
    bench.push(json.dumps(record).encode(), job_id)
    bench.redis.lpush(bench.keys.waiting(place("normal")), job_id)
    await bench.worker()
    await bench.status(job_id, "completed")
    await until(lambda: bench.redis.llen(bench.keys.waiting(place("normal"))) == 0)
    assert len(seen) == 1


async def test_an_unknown_task_is_left_to_others_and_fails_in_the_end(bench: Bench) -> None:
    """It is given back with a growing delay, uncharged; after some tries it has a reason."""

    async def known() -> None:
        """Do nothing."""

    bench.app.task(known)
    await bench.worker()
    job = await bench.app.client.submit("unknown")
    now = datetime.now(UTC)
    back = await bench.status(job.id, "scheduled")
    assert (back.unclaimed, back.attempts) == (1, 0)
    assert datetime.fromisoformat(str(back.scheduled_for)) - now >= timedelta(seconds=1.9)
    job_id, record = foreign("unknown", unclaimed=UNCLAIMED_TRIES)
    bench.push(json.dumps(record).encode(), job_id)
    dead = await bench.status(job_id, "failed")
    assert dead.attempts == 0
    assert 'no worker knows task "unknown"' in str(dead.error)


async def test_an_unknown_task_runs_where_it_is_known(
    make_bench: Callable[..., Coroutine[Any, Any, Bench]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a rolling deploy the newer worker takes what the older one gave back."""
    monkeypatch.setattr("bananas.worker.outcomes.UNCLAIMED_DELAY_S", 0.05)
    bench = await make_bench()
    old, new = bench.app, type(bench.app)(settings=bench.settings)

    async def either() -> None:
        """Do nothing."""

    async def newer() -> int:
        return 2

    old.task(either)
    new.task(either)
    task = new.task(name="newer", result=True)(newer)
    bench.warden()
    await bench.worker(old)
    job = await task.enqueue()
    await bench.status(job.id, "scheduled")
    await bench.worker(new)
    assert await job.result(timeout_s=10) == 2
    await new.aclose()


async def test_a_cancelled_job_is_let_go_when_it_is_met(bench: Bench, seen: list[Any]) -> None:
    """Cancelled while it waits: it never runs, and nothing of it stays behind."""
    job = await bench.app.client.submit("t", {"n": 1})
    await bench.app.client.cancel(job.id)
    other = await bench.app.client.submit("t", {"n": 2})
    await bench.worker()
    await bench.status(other.id, "completed")
    assert seen == [{"n": 2}]
    audit = await bench.idle()
    assert (audit.cancelled_waiting, audit.counters["cancelled"]) == (0, 1)
    assert (await bench.job(job.id)).status == "cancelled"


async def test_an_expired_job_is_dropped_and_counted(bench: Bench, seen: list[Any]) -> None:
    """`expires_at` in the past: it is not begun; in the future: it runs."""
    now = datetime.now(UTC)
    late = await bench.app.client.submit("t", {"n": 1}, expires_at=now - timedelta(seconds=1))
    fresh = await bench.app.client.submit("t", {"n": 2}, expires_at=now + timedelta(seconds=60))
    await bench.worker()
    await bench.status(fresh.id, "completed")
    dropped = await bench.status(late.id, "cancelled")
    assert dropped.error == "expired before it began"
    assert seen == [{"n": 2}]
    assert (await bench.counters())["expired"] == 1


def of_next_protocol(**fields: Any) -> tuple[str, bytes]:  # noqa: ANN401
    """Return an id and a record as a later version may write it, in our list."""
    job_id, record = foreign(**fields)
    record |= {"protocol": PROTOCOL + 1, "list": place("normal")}
    return job_id, json.dumps(record, separators=(",", ":")).encode()


async def test_a_newer_record_is_left_to_newer_workers(
    bench: Bench, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back as it is, uncharged, for a while: in a rolling deploy others know it (row 34)."""
    job_id, record = of_next_protocol()
    bench.push(record, job_id)
    other, plain = foreign()
    bench.push(json.dumps(plain).encode(), other)
    await bench.worker()
    bench.warden()
    await bench.status(other, "completed")
    await until(lambda: bench.redis.zscore(bench.keys.scheduled, job_id) is not None)
    assert bench.redis.get(bench.keys.job(job_id)) == record
    assert len(seen) == 1
    monkeypatch.setattr("bananas.job.PROTOCOL", PROTOCOL + 1)  # the fleet has been upgraded
    done = await bench.status(job_id, "completed")
    assert (done.attempts, done.unclaimed, done.crashes) == (1, 0, 0)
    assert done.to_dict()["protocol"] == 2
    bench.drift_allowed = 1  # it looks like one of ours, which would have been counted
    assert len(seen) == 2


@pytest.mark.parametrize("status", ["cancelled", "completed"])
async def test_a_newer_record_that_has_ended_is_let_go(
    bench: Bench, seen: list[Any], status: str
) -> None:
    """Its id lies there for nothing: it is not moved to and fro for ever."""
    job_id, record = of_next_protocol(status=status)
    bench.push(record, job_id)
    other, plain = foreign()
    bench.push(json.dumps(plain).encode(), other)
    await bench.worker()
    await bench.status(other, "completed")
    await until(lambda: not bench.redis.keys(f"{bench.keys.prefix}:queue:processing:lease:*"))
    assert bench.redis.zscore(bench.keys.scheduled, job_id) is None
    assert bench.redis.llen(bench.keys.waiting(place("normal"))) == 0
    assert bench.redis.get(bench.keys.job(job_id)) == record
    assert len(seen) == 1


GOLDEN = Path(__file__).parents[2] / "golden"


async def test_every_record_of_every_protocol_so_far_runs(bench: Bench) -> None:
    """What earlier versions and other languages left in Redis is worked off by this one."""
    lines = [
        line for path in GOLDEN.glob("records_*.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(lines) >= 8
    bench.app.task(name="t")(_anything)
    ids = []
    for line in lines:
        known = json.loads(line)
        ids.append(known["members"]["id"])
        bench.push(
            known["record"].encode(),
            ids[-1],
            "route:gpu:queue:high" if "gpu" in line else place("normal"),
        )
    await bench.worker(worker_routing_keys=("default", "gpu"))
    bench.warden()  # brings back what lies in a list that nobody serves
    for job_id in ids:
        assert (await bench.status(job_id, "completed", "failed")).status == "completed"
    bench.drift_allowed = sum(json.loads(line)["ours"] for line in lines)


async def _anything(**payload: object) -> None:
    del payload
