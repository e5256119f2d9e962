"""One job over HTTP: submitted, repeated, shown, waited for, cancelled, retried."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from bananas.http.idempotency import derived_id
from bananas.producer import Producer

if TYPE_CHECKING:
    from redis import Redis

    from bananas.broker import Entry
    from bananas.producer import Draft
    from conftest import Api, MakeApi

JSON = {"content-type": "application/json"}


async def test_a_job_is_accepted_with_its_record(api: Api, redis: Redis, prefix: str) -> None:
    """The answer to a submission is 201, the stored record without its place, and a location."""
    answer = await api.http.post("/jobs", json={"name": "resize", "payload": {"n": 1}})
    record = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/jobs/{record['id']}"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    stored = json.loads(redis.get(f"{prefix}:job:{record['id']}"))
    assert stored.pop("list") == "queue:normal"
    assert record == stored
    assert list(record) == list(stored)
    assert record["status"] == "pending"
    assert redis.lrange(f"{prefix}:queue:normal", 0, -1) == [record["id"].encode()]


async def test_a_job_that_is_gone_by_the_answer_was_accepted(
    api: Api, redis: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that a worker has ended and deleted before the answer was accepted all the same."""
    submit = Producer.submit

    async def submit_and_lose(producer: Producer, draft: Draft) -> Entry:
        entry = await submit(producer, draft)
        redis.delete(f"{prefix}:job:{entry.job_id}")
        return entry

    monkeypatch.setattr(Producer, "submit", submit_and_lose)
    answer = await api.http.post("/jobs", json={"name": "resize", "payload": {"n": 1}})
    assert not redis.exists(f"{prefix}:job:{answer.json()['id']}")
    assert (answer.status_code, answer.json()["status"]) == (201, "pending")


async def test_every_field_reaches_the_record(api: Api) -> None:
    """What a submission says beside its payload stands in the record."""
    said = {
        "id": "mine:1",
        "name": "resize",
        "payload": [1, {"a": None}],
        "priority": "high",
        "routing_key": "gpu",
        "description": "für Menschen",
        "scheduled_for": "2099-01-01T01:00:00+01:00",
        "max_retries": 7,
        "timeout_s": 2.5,
        "result": True,
        "expires_at": "2099-02-01T00:00:00Z",
    }
    answer = await api.http.post("/jobs", json=said)
    record = answer.json()
    assert answer.status_code == 201
    written = {"scheduled_for": "2099-01-01T00:00:00.000000Z"}
    written |= {"expires_at": "2099-02-01T00:00:00.000000Z"}
    assert {field: record[field] for field in said} == said | written
    assert record["status"] == "scheduled"


async def test_a_delay_makes_a_scheduled_job(api: Api) -> None:
    """A job with `delay_s` waits for its time."""
    record = (await api.http.post("/jobs", json={"name": "t", "delay_s": 60})).json()
    assert record["status"] == "scheduled"
    assert (await api.http.get(f"/jobs/{record['id']}")).json()["status"] == "scheduled"


async def test_a_payload_comes_back_exactly(api: Api) -> None:
    """Integers of any size, text of any script and nested values survive both ways."""
    body = '{"name":"t","payload":{"n":123456789012345678901234567890,"s":"ä\\u0000\U0001f34c"}}'
    answer = await api.http.post("/jobs", content=body.encode(), headers=JSON)
    assert answer.status_code == 201
    shown = await api.http.get(answer.headers["location"])
    assert shown.json()["payload"] == json.loads(body)["payload"]


FIELD_RULES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "name", "is required"),
    ({"name": None}, "name", "is required"),
    ({"name": 1}, "name", "must be a string"),
    ({"name": ""}, "name", "must match ^[A-Za-z0-9._:-]{1,128}$"),
    ({"name": "a b"}, "name", "must match ^[A-Za-z0-9._:-]{1,128}$"),
    ({"name": "a\r\nb"}, "name", "must match ^[A-Za-z0-9._:-]{1,128}$"),
    ({"name": "x" * 129}, "name", "must match ^[A-Za-z0-9._:-]{1,128}$"),
    ({"name": "t", "priority": "urgent"}, "priority", "must be one of high, normal, low"),
    ({"name": "t", "priority": []}, "priority", "must be one of high, normal, low"),
    ({"name": "t", "routing_key": "a.b"}, "routing_key", "must match ^[A-Za-z0-9_-]{1,64}$"),
    ({"name": "t", "routing_key": 3}, "routing_key", "must be a string"),
    ({"name": "t", "description": 3}, "description", "must be a string"),
    ({"name": "t", "description": "x" * 4097}, "description", "must be at most 4096 characters"),
    (
        {"name": "t", "scheduled_for": "tomorrow"},
        "scheduled_for",
        "must be an RFC 3339 time with an offset",
    ),
    ({"name": "t", "scheduled_for": 5}, "scheduled_for", "must be a string"),
    ({"name": "t", "delay_s": -1}, "delay_s", "must be from 0 to 3.1536e+08 seconds"),
    ({"name": "t", "delay_s": True}, "delay_s", "must be a number of seconds"),
    (
        {"name": "t", "delay_s": 1, "scheduled_for": "2099-01-01T00:00:00Z"},
        "delay_s",
        "must not be given together with scheduled_for",
    ),
    ({"name": "t", "max_retries": 1.5}, "max_retries", "must be an integer"),
    ({"name": "t", "max_retries": -1}, "max_retries", "must be from 0 to 1000000"),
    ({"name": "t", "id": "a/b"}, "id", "must match ^[A-Za-z0-9._:-]{1,128}$"),
    ({"name": "t", "timeout_s": 0}, "timeout_s", "must be from 0.001 to 3.16224e+07 seconds"),
    ({"name": "t", "result": "yes"}, "result", "must be true or false"),
    (
        {"name": "t", "expires_at": "2099-01-01"},
        "expires_at",
        "must be an RFC 3339 time with an offset",
    ),
    ({"name": "t", "payload": {"a": [[]] * 2, "deep": [[[[[]]]]]}}, "payload", "nested deeper"),
]


async def test_a_field_that_breaks_its_rule_is_named(make_api: MakeApi) -> None:
    """A bad field is a 422 problem with the field and the rule; nothing is stored."""
    async with make_api(max_depth=5) as api:
        for members, field, rule in FIELD_RULES:
            answer = await api.http.post("/jobs", json=members)
            problem = answer.json()
            assert answer.status_code == 422, members
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["type"] == "urn:bananas:problem:invalid-field"
            assert problem["status"] == 422
            assert problem["title"]
            assert problem["field"] == field
            assert problem["rule"].startswith(rule)
            assert problem["detail"] == f"{field}: {problem['rule']}"
        assert (await api.client.stats()).get("accepted", 0) == 0


async def test_an_unknown_field_is_refused_by_name(api: Api) -> None:
    """A field that nobody knows is an error, its name cut when it is long."""
    answer = await api.http.post("/jobs", json={"name": "t", "x" * 1000: 1})
    assert answer.status_code == 422
    assert answer.json()["field"] == "x" * 128
    assert answer.json()["rule"].startswith("unknown field; known are")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "malformed-json"),
        (b"{", "malformed-json"),
        (b'{"name": NaN}', "malformed-json"),
        (b'{"name": "\xff"}', "malformed-json"),
        (b'{"name": "\\ud800"}', "malformed-json"),
        (b'{"name":"t","payload":' + b"9" * 5000 + b"}", "malformed-json"),
        (b"[" * 100_000, "malformed-json"),
        (b"[]", "invalid-field"),
        (b"1", "invalid-field"),
        (b"null", "invalid-field"),
    ],
)
async def test_what_is_no_json_object_is_no_job(api: Api, body: bytes, why: str) -> None:
    """A body that is not JSON, or not an object, is refused with the reason."""
    answer = await api.http.post("/jobs", content=body, headers=JSON)
    assert answer.status_code == (400 if why == "malformed-json" else 422)
    assert answer.json()["type"] == f"urn:bananas:problem:{why}"
    assert answer.json()["detail"]


async def test_an_id_is_taken_once(api: Api) -> None:
    """A second job of the same id is a 409 that names it."""
    job = {"name": "t", "id": "one"}
    assert (await api.http.post("/jobs", json=job)).status_code == 201
    answer = await api.http.post("/jobs", json=job)
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:bananas:problem:duplicate-job"
    assert answer.json()["id"] == "one"


async def test_jobs_submitted_together_are_all_stored(api: Api) -> None:
    """A hundred concurrent requests make a hundred jobs, each answered with its own record."""
    answers = await asyncio.gather(
        *(api.http.post("/jobs", json={"name": "t", "payload": n}) for n in range(100))
    )
    assert [a.json()["payload"] for a in answers] == list(range(100))
    assert len({a.json()["id"] for a in answers}) == 100
    assert (await api.client.stats())["accepted"] == 100


# --- repeats --------------------------------------------------------------------------------------


async def test_a_repeat_under_the_same_key_finds_the_job(api: Api) -> None:
    """The second request with a key is answered 200 with the first one's job; there is one job."""
    job = {"name": "t", "payload": {"a": 1, "b": [1.0]}}
    first = await api.http.post("/jobs", json=job, headers={"idempotency-key": "k-1"})
    again = await api.http.post("/jobs", json=job, headers={"idempotency-key": '"k-1"'})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert first.json()["id"] == derived_id(b"k-1")
    assert (await api.client.stats())["accepted"] == 1


async def test_repeats_at_the_same_time_make_one_job(api: Api) -> None:
    """Of twenty concurrent requests with one key, one is 201 and the others are 200."""
    headers = {"idempotency-key": "same"}
    answers = await asyncio.gather(
        *(api.http.post("/jobs", json={"name": "t"}, headers=headers) for _ in range(20))
    )
    assert sorted(a.status_code for a in answers) == [200] * 19 + [201]
    assert len({a.json()["id"] for a in answers}) == 1


async def test_a_repeat_after_the_end_shows_the_end(api: Api) -> None:
    """A repeat finds the job in whatever state it is by then."""
    headers = {"idempotency-key": "k"}
    first = await api.http.post("/jobs", json={"name": "t"}, headers=headers)
    await api.finish(first.json()["id"])
    again = await api.http.post("/jobs", json={"name": "t"}, headers=headers)
    assert again.status_code == 200
    assert again.json()["status"] == "completed"


@pytest.mark.parametrize(
    "other",
    [{"name": "u"}, {"name": "t", "payload": [2]}, {"name": "t", "priority": "low"}],
    ids=["name", "payload", "priority"],
)
async def test_a_key_belongs_to_one_job(api: Api, other: dict[str, Any]) -> None:
    """Another job under a key that is taken is a 422, and is not made."""
    headers = {"idempotency-key": "k"}
    await api.http.post("/jobs", json={"name": "t", "payload": [1]}, headers=headers)
    answer = await api.http.post("/jobs", json={"payload": [1], **other}, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:bananas:problem:idempotency-key-reused"
    assert (await api.client.stats())["accepted"] == 1


@pytest.mark.parametrize("key", ["", "a b", 'a"b', "x" * 256, "ü"])
async def test_a_key_that_breaks_its_rule_is_refused(api: Api, key: str) -> None:
    """An idempotency key has 1 to 255 visible ASCII characters."""
    answer = await api.http.post(
        "/jobs", json={"name": "t"}, headers=[("idempotency-key", key.encode("latin-1"))]
    )
    assert answer.status_code == 400
    assert answer.json()["field"] == "Idempotency-Key"


async def test_a_key_and_an_id_exclude_each_other(api: Api) -> None:
    """A request says in one way only which job it means."""
    answer = await api.http.post(
        "/jobs", json={"name": "t", "id": "x"}, headers={"idempotency-key": "k"}
    )
    assert answer.status_code == 422
    assert answer.json()["field"] == "id"


# --- waiting --------------------------------------------------------------------------------------


async def test_submit_and_wait_answers_with_the_end(api: Api) -> None:
    """With `wait_s` the answer comes when the job has ended, with its result."""
    asked = asyncio.create_task(
        api.http.post("/jobs?wait_s=10", json={"name": "t", "id": "waited"})
    )
    while (await api.client.get_jobs(["waited"]))[0] is None:  # noqa: ASYNC110 - a store
        await asyncio.sleep(0.005)
    await api.finish("waited", result=b'{"sum":3}')
    answer = await asked
    assert answer.status_code == 201
    record = answer.json()
    assert record["status"] == "completed"
    assert record["result"] is True
    assert record["outcome"]["status"] == "completed"
    assert record["outcome"]["result"] == {"sum": 3}
    assert record["outcome"]["duration_ms"] == 1.5


async def test_submit_and_wait_ends_with_its_time(api: Api) -> None:
    """When the time is over the answer has no outcome, and the job goes on."""
    answer = await api.http.post("/jobs?wait_s=0.05", json={"name": "t"})
    assert answer.status_code == 201
    assert answer.json()["outcome"] is None
    assert answer.json()["status"] == "pending"


async def test_a_long_poll_returns_with_the_result(api: Api) -> None:
    """A result that is asked for early is delivered when it is there."""
    job = await api.client.submit("t", result=True)
    asked = asyncio.create_task(api.http.get(f"/jobs/{job.id}/result?wait_s=10"))
    await asyncio.sleep(0)
    await api.finish(job.id, result=b"[1,2]")
    answer = await asked
    assert answer.status_code == 200
    assert answer.json()["result"] == [1, 2]
    assert answer.json()["job_id"] == job.id


async def test_a_result_that_is_not_there_yet_is_202(api: Api) -> None:
    """Without an end the answer says how the job stands."""
    job = await api.client.submit("t")
    for query in ("", "?wait_s=0.05"):
        answer = await api.http.get(f"/jobs/{job.id}/result{query}")
        assert answer.status_code == 202
        assert answer.json() == {"job_id": job.id, "status": "pending"}


async def test_a_failure_is_a_result(api: Api) -> None:
    """A failed job's end is delivered with its error."""
    (job_id,) = await api.bury(1, error="no disk")
    answer = await api.http.get(f"/jobs/{job_id}/result")
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"] == "no disk"


@pytest.mark.parametrize("wait_s", ["-1", "61", "x", "", "nan", "1_0", " 1", "1e999"])
async def test_a_wait_is_a_bounded_number(api: Api, wait_s: str) -> None:
    """`wait_s` is 0 to 60; anything else is refused, on both routes that take it."""
    for answer in (
        await api.http.post("/jobs", json={"name": "t"}, params={"wait_s": wait_s}),
        await api.http.get("/jobs/x/result", params={"wait_s": wait_s}),
    ):
        assert answer.status_code == 400
        assert answer.json()["field"] == "wait_s"


async def test_whoever_hangs_up_is_not_waited_for(api: Api) -> None:
    """A long poll whose caller is gone ends: the server stops without waiting for it."""
    job = await api.client.submit("t", result=True)
    _, writer = await api.connect()
    writer.write(
        f"GET /jobs/{job.id}/result?wait_s=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    await writer.drain()
    writer.transport.abort()
    await asyncio.sleep(0)
    api.stop.set()
    async with asyncio.timeout(5):
        await api.done


# --- looking and changing -------------------------------------------------------------------------


async def test_a_job_shows_its_live_status(api: Api) -> None:
    """The status is where the job is now, whatever its record said last."""
    job = await api.client.submit("t")
    assert (await api.http.get(f"/jobs/{job.id}")).json()["status"] == "pending"
    await api.finish(job.id)
    assert (await api.http.get(f"/jobs/{job.id}")).json()["status"] == "completed"


async def test_a_foreign_record_is_shown_as_it_is(api: Api, redis: Redis, prefix: str) -> None:
    """A foreign producer's job keeps its unknown members; broken payloads become text."""
    redis.set(f"{prefix}:job:f", b'{"payload" : {"a" :1}, "name":"t","tag":"x","id":"f"}')
    redis.lpush(f"{prefix}:queue:normal", "f")
    record = (await api.http.get("/jobs/f")).json()
    assert record["payload"] == {"a": 1}
    assert record["tag"] == "x"
    redis.set(f"{prefix}:job:g", b'{"id":"g","name":"t","payload":{"a":nul}}')
    assert (await api.http.get("/jobs/g")).json()["payload"] == '{"a":nul}'
    redis.set(f"{prefix}:job:h", b"\xff not a record")
    answer = await api.http.get("/jobs/h")
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"]


async def test_a_waiting_job_is_cancelled(api: Api) -> None:
    """DELETE ends a job that waits; a second one is a 409."""
    job = await api.client.submit("t")
    answer = await api.http.delete(f"/jobs/{job.id}")
    assert (answer.status_code, answer.json()) == (200, {"id": job.id, "status": "cancelled"})
    assert (await api.http.get(f"/jobs/{job.id}")).json()["status"] == "cancelled"
    again = await api.http.delete(f"/jobs/{job.id}")
    assert again.status_code == 409
    assert again.json()["type"] == "urn:bananas:problem:state-conflict"


async def test_a_failed_job_is_retried(api: Api) -> None:
    """A retry puts a failed job back; one that is not failed is a 409."""
    (job_id,) = await api.bury(1)
    answer = await api.http.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()) == (200, {"id": job_id, "status": "pending"})
    record = (await api.http.get(f"/jobs/{job_id}")).json()
    assert (record["status"], record["attempts"]) == ("pending", 0)
    assert (await api.http.post(f"/jobs/{job_id}/retry")).status_code == 409


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs/{}"),
        ("DELETE", "/jobs/{}"),
        ("POST", "/jobs/{}/retry"),
        ("GET", "/jobs/{}/result"),
        ("GET", "/jobs/{}/result?wait_s=0.05"),
    ],
)
async def test_a_job_that_is_not_there(api: Api, method: str, path: str) -> None:
    """An unknown id is 404 on every route, an impossible one 400."""
    answer = await api.http.request(method, path.format("nobody"))
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:bananas:problem:job-not-found"
    answer = await api.http.request(method, path.format("a%20b"))
    assert answer.status_code == 400
    assert answer.json()["field"] == "id"
