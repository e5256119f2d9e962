"""Rows of a file: numbers and offsets that hold, and jobs that follow from them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.cli.rows import Ids, Row, Shape, derived_id, read_rows
from bananas.errors import FieldError, PayloadError
from bananas.job import validate_id
from bananas.submission import Drafter

RUN = "00112233445566778899aabbccddeeff"


def rows(data: bytes, *, offset: int = 0, number: int = 0, max_bytes: int = 100) -> list[Row]:
    """Read a file from an offset on."""
    file = io.BytesIO(data)
    file.seek(offset)
    return list(read_rows(file, offset=offset, number=number, max_bytes=max_bytes))


def shape(
    task: str | None = None,
    id_from: str | None = None,
    **options: Any,  # noqa: ANN401 - of the jobs' form
) -> Shape:
    """Return a shape with small limits."""
    return Shape(
        Drafter(max_payload_bytes=200, max_depth=4),
        Ids(RUN, 1_790_000_000_000),
        task=task,
        id_from=id_from,
        options=options,
        max_payload_bytes=200,
        max_depth=4,
    )


def row(line: bytes | None, number: int = 1) -> Row:
    """Return a row of this text."""
    return Row(number, 0, line)


def test_blank_lines_count_and_are_no_rows() -> None:
    """A row's number is the line's, as an editor shows it."""
    assert rows(b"a\n\n  \r\nb\r\nc") == [Row(1, 2, b"a"), Row(4, 10, b"b"), Row(5, 11, b"c")]


def test_a_byte_order_mark_is_no_part_of_the_first_row() -> None:
    """Files from other systems begin with one."""
    assert rows(b"\xef\xbb\xbf{}\n")[0].line == b"{}"


def test_a_line_too_long_is_skipped_whole() -> None:
    """It is one row without a text, and the next one is where it should be."""
    found = rows(b"a\n" + b"x" * 500 + b"\nb\n", max_bytes=10)
    assert found == [Row(1, 2, b"a"), Row(2, 503, None), Row(3, 505, b"b")]


def test_a_line_of_the_greatest_length_is_taken() -> None:
    """The limit is the line's, without its end."""
    assert [len(found.line or b"") for found in rows(b"x" * 10 + b"\r\n", max_bytes=10)] == [10]


@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=30))
def test_reading_can_be_resumed_at_any_row(lines: list[bytes]) -> None:
    """From any row's end on, the rest is what it would have been."""
    data = b"\n".join(lines)
    whole = rows(data)
    for at, found in enumerate(whole):
        assert rows(data, offset=found.end, number=found.number) == whole[at + 1 :]


def test_ids_follow_from_the_run_and_the_line() -> None:
    """The same line of the same run has the same id; all others differ; all are well-formed."""
    first, again, other = Ids(RUN, 1), Ids(RUN, 1), Ids("ff" + RUN[2:], 1)
    ids = [first.of(number) for number in range(1, 2000)]
    assert ids == [again.of(number) for number in range(1, 2000)]
    assert len(set(ids) | {other.of(number) for number in range(1, 2000)}) == 2 * 1999
    assert [validate_id(job_id) for job_id in ids] == ids
    assert again.of(3) == ids[2]


@pytest.mark.parametrize(
    ("payload", "job_id"),
    [
        ({"n": 5}, "load:5"),
        ({"n": "AB-1.x"}, "load:AB-1.x"),
        ({"n": -7}, "load:-7"),
    ],
)
def test_an_id_made_of_a_field_can_be_read(payload: object, job_id: str) -> None:
    """Whoever knows the row can name the job."""
    assert derived_id("load", payload, "n") == job_id


@pytest.mark.parametrize("value", ["", "two words", "é", "x" * 200, "a/b"])
def test_an_id_of_a_value_that_no_id_may_hold_is_a_hash(value: str) -> None:
    """It is well-formed, and the same each time."""
    made = derived_id("load", {"n": value}, "n")
    assert validate_id(made) == made == derived_id("load", {"n": value}, "n")
    assert made != derived_id("load", {"n": value + "!"}, "n")


@pytest.mark.parametrize("payload", [{}, {"n": None}, {"n": True}, {"n": 1.5}, {"n": [1]}, [1], 5])
def test_a_row_without_the_field_is_refused(payload: object) -> None:
    """The error names the field."""
    with pytest.raises(FieldError) as caught:
        derived_id("load", payload, "n")
    assert caught.value.field == "n"


def test_a_payload_goes_through_untouched() -> None:
    """With --task the row's bytes are the payload's: no number or spacing changes."""
    line = b'{"a": 1.50, "b": 12345678901234567890123}'
    draft = shape(task="load").draft(row(line))
    assert (draft.form.name, draft.payload) == ("load", line)
    assert draft.job_id == Ids(RUN, 1_790_000_000_000).of(1)


def test_options_hold_for_all_payloads() -> None:
    """They are part of the form."""
    form = shape(task="load", priority="high", max_retries=7).draft(row(b"{}")).form
    assert (form.priority, form.max_retries) == ("high", 7)


def test_a_submission_keeps_what_it_says() -> None:
    """Its own id, priority and all; the rest has its defaults."""
    draft = shape().draft(row(b'{"name":"a","payload":[1],"priority":"low","id":"mine"}'))
    assert (draft.job_id, draft.form.priority, draft.payload) == ("mine", "low", b"[1]")
    assert shape(id_from="k").draft(row(b'{"name":"a","payload":{"k":3}}')).job_id == "a:3"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"nope", "line"),
        (b"[1]", "line"),
        (b'{"payload":1}', "name"),
        (b'{"name":"a","prio":1}', "prio"),
        (b'{"name":"a","priority":"urgent"}', "priority"),
        (None, "line"),
    ],
)
def test_a_bad_submission_names_its_field(line: bytes | None, field: str) -> None:
    """A row that breaks a rule says which."""
    with pytest.raises(FieldError) as caught:
        shape().draft(row(line))
    assert caught.value.field == field


@pytest.mark.parametrize("line", [b"nope", b"[[[[[1]]]]]", b'"' + b"x" * 300 + b'"'])
def test_a_bad_payload_says_why(line: bytes) -> None:
    """No JSON, too deep, too large."""
    with pytest.raises(PayloadError):
        shape(task="load").draft(row(line))
    with pytest.raises(PayloadError):
        shape(task="load").wire(row(line))


def test_the_wire_has_the_same_job() -> None:
    """Through HTTP a row is the job that it would be through Python."""
    line = b'{"k": 1.50}'
    sent = shape(task="load", id_from=None, priority="low").wire(row(line, 9))
    assert sent.endswith(b'"payload":{"k": 1.50}}')
    assert json.loads(sent) == {
        "name": "load",
        "id": Ids(RUN, 1_790_000_000_000).of(9),
        "priority": "low",
        "payload": {"k": 1.5},
    }
    whole = json.loads(shape().wire(row(b'{"name":"a","prio":1}')))
    assert whole == {"name": "a", "prio": 1, "id": Ids(RUN, 1_790_000_000_000).of(1)}
