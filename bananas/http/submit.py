"""POST /jobs: one job, answered in front of Starlette.

Requests that come together travel together: their jobs join one script call. The answer is
the record as it was written, so it needs no second call: that took a tenth of the time, and
a job that was done and deleted by then had none. A repeat under the same `Idempotency-Key`
finds its job by the id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from bananas.codec import decode_payload, encode_payload
from bananas.errors import DecodeError, DuplicateJobError, JobNotFoundError
from bananas.http.exchange import JSON, Query, check_media_type, read_body
from bananas.http.gate import GRANT_KEY, insufficient
from bananas.http.idempotency import KEY_PATTERN, derived_id, read_key
from bananas.http.jobs import result_members, wait_end
from bananas.http.operations import WAIT_S, Operation, answer, parameter, ref, refusals
from bananas.http.problems import Problem, at_field, at_parameter
from bananas.http.records import record_json, written_json
from bananas.keys import DEFAULT_ROUTING_KEY
from bananas.submission import (
    DURABILITIES,
    MAX_DELAY_S,
    MAX_DESCRIPTION_CHARS,
    MAX_RETRIES_CEILING,
    MAX_TIMEOUT_S,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from bananas.http.exchange import Answer, Headers
    from bananas.http.operations import Context, Document
    from bananas.job import Job
    from bananas.producer import Draft
    from bananas.settings import Durability, Settings
    from bananas.submission import Drafter
    from bananas.tokens import Grant

_TRIES: Final = 3  # a job may expire between the two halves of a repeat; hardly twice


async def submit_job(
    context: Context, scope: Scope, receive: Receive, answer_with: Answer, headers: Headers
) -> None:
    """Answer POST /jobs: 201 with the record, or 200 to a repeat.

    Raises:
        Problem: The request is wrong.
        BananasError: The job is, or Redis cannot.
        ClientGoneError: The connection ended before the body did.
    """
    wait_s, durability = _asked(scope["query_string"]) if scope["query_string"] else (0.0, None)
    if headers.get(b"content-type") != JSON:
        check_media_type(headers, JSON)
    key = read_key(headers)
    members = _members(await read_body(receive, headers, context.max_body_bytes))
    grant: Grant = scope[GRANT_KEY]
    if not grant.admin and not enqueues(grant, members.get("routing_key")):
        raise insufficient("enqueue", "the token does not allow this routing key")
    if wait_s and members.get("result") is None:
        members["result"] = True
    drafter = context.client.drafter.defaulting(durability)
    if key is None:
        draft = drafter.draft(members)
        entry = await context.client.enter(draft)
        job_id, status, record = entry.job_id, 201, written_json(entry.record)
    else:
        job_id, status, record = await _submit_once(context, drafter, members, key)
    if wait_s:
        record = await _with_outcome(context, receive, job_id, record, wait_s)
    await answer_with.reply_json(status, record, b"/jobs/" + job_id.encode())


def enqueues(grant: Grant, routing_key: object) -> bool:
    """Whether a caller may submit jobs of this routing key; what is none is refused elsewhere."""
    if routing_key is None:
        routing_key = DEFAULT_ROUTING_KEY
    return not isinstance(routing_key, str) or grant.may_enqueue(routing_key)


def _asked(query_string: bytes) -> tuple[float, Durability | None]:
    """Return what the query asks for: how long to wait, and which durability."""
    query = Query(query_string)
    wait_s = query.seconds("wait_s")
    durability = read_durability(query)
    query.done()
    return wait_s, durability


def read_durability(query: Query) -> Durability | None:
    """Return the durability of jobs that do not say, None = the setting.

    Raises:
        Problem: 400.
    """
    asked = query.text("durability")
    if asked is None:
        return None
    for durability in DURABILITIES:
        if durability == asked:
            return durability
    raise at_parameter("durability", f"must be one of {', '.join(DURABILITIES)}")


def _members(body: bytes) -> dict[str, Any]:
    try:
        members: Any = decode_payload(body)
    except DecodeError as error:
        raise Problem("malformed-json", error.why) from None
    if not isinstance(members, dict):
        raise at_field("body", "must be an object")
    return cast("dict[str, Any]", members)


async def _submit_once(
    context: Context, drafter: Drafter, members: dict[str, Any], key: bytes
) -> tuple[str, int, bytes]:
    """Enqueue the job that a key stands for, or find it; returns (id, status, record)."""
    if members.get("id") is not None:
        raise at_field("id", "must not be given together with an Idempotency-Key")
    job_id = derived_id(key)
    draft = drafter.draft({**members, "id": job_id})
    for _ in range(_TRIES):
        try:
            entry = await context.client.enter(draft)
        except DuplicateJobError:
            try:
                job = await context.client.get_job(job_id)
            except JobNotFoundError:
                continue
            if not _same(draft, job):
                raise Problem(
                    "idempotency-key-reused",
                    "the job of this key has another name, payload, priority or routing key",
                    id=job_id,
                ) from None
            return job_id, 200, record_json(job)
        return job_id, 201, written_json(entry.record)
    raise JobNotFoundError(job_id)


def _same(draft: Draft, job: Job) -> bool:
    """Whether a repeat asks for the job that is there."""
    form = draft.form
    return (
        (form.name, form.priority, form.routing_key) == (job.name, job.priority, job.routing_key)
    ) and (draft.payload == job.payload_json or decode_payload(draft.payload) == job.payload)


async def _with_outcome(
    context: Context, receive: Receive, job_id: str, record: bytes, wait_s: float
) -> bytes:
    """Return the record as it stands after the wait, with the end, if it came, as `outcome`."""
    try:
        result = await wait_end(context, job_id, wait_s, receive)
        record = record_json(await context.client.get_job(job_id))
    except JobNotFoundError:
        result = None  # it has ended, and left nothing behind
    outcome = b"null" if result is None else encode_payload(result_members(result))
    return b'%b,"outcome":%b}' % (record[:-1], outcome)


# --- what it looks like ---------------------------------------------------------------------------

NAME: Final = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}

IDEMPOTENCY_KEY: Final = parameter(
    "Idempotency-Key",
    "Makes repeats safe: the same key is the same job, known for as long as its record is kept.",
    {"type": "string", "pattern": KEY_PATTERN, "maxLength": 257},
    where="header",
)


def schemas(settings: Settings) -> dict[str, Document]:
    """Return the schemas of what is submitted, under these limits."""
    optional: dict[str, Document] = {
        "payload": {
            "description": (
                "Any JSON; an object's members are the handler's keyword arguments. "
                f"At most {settings.max_payload_bytes} bytes, nested at most "
                f"{settings.max_depth} deep."
            ),
            "default": {},
        },
        "priority": {"enum": ["high", "normal", "low", None], "default": "normal"},
        "routing_key": {
            "type": ["string", "null"],
            "pattern": "^[A-Za-z0-9_-]{1,64}$",
            "default": "default",
        },
        "description": {"type": ["string", "null"], "maxLength": MAX_DESCRIPTION_CHARS},
        "scheduled_for": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "Not before this time; RFC 3339 with an offset.",
        },
        "delay_s": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": MAX_DELAY_S,
            "description": "Not before so many seconds from now; not with scheduled_for.",
        },
        "max_retries": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": MAX_RETRIES_CEILING,
            "description": f"Runs allowed; by default {settings.max_retries}.",
        },
        "id": {
            "type": ["string", "null"],
            "pattern": NAME["pattern"],
            "description": "Instead of a new one; not with an Idempotency-Key.",
        },
        "timeout_s": {
            "type": ["number", "null"],
            "minimum": 0.001,
            "maximum": MAX_TIMEOUT_S,
            "description": "Soft limit of one run, seconds.",
        },
        "result": {
            "type": ["boolean", "null"],
            "description": "Whether the return value is kept; by default only with wait_s.",
        },
        "expires_at": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "Not begun by then, it is dropped.",
        },
        "durability": {
            "enum": [*DURABILITIES, None],
            "description": (
                "What the job must be in before it counts as accepted: Redis's memory, its disk, "
                "or a replica too; by default what the query says."
            ),
        },
    }
    return {
        "Submission": {
            "type": "object",
            "description": "One job to submit; null counts as absent.",
            "properties": {"name": {**NAME, "description": "The task's name."}, **optional},
            "required": ["name"],
            "additionalProperties": False,
        },
        "Submitted": {
            "allOf": [ref("Job")],
            "type": "object",
            "properties": {
                "outcome": {
                    "description": "With wait_s: the end, or null.",
                    "anyOf": [ref("Result"), {"type": "null"}],
                }
            },
        },
    }


DURABILITY_PARAMETER: Final = parameter(
    "durability",
    "Of jobs that do not say: what they must be in before they count as accepted.",
    {"type": "string", "enum": list(DURABILITIES)},
)

_EXAMPLE: Final = {"name": "send_email", "payload": {"to": "a@example.com", "subject": "hi"}}

OPERATION: Final = Operation(
    "POST",
    "/jobs",
    "enqueue",
    {
        "operationId": "submitJob",
        "tags": ["jobs"],
        "summary": "Submit one job",
        "description": (
            "With wait_s the answer comes when the job has ended or the time is over, and has "
            "the end as its member outcome, null when there is none yet."
        ),
        "parameters": [
            IDEMPOTENCY_KEY,
            parameter("wait_s", "Longest wait for the job's end, seconds.", dict(WAIT_S)),
            DURABILITY_PARAMETER,
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ref("Submission"), "example": _EXAMPLE}},
        },
        "responses": {
            "201": answer(
                "Accepted: the job's record.",
                ref("Submitted"),
                headers={"Location": {"schema": {"type": "string"}}},
            ),
            "200": answer("A repeat: the record of the job that is there.", ref("Submitted")),
            **refusals(
                "malformed-json",
                "duplicate-job",
                "request-timeout",
                "body-too-large",
                "unsupported-media-type",
                "invalid-field",
                "idempotency-key-reused",
                "broker-full",
                "durability-unavailable",
                "durability-unconfirmed",
            ),
        },
    },
)
