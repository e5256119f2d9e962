"""One job: its record with the live status, its end, and what an operator may do to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from bananas.codec import encode_payload
from bananas.errors import FieldError
from bananas.http.exchange import ClientGoneError, Query, plain_headers
from bananas.http.operations import JOB_ID, WAIT_S, Operation, answer, parameter, ref, refusals
from bananas.http.problems import at_parameter
from bananas.http.records import SHOWN_BYTES, SHOWN_DEPTH, record_json
from bananas.job import validate_id
from bananas.keys import DEFAULT_ROUTING_KEY

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive

    from bananas.http.operations import Context
    from bananas.results import Result


def json_response(members: Any, status: int = 200) -> Response:  # noqa: ANN401 - JSON
    """Return a JSON response; integers of any size go through whole."""
    body = encode_payload(members, max_bytes=SHOWN_BYTES, max_depth=SHOWN_DEPTH)
    return raw_response(body, status)


def raw_response(body: bytes, status: int = 200) -> Response:
    """Return a response of JSON that is written already."""
    return Response(body, status, plain_headers(), "application/json")


def result_members(result: Result) -> dict[str, Any]:
    """Return a job's end as JSON members."""
    return {
        "job_id": result.job_id,
        "status": result.status,
        "result": result.value,
        "error": result.error,
        "completed_at": result.completed_at or None,
        "duration_ms": result.duration_ms,
    }


async def wait_end(context: Context, job_id: str, wait_s: float, receive: Receive) -> Result | None:
    """Wait for a job's end: not longer than `wait_s`, the server's own or the caller's.

    Raises:
        JobNotFoundError: There is no such job.
        ClientGoneError: The caller has hung up.
    """
    if not wait_s:
        return await context.client.get_result(job_id)
    wait = asyncio.ensure_future(context.client.get_result(job_id, wait_s=wait_s))
    stopping = asyncio.ensure_future(context.stopping.wait())
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({wait, stopping, gone}, return_when=asyncio.FIRST_COMPLETED)
        if wait.done():
            return wait.result()
        if gone.done():
            raise ClientGoneError
    finally:
        for task in (wait, stopping, gone):
            task.cancel()
        await asyncio.wait({wait, stopping, gone})
    return await context.client.get_result(job_id)


async def _gone(receive: Receive) -> None:
    """Wait until the caller has hung up; what it still sends is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def show_job(context: Context, request: Request) -> Response:
    """Answer GET /jobs/{id}."""
    job_id = _job_id(request)
    Query(request.scope["query_string"]).done()
    return raw_response(record_json(await context.client.get_job(job_id)))


async def cancel_job(context: Context, request: Request) -> Response:
    """Answer DELETE /jobs/{id}."""
    job_id = _job_id(request)
    Query(request.scope["query_string"]).done()
    await context.client.cancel(job_id)
    return json_response({"id": job_id, "status": "cancelled"})


async def retry_job(context: Context, request: Request) -> Response:
    """Answer POST /jobs/{id}/retry."""
    job_id = _job_id(request)
    Query(request.scope["query_string"]).done()
    await context.client.retry(job_id)
    return json_response({"id": job_id, "status": "pending"})


async def show_result(context: Context, request: Request) -> Response:
    """Answer GET /jobs/{id}/result."""
    job_id = _job_id(request)
    query = Query(request.scope["query_string"])
    wait_s = query.seconds("wait_s")
    query.done()
    result = await wait_end(context, job_id, wait_s, request.receive)
    if result is not None:
        return json_response(result_members(result))
    job = await context.client.get_job(job_id)
    return json_response({"job_id": job_id, "status": job.status}, 202)


def _job_id(request: Request) -> str:
    try:
        return validate_id(request.path_params["id"])
    except FieldError as error:
        raise at_parameter("id", error.rule) from None


RECORD_FIELDS: Final[dict[str, Any]] = {
    "id": {"type": "string"},
    "name": {"type": "string", "description": "The task's name; empty for a broken record."},
    "description": {"type": "string"},
    "payload": {"description": "Any JSON."},
    "status": {
        "type": "string",
        "enum": ["pending", "scheduled", "processing", "completed", "failed", "cancelled"],
        "description": "Live: where the job is now.",
    },
    "priority": {"type": "string", "enum": ["high", "normal", "low"]},
    "routing_key": {"type": "string", "default": DEFAULT_ROUTING_KEY},
    "created_at": {"type": "string", "description": "RFC 3339; empty when a producer left it out."},
    "updated_at": {"type": "string"},
    "scheduled_for": {"type": "string"},
    "attempts": {"type": "integer", "minimum": 0, "description": "Runs made."},
    "max_retries": {"type": "integer", "minimum": 0, "description": "Runs allowed."},
    "error": {"type": "string", "description": "The last error, at most 4 KiB."},
    "timeout_s": {"type": "number"},
    "result": {"type": "boolean", "description": "Whether the return value is kept."},
    "expires_at": {"type": "string"},
    "crashes": {"type": "integer", "description": "Processes it took down."},
    "unclaimed": {"type": "integer", "description": "Times no worker knew its name."},
}

SCHEMAS: Final = {
    "Job": {
        "type": "object",
        "description": "A job's record; unknown members of foreign producers come along.",
        "properties": RECORD_FIELDS,
        "required": [
            "id",
            "name",
            "payload",
            "status",
            "priority",
            "routing_key",
            "created_at",
            "updated_at",
            "attempts",
            "max_retries",
        ],
    },
    "Result": {
        "type": "object",
        "properties": {
            "job_id": {"type": "string"},
            "status": {"type": "string", "enum": ["completed", "failed", "cancelled"]},
            "result": {"description": "What the handler returned; null where none is kept."},
            "error": {"type": ["string", "null"]},
            "completed_at": {"type": ["string", "null"]},
            "duration_ms": {"type": ["number", "null"]},
        },
        "required": ["job_id", "status", "result", "error"],
    },
    "Unfinished": {
        "type": "object",
        "properties": {
            "job_id": {"type": "string"},
            "status": {"type": "string", "enum": ["pending", "scheduled", "processing"]},
        },
        "required": ["job_id", "status"],
    },
    "Changed": {
        "type": "object",
        "properties": {"id": {"type": "string"}, "status": {"type": "string"}},
        "required": ["id", "status"],
    },
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/jobs/{id}",
        "read",
        {
            "operationId": "getJob",
            "tags": ["jobs"],
            "summary": "One job's record, with its live status",
            "parameters": [JOB_ID],
            "responses": {
                "200": answer("The record.", ref("Job")),
                **refusals("job-not-found"),
            },
        },
        show_job,
    ),
    Operation(
        "DELETE",
        "/jobs/{id}",
        "admin",
        {
            "operationId": "cancelJob",
            "tags": ["jobs"],
            "summary": "Cancel a job that waits or is scheduled",
            "parameters": [JOB_ID],
            "responses": {
                "200": answer("It is cancelled.", ref("Changed")),
                **refusals("job-not-found", "state-conflict"),
            },
        },
        cancel_job,
    ),
    Operation(
        "POST",
        "/jobs/{id}/retry",
        "admin",
        {
            "operationId": "retryJob",
            "tags": ["jobs"],
            "summary": "Run a failed job again, with all its attempts",
            "parameters": [JOB_ID],
            "responses": {
                "200": answer("It waits in its queue again.", ref("Changed")),
                **refusals("job-not-found", "state-conflict"),
            },
        },
        retry_job,
    ),
    Operation(
        "GET",
        "/jobs/{id}/result",
        "read",
        {
            "operationId": "getResult",
            "tags": ["jobs"],
            "summary": "How a job ended; with wait_s, once it has",
            "parameters": [
                JOB_ID,
                parameter("wait_s", "Longest wait for the end, seconds.", dict(WAIT_S)),
            ],
            "responses": {
                "200": answer("It has ended.", ref("Result")),
                "202": answer("Not yet.", ref("Unfinished")),
                **refusals("job-not-found", "broken-record"),
            },
        },
        show_result,
    ),
)
