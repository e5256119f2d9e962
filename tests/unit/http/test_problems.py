"""Every error of ours, and the problem that it is answered with."""

from __future__ import annotations

import json

import pytest

from bananas import errors
from bananas.http.problems import KINDS, Problem, at_field, from_error

CASES: list[tuple[BaseException, str]] = [
    (errors.FieldError("name", "is required"), "invalid-field"),
    (errors.PayloadError("too deep", task="t"), "invalid-field"),
    (errors.PayloadTypeError("a set", task="t"), "invalid-field"),
    (errors.DecodeError("not JSON", b"secret"), "broken-record"),
    (errors.UsageError("no"), "malformed-request"),
    (errors.JobNotFoundError("j"), "job-not-found"),
    (errors.DuplicateJobError("j"), "duplicate-job"),
    (errors.StateError("j", "runs"), "state-conflict"),
    (errors.BrokerFullError("enqueue", "OOM"), "broker-full"),
    (errors.BrokerUnavailableError("enqueue", "secret host"), "broker-unavailable"),
    (errors.BrokerDeniedError("enqueue", "WRONGPASS secret"), "broker-unavailable"),
    (errors.DurabilityError("fsync", "secret", "secret"), "durability-unavailable"),
    (errors.DurabilityUnconfirmedError("fsync", "secret", ("j",)), "durability-unconfirmed"),
    (errors.BrokerError("enqueue", "secret"), "internal"),
    (errors.ScriptError("enqueue", "secret"), "internal"),
    (errors.BananasError("secret"), "internal"),
    (RuntimeError("secret"), "internal"),
    (Problem("not-found", "x"), "not-found"),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=[type(e).__name__ for e, _ in CASES])
def test_each_family_has_its_problem(error: BaseException, kind: str) -> None:
    """An error becomes the problem of its family, and tells nothing that is not ours to tell."""
    problem = from_error(error)
    members = json.loads(problem.body())
    assert problem.kind == kind
    assert problem.status == KINDS[kind].status == members["status"]
    assert members["type"] == f"urn:bananas:problem:{kind}"
    assert members["title"] == KINDS[kind].title
    assert members["detail"]
    assert b"secret" not in problem.body()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_an_error_status(kind: str) -> None:
    """A problem is never a success."""
    assert 400 <= KINDS[kind].status <= 599


def test_busy_problems_say_when_to_come_back() -> None:
    """Redis full or away: Retry-After."""
    for error in (errors.BrokerFullError("x", "y"), errors.BrokerUnavailableError("x", "y")):
        assert from_error(error).headers == {"retry-after": "1"}


def test_a_field_has_name_and_rule() -> None:
    """A field's problem has both as members; a name of the caller's making is cut."""
    problem = at_field("f" * 500, "is wrong")
    assert problem.members == {"field": "f" * 128, "rule": "is wrong"}


def test_text_with_surrogates_is_still_json() -> None:
    """A detail with what cannot be encoded does not break the answer."""
    members = json.loads(Problem("internal", "a\ud800b", field="\udfff").body())
    assert members["detail"] == "a?b"
