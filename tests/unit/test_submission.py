"""What may be submitted: every field, its rule, and the words in which it is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from bananas import submission
from bananas.errors import FieldError, PayloadError, PayloadTypeError
from bananas.speedups import parse_time
from bananas.submission import MAX_RETRIES_CEILING, Drafter, Submission, Verdict, Verdicts

NOW_US = 1_800_000_000_000_000


class FixedClock:
    """A clock that stands."""

    def real_us(self) -> int:
        """Return always the same."""
        return NOW_US

    def mono_s(self) -> float:
        """Return always the same."""
        return 0.0

    def boot_ns(self) -> int:
        """Return always the same."""
        return 0


@pytest.fixture
def drafter() -> Drafter:
    """Return a drafter with small limits."""
    return Drafter(max_retries=3, max_payload_bytes=100, max_depth=4, clock=FixedClock())


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({}, "name"),
    ({"name": ""}, "name"),
    ({"name": "a b"}, "name"),
    ({"name": 7}, "name"),
    ({"name": ["t"]}, "name"),
    ({"name": "t", "priority": "urgent"}, "priority"),
    ({"name": "t", "priority": ["high"]}, "priority"),
    ({"name": "t", "routing_key": "a/b"}, "routing_key"),
    ({"name": "t", "description": 5}, "description"),
    ({"name": "t", "description": "x" * 4097}, "description"),
    ({"name": "t", "scheduled_for": "tomorrow"}, "scheduled_for"),
    ({"name": "t", "scheduled_for": "1969-12-31T23:59:59Z"}, "scheduled_for"),
    ({"name": "t", "scheduled_for": datetime(2026, 1, 1)}, "scheduled_for"),  # noqa: DTZ001
    ({"name": "t", "delay_s": -1}, "delay_s"),
    ({"name": "t", "delay_s": float("nan")}, "delay_s"),
    ({"name": "t", "delay_s": True}, "delay_s"),
    ({"name": "t", "delay_s": 5, "scheduled_for": "2026-01-01T00:00:00Z"}, "delay_s"),
    ({"name": "t", "max_retries": -1}, "max_retries"),
    ({"name": "t", "max_retries": MAX_RETRIES_CEILING + 1}, "max_retries"),
    ({"name": "t", "max_retries": True}, "max_retries"),
    ({"name": "t", "max_retries": 1.0}, "max_retries"),
    ({"name": "t", "id": "a b"}, "id"),
    ({"name": "t", "id": "x" * 129}, "id"),
    ({"name": "t", "id": 5}, "id"),
    ({"name": "t", "timeout_s": 0}, "timeout_s"),
    ({"name": "t", "timeout_s": "5s"}, "timeout_s"),
    ({"name": "t", "result": "yes"}, "result"),
    ({"name": "t", "result": 1}, "result"),
    ({"name": "t", "expires_at": 5}, "expires_at"),
    ({"name": "t", "prority": "high"}, "prority"),
]


@pytest.mark.parametrize(("members", "field"), BROKEN, ids=[str(m)[:60] for m, _ in BROKEN])
def test_a_broken_field_is_named(drafter: Drafter, members: dict[str, Any], field: str) -> None:
    """A submission that breaks a rule is refused by the name of the field, wherever it enters."""
    for attempt in (drafter.draft, Submission.from_mapping):
        with pytest.raises(FieldError) as caught:
            attempt(members)
        assert caught.value.field == field
        assert caught.value.rule


def test_look_alikes_are_not_accepted_for_their_twins(drafter: Drafter) -> None:
    """A wrong value equal to a right one submitted before is still refused."""
    for right in ({"max_retries": 1}, {"max_retries": MAX_RETRIES_CEILING}, {"result": True}):
        drafter.draft({"name": "t", **right})
    for wrong in ({"max_retries": True}, {"max_retries": 1.0}, {"result": 1}):
        with pytest.raises(FieldError):
            drafter.draft({"name": "t", **wrong})


def test_only_so_many_forms_are_remembered(
    drafter: Drafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names come from outside: a process that lives long must not keep them all."""
    monkeypatch.setattr(submission, "_FORMS_KEPT", 3)
    for number in range(10):
        drafter.draft({"name": f"t{number % 5}", "priority": "high"})
        assert 1 <= len(drafter._forms) <= 3


def test_not_an_object_is_refused(drafter: Drafter) -> None:
    """Something that is no mapping at all has its own rule."""
    with pytest.raises(FieldError, match="must be an object, not list"):
        drafter.draft([1])  # type: ignore[arg-type]


def test_payload_limits_hold(drafter: Drafter) -> None:
    """Payloads too large, too deep or without a JSON form are refused."""
    with pytest.raises(PayloadError, match="limit is 100"):
        drafter.draft({"name": "t", "payload": {"x": "y" * 200}})
    with pytest.raises(PayloadError, match="nested deeper than 4"):
        drafter.draft({"name": "t", "payload": [[[[[1]]]]]})
    with pytest.raises(PayloadTypeError, match='payload of "t"'):
        drafter.draft({"name": "t", "payload": {"x": {1, 2}}})


def test_absent_and_null_members_have_their_defaults(drafter: Drafter) -> None:
    """Only the name is required; null is absent, but for the payload, where it is a value."""
    form, payload, job_id = drafter.draft(
        {"name": "t", "priority": None, "routing_key": None, "id": None, "result": None}
    )
    assert payload == b"{}"
    assert job_id is None
    assert (form.priority, form.routing_key, form.max_retries) == ("normal", "default", 3)
    assert (form.result, form.due, form.scheduled_for) == (False, None, None)
    assert drafter.draft({"name": "t", "payload": None}).payload == b"null"


def test_every_way_of_saying_it_gives_the_same_draft(drafter: Drafter) -> None:
    """A mapping, a Submission, and a Submission read from the mapping are drafted alike."""
    members = {
        "name": "t",
        "payload": {"a": 1},
        "priority": "high",
        "routing_key": "gpu",
        "description": 'for "people","payload":0,',
        "max_retries": 9,
        "id": "mine",
        "timeout_s": 1.5,
        "result": True,
        "expires_at": "2026-01-01T00:00:00+01:00",
        "scheduled_for": "2026-01-01T00:00:00.5+01:00",
    }
    from_mapping = drafter.draft(members)
    assert drafter.draft(Submission(**members)) == from_mapping  # type: ignore[arg-type]
    assert drafter.draft(Submission.from_mapping(members)) == from_mapping
    assert from_mapping.form.scheduled_for == "2025-12-31T23:00:00.500000Z"
    assert from_mapping.form.due == "1767222000.500000"
    assert from_mapping.form.expires_at == "2025-12-31T23:00:00.000000Z"


def test_aware_datetimes_are_instants(drafter: Drafter) -> None:
    """A datetime of any zone is the instant it names."""
    when = datetime(2026, 1, 1, 1, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=1)))
    form = drafter.draft({"name": "t", "scheduled_for": when}).form
    assert form.scheduled_for is not None
    assert parse_time(form.scheduled_for) == int(when.timestamp() * 1_000_000)
    utc = when.astimezone(UTC)
    assert drafter.draft({"name": "t", "scheduled_for": utc}).form == form


def test_a_delay_is_left_to_the_clock_of_the_server(drafter: Drafter) -> None:
    """A delay goes out as milliseconds from then; only the text for people is of our clock."""
    form = drafter.draft({"name": "t", "delay_s": 1.5}).form
    assert form.due == "+1500"
    assert form.scheduled_for is not None
    assert parse_time(form.scheduled_for) == NOW_US + 1_500_000
    assert drafter.draft({"name": "t", "delay_s": 0.0001}).form.due == "+1"
    assert drafter.draft({"name": "t", "delay_s": 0}).form.due is None


def test_verdicts_are_a_sequence() -> None:
    """Verdicts compare, slice and count like a list of them, exceptions in their places."""
    refused = Verdict(11, None, "rejected", "name", "is required")
    verdicts = Verdicts(10, ["a", None, "c"], {11: refused})
    assert verdicts == [Verdict(10, "a", "accepted"), refused, Verdict(12, "c", "accepted")]
    assert verdicts[-1].id == "c"
    assert verdicts[1:] == [refused, Verdict(12, "c", "accepted")]
    assert verdicts.exceptions == [refused]
    assert refused in verdicts
    with pytest.raises(IndexError):
        verdicts[3]
    verdicts.extend(Verdicts(13, ["d"]))
    assert [v.index for v in verdicts] == [10, 11, 12, 13]
    assert "Verdicts of 4" in repr(verdicts)
