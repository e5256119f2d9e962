"""Durability over HTTP: asked for by query or member, refused, open, and safe to repeat."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from replicas import Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import MakeApi
    from servers import Kind, Server

NDJSON = {"content-type": "application/x-ndjson"}
JOB: dict[str, Any] = {"name": "a"}


@pytest.fixture
def pair(server_kind: Kind, make_server: Callable[..., Server]) -> Pair:
    """Return a primary and a replica."""
    return Pair(server_kind, make_server)


@pytest.fixture
def server(pair: Pair) -> Server:
    """Return the server of the APIs here: the primary."""
    return pair.primary


def waits(server: Server) -> int:
    """Return how often the server was asked to wait for replicas."""
    with server.client() as redis:
        stats: Any = redis.info("commandstats")
    return int(stats["cmdstat_wait"]["calls"])


async def test_it_is_asked_for_by_query_or_by_member(make_api: MakeApi, server: Server) -> None:
    """The query speaks for jobs that do not; what neither says is the setting."""
    async with make_api() as api:
        await api.client.check_durability("replica")
        before = waits(server)
        assert (await api.http.post("/jobs", json=JOB)).status_code == 201
        lines = json.dumps(JOB) + "\n"
        answer = await api.http.post("/jobs/batch", content=lines * 3, headers=NDJSON)
        assert answer.status_code == 200
        assert waits(server) == before
        answer = await api.http.post("/jobs?durability=replica", json=JOB)
        assert answer.status_code == 201
        after_one = waits(server)
        assert after_one > before
        answer = await api.http.post("/jobs", json={**JOB, "durability": "replica"})
        assert answer.status_code == 201
        answer = await api.http.post(
            "/jobs/batch?summary=1&durability=replica", content=lines * 1200, headers=NDJSON
        )
        assert answer.json()["accepted"] == 1200
        assert waits(server) > after_one + 1
        before = waits(server)
        answer = await api.http.post(
            "/jobs?durability=replica", json={**JOB, "durability": "memory"}
        )
        assert answer.status_code == 201
        assert waits(server) == before


async def test_what_is_none_is_refused(make_api: MakeApi) -> None:
    """A wrong query is 400, a wrong member 422, a wrong line a rejected line."""
    async with make_api() as api:
        for path, body in (("/jobs", json.dumps(JOB)), ("/jobs/batch", "")):
            kind = "application/json" if path == "/jobs" else NDJSON["content-type"]
            answer = await api.http.post(
                f"{path}?durability=disk", content=body, headers={"content-type": kind}
            )
            assert answer.status_code == 400
            assert answer.json()["field"] == "durability"
        answer = await api.http.post("/jobs", json={**JOB, "durability": "disk"})
        assert answer.status_code == 422
        assert answer.json()["field"] == "durability"
        answer = await api.http.post(
            "/jobs/batch", content=json.dumps({**JOB, "durability": 1}), headers=NDJSON
        )
        assert json.loads(answer.text)["field"] == "durability"


async def test_unconfirmed_is_504_and_a_repeat_waits_again(make_api: MakeApi, pair: Pair) -> None:
    """The ids are told; under the same key nothing is doubled, and the answer comes when safe."""
    async with make_api(durability="replica", durability_timeout_s=2.0) as api:
        key = {"idempotency-key": "k"}
        with pair.replica.frozen():
            one = await api.http.post("/jobs", json=JOB, headers=key)
            again = await api.http.post("/jobs", json=JOB, headers=key)
            many = await api.http.post(
                "/jobs/batch",
                content=json.dumps(JOB) + "\n",
                headers=NDJSON | {"idempotency-key": "b"},
            )
        for answer in (one, again, many):
            assert answer.status_code == 504
            assert answer.headers["retry-after"] == "1"
            problem = answer.json()
            assert problem["type"] == "urn:bananas:problem:durability-unconfirmed"
            assert len(problem["ids"]) == 1
        assert one.json()["ids"] == again.json()["ids"]
        assert many.json()["undecided_from"] == 1
        repeat = await api.http.post("/jobs", json=JOB, headers=key)
        assert repeat.status_code == 200
        assert repeat.json()["id"] == one.json()["ids"][0]
        answer = await api.http.post(
            "/jobs/batch", content=json.dumps(JOB) + "\n", headers=NDJSON | {"idempotency-key": "b"}
        )
        assert json.loads(answer.text) == {
            "line": 1,
            "id": many.json()["ids"][0],
            "status": "duplicate",
        }
        assert (await api.client.stats())["accepted"] == 2


async def test_what_cannot_be_had_is_503_and_not_ready(make_api: MakeApi, pair: Pair) -> None:
    """Nothing is accepted, and nobody is sent here while the setting cannot be met."""
    async with make_api(durability="replica", durability_timeout_s=1.0) as api:
        assert (await api.http.get("/readyz")).status_code == 200
        pair.replica.kill()
        for path in ("/jobs", "/jobs?durability=replica"):
            answer = await api.http.post(path, json=JOB)
            while answer.status_code == 504:  # the server has not noticed yet
                answer = await api.http.post(path, json=JOB)
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:bananas:problem:durability-unavailable"
            assert "REPLICAOF" in answer.json()["detail"]
        before = (await api.client.stats())["accepted"]
        answer = await api.http.post("/jobs/batch", content=json.dumps(JOB), headers=NDJSON)
        assert answer.status_code == 503
        assert (await api.client.stats())["accepted"] == before
        answer = await api.http.get("/readyz")
        while answer.status_code == 200:  # what it looked at two seconds ago
            answer = await api.http.get("/readyz")
        assert answer.status_code == 503
        assert "durability" in answer.json()["detail"]
