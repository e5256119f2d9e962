"""The API as one ASGI application: a gate, two raw routes, and Starlette for the rest.

Starlette takes a third of a small request's time, so the two routes that carry the load
are answered in front of it. Every error ends here, as a problem.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route, Router

from bananas.errors import BananasError
from bananas.http import batch, dead, jobs, metrics, status, submit
from bananas.http.docs import POLICY, render
from bananas.http.exchange import Answer, ClientGoneError, Query, headers_of, plain_headers
from bananas.http.gate import GRANT_KEY, Gate, demand
from bananas.http.health import Readiness
from bananas.http.jobs import json_response
from bananas.http.openapi import document
from bananas.http.operations import Context, Operation
from bananas.http.problems import KINDS, TYPE_PREFIX, Problem, from_error
from bananas.http.status import Health

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from bananas.client import Client
    from bananas.settings import Settings
    from bananas.table import Table

log = logging.getLogger("bananas.http")

_JOBS: Final = "/jobs"
_BATCH: Final = "/jobs/batch"


class Api:
    """The application; serve it with `server.serve`.

    Its paths begin at the root: it cannot be mounted under one in another application.
    """

    def __init__(self, client: Client, settings: Settings, table: Table | None = None) -> None:
        """Work through `client`, which its owner closes; the limits are the settings'.

        `table` is that of the fleet on this host, for its metrics and its readiness.
        """
        self.context: Final = Context(client, settings, table)
        about = (
            Operation(
                "GET",
                "/openapi.json",
                "read",
                {
                    "operationId": "getOpenapi",
                    "tags": ["about"],
                    "summary": "This document",
                    "responses": {
                        "200": {
                            "description": "OpenAPI 3.1.",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        }
                    },
                },
                self._show_document,
            ),
            Operation(
                "GET",
                "/docs",
                "read",
                {
                    "operationId": "getDocs",
                    "tags": ["about"],
                    "summary": "This document as a page",
                    "responses": {
                        "200": {
                            "description": "A page without scripts.",
                            "content": {"text/html": {"schema": {"type": "string"}}},
                        }
                    },
                },
                self._show_docs,
            ),
        )
        self.operations: Final[tuple[Operation, ...]] = (
            submit.OPERATION,
            batch.OPERATION,
            *jobs.OPERATIONS,
            *dead.OPERATIONS,
            *status.OPERATIONS,
            metrics.OPERATION,
            *Health(Readiness(self.context)).operations(),
            *about,
        )
        self._gate = Gate(settings, frozenset(o.path for o in self.operations if o.scope == "open"))
        self.document: Final = document(
            settings, self.operations, max_body_bytes=self.context.max_body_bytes
        )
        self._docs: str | None = None
        self._router = self._routes()

    def stop(self) -> None:
        """Answer whoever waits with what there is, and take no more of any batch."""
        self.context.stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        answer = Answer(scope, send)
        try:
            headers = headers_of(scope)
            grant = scope[GRANT_KEY] = self._gate.check(scope, headers)
            path = scope["path"]
            if path == _JOBS and scope["method"] == "POST":
                demand(grant, submit.OPERATION.scope)
                await submit.submit_job(self.context, scope, receive, answer, headers)
            elif path == _BATCH and scope["method"] == "POST":
                demand(grant, batch.OPERATION.scope)
                await batch.submit_batch(self.context, scope, receive, answer, headers)
            else:
                scope["app"] = self  # so that the router raises what it refuses
                await self._router(scope, receive, answer)
        except ClientGoneError:
            pass  # the server notices by itself that nobody is there
        except HTTPException as error:
            await answer.refuse(_of_starlette(error))
        except BananasError as error:
            problem = from_error(error)
            if problem.kind == "internal":
                log.exception("%s %s failed", scope["method"], ascii(scope["path"]))
            await answer.refuse(problem)
        except Exception as error:
            log.exception("%s %s failed", scope["method"], ascii(scope["path"]))
            await answer.refuse(from_error(error))

    # --- routes -------------------------------------------------------------------------------

    def _routes(self) -> Router:
        paths: dict[str, dict[str, Operation]] = {}
        for operation in self.operations:
            paths.setdefault(operation.path, {})[operation.method] = operation
        # Fixed paths first: /jobs/batch is no job of that id.
        ordered = sorted(paths.items(), key=lambda item: "{" in item[0])
        routes = [
            Route(path, self._endpoint(methods), methods=sorted(methods))
            for path, methods in ordered
        ]
        return Router(routes, redirect_slashes=False)

    def _endpoint(self, methods: dict[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            operation = methods[method]
            demand(request.scope[GRANT_KEY], operation.scope)
            handler = operation.handler
            if handler is None:  # a raw route, with a method that only it takes
                raise HTTPException(405)
            return await handler(self.context, request)

        return endpoint

    async def _show_document(self, context: Context, request: Request) -> Response:  # noqa: ARG002
        Query(request.scope["query_string"]).done()
        return json_response(self.document)

    async def _show_docs(self, context: Context, request: Request) -> Response:  # noqa: ARG002
        Query(request.scope["query_string"]).done()
        if self._docs is None:
            kinds = [
                {"type": TYPE_PREFIX + name, "status": kind.status, "title": kind.title}
                for name, kind in KINDS.items()
            ]
            self._docs = render(self.document, kinds)
        headers = plain_headers(
            {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
        )
        return Response(self._docs, 200, headers, "text/html")


def _of_starlette(error: HTTPException) -> Problem:
    """Return the problem of what Starlette's router refuses."""
    headers: dict[str, Any] = {k.lower(): v for k, v in (error.headers or {}).items()}
    if error.status_code == 405:  # noqa: PLR2004 - method not allowed
        return Problem(
            "method-not-allowed", f"the route takes {headers.get('allow', 'POST')}", headers=headers
        )
    return Problem("not-found", "see /docs")
