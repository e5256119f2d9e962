"""The OpenAPI 3.1 document, put together from what stands beside the routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bananas.http import batch, dead, jobs, status, submit
from bananas.http.batch import CHUNK_LINES, MAX_IN_FLIGHT
from bananas.http.exchange import MAX_HEAD_BYTES, MAX_WAIT_S
from bananas.http.operations import refusals
from bananas.http.problems import KINDS, TYPE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bananas.http.operations import Document, Operation
    from bananas.settings import Settings

API_VERSION: Final = "1"

_DESCRIPTION: Final = """\
Submit jobs, follow them, and look after those that failed.

Limits: a payload has at most {payload:,} bytes and nests at most {depth} deep; the body of one
job, or one line of a batch, has at most {body:,} bytes; a batch is as long as you like. The head
of a request has at most {head:,} bytes. Bodies are JSON in UTF-8, never encoded. A request may
wait up to {wait:g} s for an end.

Repeating is safe with an `Idempotency-Key`, or an `id` of your own: the job is made once.

Errors are `application/problem+json`: `type`, `title`, `status`, `detail`, and `field` with
`rule` where a field is at fault.
"""


def document(
    settings: Settings, operations: Iterable[Operation], *, max_body_bytes: int
) -> Document:
    """Return the document that describes these routes under these limits."""
    secured = settings.api_token is not None or settings.api_tokens_file is not None
    paths: dict[str, Any] = {}
    for operation in operations:
        responses = _joined(operation.document["responses"], _always(operation))
        described = {**operation.document, "responses": dict(sorted(responses.items()))}
        if operation.scope == "open":
            described["security"] = []
        elif secured:
            described["security"] = [{"token": [operation.scope]}]
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bananas",
            "version": API_VERSION,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": _DESCRIPTION.format(
                payload=settings.max_payload_bytes,
                depth=settings.max_depth,
                body=max_body_bytes,
                head=MAX_HEAD_BYTES,
                wait=MAX_WAIT_S,
            ),
        },
        "tags": [
            {"name": "jobs", "description": "Submit jobs and follow them."},
            {"name": "dead", "description": "Failed jobs."},
            {"name": "queues", "description": "The state of the whole."},
            {"name": "health", "description": "Probes."},
            {"name": "about", "description": "This document."},
        ],
        "security": [{"token": []}] if secured else [],
        "paths": paths,
        "components": {
            "schemas": {
                **submit.schemas(settings),
                **batch.SCHEMAS,
                **jobs.SCHEMAS,
                **dead.SCHEMAS,
                **status.SCHEMAS,
                "Problem": PROBLEM,
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": (
                        "BANANAS_API_TOKEN, which may do everything, or a token made by "
                        "`bananas token create` with a scope that the route names; "
                        "not asked for when none is set."
                    ),
                }
            },
        },
        "x-limits": {
            "max_payload_bytes": settings.max_payload_bytes,
            "max_depth": settings.max_depth,
            "max_body_bytes": max_body_bytes,
            "max_line_bytes": max_body_bytes,
            "max_head_bytes": MAX_HEAD_BYTES,
            "max_wait_s": MAX_WAIT_S,
            "batch_chunk_lines": CHUNK_LINES,
            "batch_chunks_in_flight": MAX_IN_FLIGHT,
        },
    }


def _joined(responses: Document, always: Document) -> Document:
    """Return both; where a status is in both, with both descriptions."""
    joined = {**always, **responses}
    for status_code in always.keys() & responses.keys():
        ours, everyones = responses[status_code], always[status_code]
        description = f"{ours['description']}; {everyones['description']}"
        joined[status_code] = {**ours, "description": description}
    return joined


def _always(operation: Operation) -> Document:
    """Return the refusals that a route has because every route has them."""
    kinds = ["malformed-request", "invalid-parameter", "unsupported-encoding", "headers-too-large"]
    kinds += ["forbidden", "internal"]
    if operation.scope != "open":
        kinds += ["unauthorized", "insufficient-scope"]
    if operation.path not in _WITHOUT_BROKER:
        kinds += ["broker-unavailable", "overloaded"]
    return refusals(*kinds)


_WITHOUT_BROKER: Final = ("/livez", "/readyz", "/health", "/openapi.json", "/docs")

PROBLEM: Final = {
    "type": "object",
    "description": "An error, as RFC 9457 has it.",
    "properties": {
        "type": {"type": "string", "enum": [TYPE_PREFIX + kind for kind in KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string", "description": "The field, parameter or header at fault."},
        "rule": {"type": "string", "description": "The rule that it broke."},
    },
    "required": ["type", "title", "status", "detail"],
    "additionalProperties": True,
}
