"""The state of the whole: queues, counters, health."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from bananas.errors import BananasError
from bananas.http.exchange import Query
from bananas.http.jobs import json_response
from bananas.http.operations import Operation, answer, ref, refusals
from bananas.http.problems import from_error
from bananas.speedups import COMPILED

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from bananas.http.health import Readiness
    from bananas.http.operations import Context


async def list_queues(context: Context, request: Request) -> Response:
    """Answer GET /queues."""
    Query(request.scope["query_string"]).done()
    queues = await context.client.queues()
    return json_response(
        {
            "queues": [
                {
                    "routing_key": queue.routing_key,
                    "priority": queue.priority,
                    "task": queue.task,
                    "waiting": queue.waiting,
                    "oldest_age_s": queue.oldest_age_s,
                }
                for queue in queues
            ]
        }
    )


async def show_stats(context: Context, request: Request) -> Response:
    """Answer GET /stats."""
    Query(request.scope["query_string"]).done()
    return json_response(await context.client.stats())


class Health:
    """The three health routes over one probe."""

    def __init__(self, readiness: Readiness) -> None:
        """Answer from the probe."""
        self._readiness = readiness

    async def livez(self, context: Context, request: Request) -> Response:  # noqa: ARG002
        """Answer GET /livez: the loop runs, whatever Redis does."""
        return json_response({"status": "alive"})

    async def readyz(self, context: Context, request: Request) -> Response:  # noqa: ARG002
        """Answer GET /readyz: a script has run lately, and the workers here ask for jobs."""
        return json_response({"status": "ready", **await self._readiness.check()})

    async def health(self, context: Context, request: Request) -> Response:  # noqa: ARG002
        """Answer GET /health: both, and what runs here."""
        members: dict[str, Any] = {
            "status": "ready",
            "pid": os.getpid(),
            "compiled": COMPILED,
        }
        try:
            members |= await self._readiness.check()
        except BananasError as error:
            problem = from_error(error)
            members |= {"status": "not ready", "reason": problem.detail}
            return json_response(members, problem.status)
        return json_response(members)

    def operations(self) -> tuple[Operation, ...]:
        """Return the three routes."""
        return (
            Operation(
                "GET",
                "/livez",
                "open",
                {
                    "operationId": "livez",
                    "tags": ["health"],
                    "summary": "The process lives",
                    "responses": {"200": answer("It does.", ref("Alive"))},
                },
                self.livez,
            ),
            Operation(
                "GET",
                "/readyz",
                "open",
                {
                    "operationId": "readyz",
                    "tags": ["health"],
                    "summary": "A script of ours ran on Redis within the last two seconds, "
                    "and no worker of this host has stopped asking for jobs",
                    "responses": {
                        "200": answer("Ready.", ref("Ready")),
                        **refusals("not-ready", "stopping"),
                    },
                },
                self.readyz,
            ),
            Operation(
                "GET",
                "/health",
                "read",
                {
                    "operationId": "health",
                    "tags": ["health"],
                    "summary": "Readiness, and what runs here",
                    "responses": {
                        "200": answer("Ready.", ref("Health")),
                        "503": answer("Not ready, and why.", ref("Health")),
                    },
                },
                self.health,
            ),
        )


_PROBED: Final = {
    "script_age_s": {"type": "number", "description": "Since a script ran last, seconds."},
    "script_took_s": {"type": "number", "description": "How long it took, seconds."},
}

SCHEMAS: Final = {
    "Queues": {
        "type": "object",
        "properties": {
            "queues": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "routing_key": {"type": "string"},
                        "priority": {"type": "string", "enum": ["high", "normal", "low"]},
                        "task": {
                            "type": ["string", "null"],
                            "description": "Set for a task that has lists of its own.",
                        },
                        "waiting": {"type": "integer", "minimum": 0},
                        "oldest_age_s": {"type": ["number", "null"]},
                    },
                    "required": ["routing_key", "priority", "task", "waiting", "oldest_age_s"],
                },
            }
        },
        "required": ["queues"],
    },
    "Stats": {
        "type": "object",
        "description": "Counters since the beginning, and where the jobs are now.",
        "additionalProperties": True,
    },
    "Alive": {
        "type": "object",
        "properties": {"status": {"const": "alive"}},
        "required": ["status"],
    },
    "Ready": {
        "type": "object",
        "properties": {"status": {"const": "ready"}, **_PROBED},
        "required": ["status", "script_age_s"],
    },
    "Health": {
        "type": "object",
        "properties": {
            "status": {"type": "string", "enum": ["ready", "not ready"]},
            "pid": {"type": "integer"},
            "compiled": {"type": "boolean", "description": "Whether the compiled core runs."},
            "reason": {"type": "string"},
            **_PROBED,
        },
        "required": ["status", "pid", "compiled"],
    },
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/queues",
        "read",
        {
            "operationId": "listQueues",
            "tags": ["queues"],
            "summary": "Depth and oldest age of every queue",
            "responses": {"200": answer("The queues.", ref("Queues"))},
        },
        list_queues,
    ),
    Operation(
        "GET",
        "/stats",
        "read",
        {
            "operationId": "getStats",
            "tags": ["queues"],
            "summary": "Counters, and whether they add up",
            "responses": {"200": answer("The counters.", ref("Stats"))},
        },
        show_stats,
    ),
)
