"""Queues, counters and health over HTTP, with Redis there, stuck and gone."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from bananas.http import health

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from conftest import Api, MakeApi
    from servers import Server


async def test_queues_have_depth_and_age(api: Api) -> None:
    """Every queue is listed with what waits and how old its oldest is."""
    await api.client.submit("t", priority="high", routing_key="gpu")
    await api.client.submit("t")
    queues = (await api.http.get("/queues")).json()["queues"]
    by_place = {(q["routing_key"], q["priority"]): q for q in queues}
    assert by_place["gpu", "high"]["waiting"] == 1
    assert by_place["default", "normal"]["waiting"] == 1
    assert by_place["default", "normal"]["oldest_age_s"] >= 0
    assert by_place["default", "low"]["oldest_age_s"] is None


async def test_stats_add_up(api: Api) -> None:
    """The counters say where the jobs are, and that none is missing."""
    await api.bury(1)
    await api.client.submit("t")
    stats = (await api.http.get("/stats")).json()
    assert (stats["accepted"], stats["waiting"], stats["dead"], stats["drift"]) == (2, 1, 1, 0)


async def test_health_in_good_times(api: Api) -> None:
    """Alive, ready, and healthy with what runs here."""
    assert (await api.http.get("/livez")).json() == {"status": "alive"}
    ready = await api.http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert ready.json()["script_age_s"] >= 0
    healthy = await api.http.get("/health")
    assert healthy.status_code == 200
    assert healthy.json()["status"] == "ready"
    assert isinstance(healthy.json()["compiled"], bool)


async def test_not_ready_while_redis_is_stuck(
    make_server: Callable[..., Server], run_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a script that ran lately the process lives but is not ready, until one runs again."""
    monkeypatch.setattr(health, "LATELY_S", 0.2)
    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 0.3)
    server = make_server()
    async with run_api(server) as api:
        assert (await api.http.get("/readyz")).status_code == 200
        with server.frozen():
            await asyncio.sleep(0.25)
            answers = await asyncio.gather(*(api.http.get("/readyz") for _ in range(5)))
            assert {a.status_code for a in answers} == {503}
            assert answers[0].json()["type"] == "urn:bananas:problem:not-ready"
            healthy = await api.http.get("/health")
            assert healthy.status_code == 503
            assert healthy.json()["status"] == "not ready"
            assert "no script" in healthy.json()["reason"]
            assert (await api.http.get("/livez")).status_code == 200
        async with asyncio.timeout(10):
            while (await api.http.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - a server
                await asyncio.sleep(0.05)


async def test_no_answer_from_redis_is_503(
    make_server: Callable[..., Server], run_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Redis gives no answer the request is 503 with Retry-After, and safe to repeat."""
    from bananas import transport  # noqa: PLC0415 - what is patched

    server = make_server()
    defaults = transport.Transport.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "retry_window_s", 0.3)
    monkeypatch.setitem(defaults, "reply_timeout_s", 0.2)
    async with run_api(server) as api:
        headers = {"idempotency-key": "k"}
        assert (await api.http.get("/stats")).status_code == 200
        with server.frozen():
            for answer in await asyncio.gather(
                api.http.post("/jobs", json={"name": "t"}, headers=headers),
                api.http.get("/jobs/x"),
                api.http.get("/queues"),
                api.http.post(
                    "/jobs/batch?summary=1",
                    content=b'{"name":"t"}',
                    headers={"content-type": "application/x-ndjson"},
                ),
            ):
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "1"
                problem = answer.json()
                assert problem["type"] == "urn:bananas:problem:broker-unavailable"
                assert str(server.socket) not in json.dumps(problem)
        again = await api.http.post("/jobs", json={"name": "t"}, headers=headers)
        assert again.status_code in (200, 201)


async def test_methods_that_a_route_does_not_take(api: Api) -> None:
    """A wrong method is 405 and says which are right; an unknown path is 404; HEAD follows GET."""
    answer = await api.http.put("/jobs/x")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"DELETE", "GET", "HEAD"}
    assert answer.json()["type"] == "urn:bananas:problem:method-not-allowed"
    assert (await api.http.get("/jobs")).status_code == 405
    assert (await api.http.get("/jobs/batch")).status_code == 404  # a job may be called so
    assert (await api.http.options("/stats")).status_code == 405
    for path in ("/nosuch", "/jobs/", "/jobs/a/b", "//jobs", "/jobs/../stats"):
        answer = await api.http.post(path)
        assert answer.status_code in (404, 405)
    head = await api.http.head("/livez")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == "18"
