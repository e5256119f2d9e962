"""Errors as RFC 9457 problems: one table of kinds, and what each of our errors becomes.

A problem never holds what the caller sent, a secret or a server's address: field, rule
and our own words only. What is not foreseen here is a 500 that says nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bananas.errors import (
    BananasError,
    BrokerDeniedError,
    BrokerFullError,
    BrokerUnavailableError,
    DecodeError,
    DuplicateJobError,
    DurabilityError,
    DurabilityUnconfirmedError,
    FieldError,
    JobNotFoundError,
    PayloadError,
    PayloadTypeError,
    StateError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MEDIA_TYPE: Final = b"application/problem+json"
TYPE_PREFIX: Final = "urn:bananas:problem:"
RETRY_AFTER_S: Final = 1
_FIELD_CHARS: Final = 128


class Kind(NamedTuple):
    """One kind of problem: its status, and its title, which never varies."""

    status: int
    title: str


KINDS: Final[dict[str, Kind]] = {
    "malformed-json": Kind(400, "The body is not valid JSON"),
    "malformed-request": Kind(400, "The request cannot be used"),
    "invalid-parameter": Kind(400, "A query parameter or header broke a rule"),
    "unauthorized": Kind(401, "A valid bearer token is needed"),
    "forbidden": Kind(403, "Requests from there are not taken"),
    "insufficient-scope": Kind(403, "The token does not allow this"),
    "not-found": Kind(404, "There is no such route"),
    "job-not-found": Kind(404, "There is no such job"),
    "method-not-allowed": Kind(405, "The route does not take this method"),
    "request-timeout": Kind(408, "The request came too slowly"),
    "duplicate-job": Kind(409, "A job of this id exists already"),
    "state-conflict": Kind(409, "The job is in another state"),
    "body-too-large": Kind(413, "The body is too large"),
    "unsupported-media-type": Kind(415, "The body has the wrong media type"),
    "unsupported-encoding": Kind(415, "Encoded bodies are not taken"),
    "invalid-field": Kind(422, "A field broke a rule"),
    "idempotency-key-reused": Kind(422, "The idempotency key belongs to another job"),
    "headers-too-large": Kind(431, "The head of the request is too large"),
    "internal": Kind(500, "Something went wrong here"),
    "broken-record": Kind(502, "The record in Redis is not one"),
    "broker-unavailable": Kind(503, "Redis does not answer"),
    "overloaded": Kind(503, "Too many connections"),
    "not-ready": Kind(503, "Not ready to serve"),
    "stopping": Kind(503, "The server is stopping"),
    "durability-unavailable": Kind(503, "Redis cannot give the durability asked for"),
    "durability-unconfirmed": Kind(504, "Accepted in memory, its durability is not confirmed"),
    "broker-full": Kind(507, "Redis is full"),
}
"""Every kind there is, by the last part of its `type`; OpenAPI lists them from here."""


class Problem(BananasError):  # noqa: N818 - what RFC 9457 calls it
    """A request that ends in an error response."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,  # noqa: ANN401 - JSON members of the caller's choice
    ) -> None:
        """Keep what the response is made of.

        Args:
            kind: A key of `KINDS`.
            detail: What is wrong with this very request, in our own words.
            headers: More response headers.
            **members: Extension members, such as `field` and `rule`.
        """
        self.kind = kind
        self.status = KINDS[kind].status
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members
        super().__init__(detail)

    def to_dict(self) -> dict[str, Any]:
        """Return the problem's members."""
        return {
            "type": TYPE_PREFIX + self.kind,
            "title": KINDS[self.kind].title,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }

    def body(self) -> bytes:
        """Return the problem as JSON."""
        # By the careful library: a text that cannot be encoded must not spoil the answer.
        text = json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def at_field(field: str, rule: str) -> Problem:
    """Return the problem of a member of the body that broke a rule."""
    field = field[:_FIELD_CHARS]  # of a member that nobody knows, the name is the caller's
    return Problem("invalid-field", f"{field}: {rule}", field=field, rule=rule)


def at_parameter(name: str, rule: str) -> Problem:
    """Return the problem of a query parameter or a header that broke a rule."""
    return Problem("invalid-parameter", f"{name}: {rule}", field=name, rule=rule)


def from_error(error: BaseException) -> Problem:
    """Return the problem that an error is answered with."""
    if isinstance(error, Problem):
        return error
    for family, make in _MAKERS:
        if isinstance(error, family):
            return make(error)
    return Problem("internal", "see the server's log")


def _busy(kind: str, detail: str) -> Problem:
    return Problem(kind, detail, headers={"retry-after": str(RETRY_AFTER_S)})


def _unavailable(_: BaseException) -> Problem:
    return _busy(
        "broker-unavailable",
        "the outcome is unknown; repeating with the same id or Idempotency-Key is safe",
    )


def _incapable(error: DurabilityError) -> Problem:
    return _busy(
        "durability-unavailable",
        f'nothing was accepted: durability "{error.durability}" is not to be had here'
        + (f"; the operator may {error.remedy}" if error.remedy else ""),
    )


def _unconfirmed(error: DurabilityUnconfirmedError) -> Problem:
    problem = _busy(
        "durability-unconfirmed",
        f'accepted in memory; durability "{error.durability}" was not confirmed in time. A repeat '
        "with the same id or Idempotency-Key makes no second job and waits again",
    )
    problem.members["ids"] = list(error.job_ids)
    return problem


# The narrower before the wider.
_MAKERS: Final[tuple[tuple[type[BananasError], Callable[[Any], Problem]], ...]] = (
    (FieldError, lambda e: at_field(e.field, e.rule)),
    (PayloadError, lambda e: at_field("payload", e.why)),
    (PayloadTypeError, lambda e: at_field("payload", e.why)),
    (DecodeError, lambda e: Problem("broken-record", e.why)),
    (UsageError, lambda e: Problem("malformed-request", str(e))),
    (
        JobNotFoundError,
        lambda e: Problem("job-not-found", f'job "{e.job_id}" does not exist', id=e.job_id),
    ),
    (
        DuplicateJobError,
        lambda e: Problem("duplicate-job", f'job "{e.job_id}" exists already', id=e.job_id),
    ),
    (StateError, lambda e: Problem("state-conflict", e.why, id=e.job_id)),
    (BrokerFullError, lambda _: _busy("broker-full", "no new jobs are taken until some are done")),
    (DurabilityError, _incapable),
    (DurabilityUnconfirmedError, _unconfirmed),
    (BrokerUnavailableError, _unavailable),
    (BrokerDeniedError, _unavailable),
)
