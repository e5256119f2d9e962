"""What a route is: its method, path, handler and its part of the OpenAPI document, together.

Router and document are both made from the list of operations, so neither can know a route
that the other does not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from bananas.http.problems import KINDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from bananas.client import Client
    from bananas.settings import Settings
    from bananas.table import Table

BODY_SLACK_BYTES: Final = 16 * 1024
"""What a job's other members may take beside its payload."""

Document = dict[str, Any]
"""A part of an OpenAPI document."""

RouteScope = Literal["open", "read", "enqueue", "admin"]
"""What a token must allow; `open` routes want none."""


@dataclass(slots=True)
class Context:
    """What handlers work with.

    Attributes:
        client: The way to the jobs.
        settings: The limits.
        table: What the processes of this host say of themselves; None = there is no fleet here.
        stopping: Set when the server stops: whoever waits answers with what there is.
    """

    client: Client
    settings: Settings
    table: Table | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def max_body_bytes(self) -> int:
        """Longest body of one job, and longest line of a batch."""
        return self.settings.max_payload_bytes + BODY_SLACK_BYTES


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. `handler` is None where a raw ASGI function answers in front of Starlette.

    The scope has no default: a route that does not say whom it is for cannot be written.
    """

    method: str
    path: str
    scope: RouteScope
    document: Document
    handler: Callable[[Context, Request], Awaitable[Response]] | None = None


# --- parts of documents -------------------------------------------------------------------------


def ref(name: str) -> Document:
    """Return a reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def answer(description: str, schema: Document | None = None, **more: Any) -> Document:  # noqa: ANN401
    """Return a response with a JSON body."""
    content = {} if schema is None else {"content": {"application/json": {"schema": schema}}}
    return {"description": description, **content, **more}


def refusals(*kinds: str) -> Document:
    """Return the responses of these kinds of problem, by status."""
    by_status: dict[str, list[str]] = {}
    for kind in kinds:
        by_status.setdefault(str(KINDS[kind].status), []).append(kind)
    return {
        status: {
            "description": "; ".join(KINDS[kind].title for kind in same),
            "content": {"application/problem+json": {"schema": ref("Problem")}},
        }
        for status, same in by_status.items()
    }


def parameter(
    name: str, description: str, schema: Document, *, where: str = "query", required: bool = False
) -> Document:
    """Return a parameter."""
    return {
        "name": name,
        "in": where,
        "required": required or where == "path",
        "description": description,
        "schema": schema,
    }


JOB_ID: Final = parameter(
    "id",
    "The job's id.",
    {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    where="path",
)
FLAG: Final[Mapping[str, Any]] = {"type": "string", "enum": ["true", "false", "1", "0"]}
WAIT_S: Final[Mapping[str, Any]] = {"type": "number", "minimum": 0, "maximum": 60, "default": 0}
