"""The job: what its record says, and what the rules of the wire are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.errors import DecodeError, FieldError, NewerRecordError
from bananas.job import (
    STATUSES,
    Job,
    cut_error,
    validate_id,
    validate_name,
    validate_priority,
    validate_routing_key,
    validate_time,
)

if TYPE_CHECKING:
    from collections.abc import Callable

JOB = Job(
    id="01932f5e-7d60-7a3b-8c1d-000000000001",
    name="send_email",
    payload_json=b'{"to": "a@example.com"}',
    created_at="2026-11-24T02:53:15.123456Z",
    updated_at="2026-11-24T02:53:15.123456Z",
)
FULL = JOB.with_(
    description="é",
    status="scheduled",
    priority="high",
    routing_key="gpu",
    scheduled_for="2026-11-24T03:00:00Z",
    attempts=1,
    max_retries=5,
    error="boom",
    timeout_s=30.0,
    result=True,
    expires_at="2026-11-25T00:00:00Z",
    crashes=1,
    unclaimed=2,
    extras=b'"trace":{"id" : 7},"v":1',
    place="route:gpu:queue:high",
)


def foreign(**members: object) -> bytes:
    """A record as another program writes it."""
    return json.dumps({"id": "a", "name": "t", **members}).encode()


def test_a_record_comes_back() -> None:
    """Decoding what was encoded gives the job, and encoding that the same bytes."""
    for job in (JOB, FULL):
        record = job.encode(job.place)
        assert Job.decode(record) == job
        assert Job.decode(record).encode(job.place) == record


def test_the_place_is_the_last_member() -> None:
    """A job is written with the place it is put in, or with none."""
    assert FULL.encode("queue:low").endswith(b',"v":1,"list":"queue:low"}')
    assert JOB.encode(None).endswith(b',"attempts":0,"max_retries":3}')


def test_a_job_is_immutable_and_compares_by_value() -> None:
    """Nothing is assigned to a job; with_ makes another one."""
    with pytest.raises(AttributeError):
        JOB.status = "failed"  # type: ignore[misc]
    assert JOB.with_(attempts=1) != JOB
    assert JOB.with_(attempts=0) == JOB
    assert hash(JOB) == hash(JOB.with_())


def test_what_a_foreign_record_leaves_out_has_its_default() -> None:
    """Two members are enough for a job."""
    job = Job.decode(b'{"name":"t","id":"a"}', max_retries=7)
    assert job == Job(id="a", name="t", payload_json=b"{}", max_retries=7)
    assert (job.payload, job.status, job.priority, job.routing_key) == (
        *({}, "pending", "normal", "default"),
    )
    empty = foreign(status="", priority="", routing_key="", created_at="", scheduled_for="")
    assert Job.decode(empty) == Job(id="a", name="t", payload_json=b"{}")
    assert Job.decode(foreign(scheduled_for="2026-11-24T03:00:00Z")).status == "scheduled"


def test_a_foreign_record_survives() -> None:
    """Payload and unknown members go through byte for byte."""
    record = b'{ "v":1.0, "payload" : {"b": 1.50,"a":[ ]} , "id":"a","name":"t","t":"\\u00e9" }'
    again = Job.decode(record).with_(attempts=1).encode("queue:normal")
    assert b',"payload":{"b": 1.50,"a":[ ]},' in again
    assert b',"v":1.0,"t":"\\u00e9","list":"queue:normal"}' in again


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'{"id":"a"', "not valid JSON"),
        (b'{"id":"a"}', "name: is required"),
        (b'{"name":"t"}', "id: is required"),
        (foreign(attempts="x"), '"attempts" must be a number'),
        (foreign(status="running"), "status: must be one of pending, scheduled"),
        (foreign(priority="urgent"), "priority: must be one of high, normal, low"),
        (foreign(routing_key="a b"), r"routing_key: must match \^"),
        (foreign(scheduled_for="tomorrow"), "scheduled_for: must be an RFC 3339 time"),
        (foreign(expires_at="2026-11-24T03:00:00"), "expires_at: must be an RFC 3339 time"),
        (foreign(timeout_s=0), "timeout_s: must be > 0"),
        (foreign(timeout_s=-1.5), "timeout_s: must be > 0"),
        (b'{"id":"a","name":"t","x":[1 2]}', "."),
        (b'{"id":"a","name":"t","x":"\xff"}', "."),
        (foreign(payload=json.loads("[" * 65 + "]" * 65)), "nested deeper than 64"),
    ],
)
def test_a_broken_record_is_a_decode_error(record: bytes, words: str) -> None:
    """The error says which rule was broken and keeps the bytes."""
    with pytest.raises(DecodeError, match=f"^broken job record: .*{words}") as caught:
        Job.decode(record)
    assert caught.value.data == record


def test_a_broken_payload_fails_when_it_is_read() -> None:
    """A record is fine as long as nobody looks into its payload."""
    job = Job.decode(b'{"id":"a","name":"t","payload":{"a" 1}}')
    with pytest.raises(DecodeError):
        _ = job.payload


def test_bad_times_that_nobody_needs_are_no_error() -> None:
    """created_at and updated_at of another program may be anything."""
    job = Job.decode(foreign(created_at="yesterday", updated_at="2026-11-24T03:53:15+01:00"))
    assert job.created_us is None
    assert job.updated_us == 1_795_488_795_000_000
    assert job.scheduled_us is None
    assert FULL.expires_us == 1_795_564_800_000_000


def test_finishing_leaves_the_rest_untouched() -> None:
    """The end of a job is in its record; all else is as it was."""
    record = FULL.finish("completed", "2026-11-24T04:00:00Z", 2)
    assert Job.decode(record) == FULL.with_(
        status="completed", updated_at="2026-11-24T04:00:00Z", attempts=2
    )


def test_texts_are_decoded_when_asked_for() -> None:
    """Description and error are text to the reader and JSON in the record."""
    assert (FULL.description, FULL.error) == ("é", "boom")
    assert (JOB.description, JOB.error) == (None, None)
    cleared = FULL.with_(description=None, error=None)
    assert (cleared.description_json, cleared.error_json) == (None, None)
    assert Job.decode(rb'{"id":"a","name":"t","error":"\u00e9\n"}').error == "é\n"


def test_errors_are_cut() -> None:
    """An error holds 4 KiB at most, cut between characters."""
    assert cut_error("short") == "short"
    assert cut_error("x" * 4096) == "x" * 4096
    for text in ("x" * 5000, "é" * 5000, "😀" * 5000, "\ud800" * 5000):
        cut = cut_error(text)
        assert 4092 < len(cut.encode()) <= 4096
        assert cut.endswith("…")
        assert JOB.with_(error=text).error == cut


def test_a_job_as_a_mapping_is_its_record_decoded() -> None:
    """Members in the order of the wire, unknown ones after, the place left out."""
    assert FULL.to_dict() == {
        name: value for name, value in json.loads(FULL.encode("x")).items() if name != "list"
    }
    assert list(FULL.to_dict()) == [n for n in json.loads(FULL.encode("x")) if n != "list"]
    assert list(JOB.to_dict()) == list(json.loads(JOB.encode(None)))


def test_every_status_is_known() -> None:
    """The six words of the wire are read back."""
    for status in STATUSES:
        assert Job.decode(foreign(status=status)).status == status


@pytest.mark.parametrize(
    ("validate", "good", "bad"),
    [
        (validate_id, ["a", "A.b:c_d-9", "x" * 128], ["", "x" * 129, "a b", "é", "a\n", "a/b"]),
        (validate_name, ["send_email", "mod:fn", "a.b"], ["", "x" * 129, "a b", "a{b}", "\uff41"]),
        (validate_routing_key, ["gpu", "A_b-9", "x" * 64], ["", "x" * 65, "a:b", "a.b", "a\n"]),
        (validate_priority, ["high", "normal", "low"], ["", "HIGH", "urgent"]),
    ],
)
def test_names_have_rules(
    validate: Callable[[object], str], good: list[str], bad: list[str]
) -> None:
    """A good value is given back; a bad one is a FieldError that names field and rule."""
    for value in good:
        assert validate(value) == value
    field = validate.__name__.removeprefix("validate_")
    for value in (*bad, None, 1, b"a"):
        with pytest.raises(FieldError, match=rf"^{field}: must ") as caught:
            validate(value)
        assert caught.value.field == field


def test_times_are_brought_to_our_form() -> None:
    """Whatever offset a caller uses, the record holds UTC with microseconds."""
    assert validate_time("scheduled_for", "2026-11-24 03:53:15+01:00") == (
        "2026-11-24T02:53:15.000000Z"
    )
    for value in ("soon", "2026-11-24T03:53:15", 5, None):
        with pytest.raises(FieldError, match=r"^scheduled_for: must be"):
            validate_time("scheduled_for", value)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_foreign_text_survives(text: str) -> None:
    """A foreign id and name may hold anything; they come back from our writing of them."""
    job = Job(id=text, name=text).with_(description=text)
    again = Job.decode(job.encode("queue:normal"))
    assert (again.id, again.name, again.description) == (text, text, text)


ORDINARY: dict[str, object] = {
    "id": "j",
    "name": "t",
    "payload": {},
    "status": "pending",
    "priority": "normal",
    "routing_key": "default",
    "created_at": "2026-01-02T03:04:05.000006Z",
    "updated_at": "2026-01-02T03:04:05.000006Z",
    "attempts": 0,
    "max_retries": 5,
    "list": "queue:normal",
}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"id": ""}, "id"),
        ({"name": ""}, "name"),
        ({"status": "odd"}, "status"),
        ({"priority": "odd"}, "priority"),
        ({"routing_key": "a b"}, "routing_key"),
        ({"scheduled_for": "odd"}, "scheduled_for"),
        ({"expires_at": "odd"}, "expires_at"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_one_odd_member_of_an_ordinary_record_is_found(odd: dict[str, object], reason: str) -> None:
    """Each rule is looked at, whatever else there is nothing to be said about."""
    data = json.dumps(ORDINARY | odd).encode()
    with pytest.raises(DecodeError, match=reason):
        Job.decode(data)


@pytest.mark.parametrize(
    ("absent", "value"),
    [("max_retries", 7), ("status", "pending"), ("priority", "normal"), ("routing_key", "default")],
)
def test_one_absent_member_of_an_ordinary_record_has_its_default(
    absent: str, value: object
) -> None:
    """Whichever it is, though the rest be as we write it."""
    members = {name: value for name, value in ORDINARY.items() if name != absent}
    assert getattr(Job.decode(json.dumps(members).encode(), max_retries=7), absent) == value


def test_an_unknown_member_that_cannot_be_read_is_found() -> None:
    """It would be met too late otherwise, when somebody asks to see the job."""
    data = json.dumps(ORDINARY).encode()[:-1] + b',"more":%b}' % (b"9" * 5000)
    with pytest.raises(DecodeError, match="digits"):
        Job.decode(data)


def test_an_ordinary_record_of_a_newer_protocol_is_known_as_one() -> None:
    """Its number alone tells, though every rule of ours is kept."""
    with pytest.raises(NewerRecordError):
        Job.decode(json.dumps(ORDINARY | {"protocol": 2}).encode())
