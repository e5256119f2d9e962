"""The API does what its OpenAPI document says, asked for everything that the document allows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Api, MakeApi
    from servers import Server

CASES = 25  # a route; more only find the same more often


async def test_the_document_and_its_page_are_served(api: Api) -> None:
    """Both are there, with the headers that keep a browser from more."""
    document = await api.http.get("/openapi.json")
    assert document.status_code == 200
    assert document.json()["openapi"] == "3.1.0"
    page = await api.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert (await api.http.get("/docs")).text == page.text


async def test_every_promised_success_can_be_had(api: Api) -> None:
    """Each success status of each route is reached; what it looks like, every test looks at."""
    http = api.http
    ndjson = {"content-type": "application/x-ndjson"}
    key = {"idempotency-key": "k"}
    dead, retried = await api.bury(2)
    (deleted,) = await api.bury(1, error="other")
    made = (await http.post("/jobs", json={"name": "t"}, headers=key)).json()["id"]
    answers = {
        "submitJob 201": await http.post("/jobs", json={"name": "t"}),
        "submitJob 200": await http.post("/jobs", json={"name": "t"}, headers=key),
        "submitBatch 200": await http.post("/jobs/batch", content=b"{}", headers=ndjson),
        "getJob 200": await http.get(f"/jobs/{made}"),
        "getResult 202": await http.get(f"/jobs/{made}/result"),
        "getResult 200": await http.get(f"/jobs/{dead}/result"),
        "cancelJob 200": await http.delete(f"/jobs/{made}"),
        "retryJob 200": await http.post(f"/jobs/{retried}/retry"),
        "listDead 200": await http.get("/dead"),
        "retryDead 200": await http.post("/dead/retry?name=nobody"),
        "deleteDead 200": await http.delete("/dead?error=other"),
        "listQueues 200": await http.get("/queues"),
        "getStats 200": await http.get("/stats"),
        "getMetrics 200": await http.get("/metrics"),
        "livez 200": await http.get("/livez"),
        "readyz 200": await http.get("/readyz"),
        "health 200": await http.get("/health"),
        "getOpenapi 200": await http.get("/openapi.json"),
        "getDocs 200": await http.get("/docs"),
    }
    for name, answer in answers.items():
        assert name.endswith(str(answer.status_code)), (name, answer.text)
    assert (await http.get(f"/jobs/{deleted}")).status_code == 404
    document = (await http.get("/openapi.json")).json()
    promised = {
        f"{operation['operationId']} {status}"
        for methods in document["paths"].values()
        for operation in methods.values()
        for status in operation["responses"]
        if status.startswith("2")
    }
    assert set(answers) == promised


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_it_holds_against_made_up_requests(
    make_server: Callable[..., Server], run_api: MakeApi
) -> None:
    """Requests within the document and beyond it are answered as the document says, never 5xx."""
    import schemathesis  # noqa: PLC0415 - a second to import

    @schemathesis.serializer("application/x-ndjson", "application/ndjson", "application/jsonl")
    def _(_: object, value: object) -> bytes:
        return str(value).encode()

    def assail_all(port: int) -> int:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        return sum(assail(operation.ok()) for operation in schema.get_all_operations())

    async with run_api(make_server()) as api:
        asked = await asyncio.to_thread(assail_all, api.port)
        assert asked > 200
        assert (await api.client.stats())["drift"] == 0


def assail(operation: Any) -> int:  # noqa: ANN401 - schemathesis' own
    """Ask for a route in ways that are right and ways that are wrong; returns how often."""
    from hypothesis import HealthCheck, Phase, given, settings  # noqa: PLC0415 - with the next
    from schemathesis import GenerationMode  # noqa: PLC0415
    from schemathesis.specs.openapi import checks  # noqa: PLC0415

    # That a key was used for another job, or that two fields exclude each other, no schema can
    # say; and any text is a batch, whose lines are judged one by one.
    beyond_schemas = [checks.positive_data_acceptance]
    if operation.path == "/jobs/batch":
        beyond_schemas.append(checks.negative_data_rejection)
    has_input = bool(operation.definition.raw.get("parameters"))
    modes = [GenerationMode.POSITIVE] + [GenerationMode.NEGATIVE] * has_input
    asked = 0
    for mode in modes:

        @settings(
            max_examples=CASES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:  # noqa: ANN401 - schemathesis' own
            nonlocal asked
            if case.query:
                case.query.pop("wait_s", None)  # a minute each
            # A server of the tests is in memory: it has no other durability to give (503).
            for part in (case.query, case.body):
                if isinstance(part, dict) and part.get("durability") in ("fsync", "replica"):
                    del part["durability"]
            case.call_and_validate(timeout=10, excluded_checks=beyond_schemas)
            asked += 1

        ask()
    return asked
