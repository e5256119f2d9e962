"""The dead-letter queue: failed jobs by time; retried and deleted on a filter.

A write without a filter must say `all=true`, and any write can be tried first: `dry_run`
counts what it would touch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bananas.codec import encode_payload
from bananas.errors import FieldError
from bananas.http.exchange import Query
from bananas.http.jobs import json_response, raw_response
from bananas.http.operations import FLAG, Operation, answer, parameter, ref
from bananas.http.problems import at_parameter
from bananas.http.records import record_json
from bananas.job import validate_name

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from bananas.http.operations import Context

PAGE: Final = 100
MAX_PAGE: Final = 1000


class _Filter:
    """What a request selects."""

    def __init__(self, query: Query) -> None:
        self.name = query.text("name")
        if self.name is not None:
            try:
                validate_name(self.name)
            except FieldError as error:
                raise at_parameter("name", error.rule) from None
        self.error = query.text("error")

    @property
    def everything(self) -> bool:
        return self.name is None and self.error is None


async def list_dead(context: Context, request: Request) -> Response:
    """Answer GET /dead."""
    query = Query(request.scope["query_string"])
    chosen = _Filter(query)
    cursor = query.text("cursor") or ""
    limit = query.count("limit", PAGE, MAX_PAGE)
    oldest_first = query.flag("oldest_first")
    query.done()
    try:
        page = await context.client.dead(
            cursor=cursor,
            limit=limit,
            name=chosen.name,
            error=chosen.error,
            newest_first=not oldest_first,
        )
    except FieldError as error:
        raise at_parameter(error.field, error.rule) from None
    jobs = b",".join(map(record_json, page.jobs))
    next_cursor = encode_payload(page.cursor or None)
    return raw_response(b'{"jobs":[%b],"cursor":%b}' % (jobs, next_cursor))


async def retry_dead(context: Context, request: Request) -> Response:
    """Answer POST /dead/retry."""
    chosen, dry_run = _write_query(request)
    if dry_run:
        return await _dry_run(context, chosen)
    count = await context.client.retry_dead(name=chosen.name, error=chosen.error)
    return json_response({"retried": count, "dry_run": False})


async def delete_dead(context: Context, request: Request) -> Response:
    """Answer DELETE /dead."""
    chosen, dry_run = _write_query(request)
    if dry_run:
        return await _dry_run(context, chosen)
    count = await context.client.delete_dead(name=chosen.name, error=chosen.error)
    return json_response({"deleted": count, "dry_run": False})


def _write_query(request: Request) -> tuple[_Filter, bool]:
    query = Query(request.scope["query_string"])
    chosen = _Filter(query)
    everything = query.flag("all")
    dry_run = query.flag("dry_run")
    query.done()
    if chosen.everything and not everything:
        raise at_parameter("all", "must be true where neither name nor error narrows the choice")
    if everything and not chosen.everything:
        raise at_parameter("all", "must not be given together with name or error")
    return chosen, dry_run


async def _dry_run(context: Context, chosen: _Filter) -> Response:
    """Count what a write would touch."""
    matched = await context.client.dead_count(name=chosen.name, error=chosen.error)
    return json_response({"matched": matched, "dry_run": True})


_FILTERS: Final[list[dict[str, Any]]] = [
    parameter(
        "name",
        "Only jobs of this task.",
        {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    ),
    parameter(
        "error",
        "Only jobs whose last error contains this text.",
        {"type": "string", "minLength": 1, "maxLength": 256},
    ),
]
_WRITE: Final = [
    *_FILTERS,
    parameter("all", "All jobs; required without a filter, refused with one.", dict(FLAG)),
    parameter("dry_run", "Only count what would be touched.", dict(FLAG)),
]
_MATCHED: Final = {
    "matched": {"type": "integer", "description": "Of a dry run: jobs it would touch."},
    "dry_run": {"type": "boolean"},
}

SCHEMAS: Final = {
    "DeadPage": {
        "type": "object",
        "properties": {
            "jobs": {"type": "array", "items": ref("Job")},
            "cursor": {
                "type": ["string", "null"],
                "description": "Where the next page begins; null after the last.",
            },
        },
        "required": ["jobs", "cursor"],
    },
    "Retried": {
        "type": "object",
        "properties": {"retried": {"type": "integer"}, **_MATCHED},
        "required": ["dry_run"],
    },
    "Deleted": {
        "type": "object",
        "properties": {"deleted": {"type": "integer"}, **_MATCHED},
        "required": ["dry_run"],
    },
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/dead",
        "read",
        {
            "operationId": "listDead",
            "tags": ["dead"],
            "summary": "Failed jobs, a page at a time",
            "parameters": [
                *_FILTERS,
                parameter(
                    "cursor",
                    "The cursor of the page before.",
                    {"type": "string", "minLength": 1, "maxLength": 256},
                ),
                parameter(
                    "limit",
                    "Most jobs of a page.",
                    {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE},
                ),
                parameter("oldest_first", "Begin with the oldest.", dict(FLAG)),
            ],
            "responses": {
                "200": answer("A page.", ref("DeadPage")),
            },
        },
        list_dead,
    ),
    Operation(
        "POST",
        "/dead/retry",
        "admin",
        {
            "operationId": "retryDead",
            "tags": ["dead"],
            "summary": "Run failed jobs again",
            "parameters": list(_WRITE),
            "responses": {
                "200": answer("How many.", ref("Retried")),
            },
        },
        retry_dead,
    ),
    Operation(
        "DELETE",
        "/dead",
        "admin",
        {
            "operationId": "deleteDead",
            "tags": ["dead"],
            "summary": "Delete failed jobs for good",
            "parameters": list(_WRITE),
            "responses": {
                "200": answer("How many.", ref("Deleted")),
            },
        },
        delete_dead,
    ),
)
