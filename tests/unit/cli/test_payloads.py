"""Payloads as people write them."""

from __future__ import annotations

import io
from typing import Any

import pytest

from bananas.cli.payloads import parse_json, read_payload
from bananas.errors import FieldError


@pytest.mark.parametrize(
    ("words", "payload"),
    [
        ((), {}),
        (("x=1", "y=2.5"), {"x": 1, "y": 2.5}),
        (("name=Ann", "on=true", "none=null"), {"name": "Ann", "on": True, "none": None}),
        (('digits="5"',), {"digits": "5"}),
        (("list=[1,2]", "text=a=b"), {"list": [1, 2], "text": "a=b"}),
        (("empty=",), {"empty": ""}),
        (('{"a": "b=c"}',), {"a": "b=c"}),
        (("[1]",), [1]),
        (("5",), 5),
        (('"text"',), "text"),
        (("big=123456789012345678901234567890",), {"big": 123456789012345678901234567890}),
    ],
)
def test_words_mean_what_they_look_like(words: tuple[str, ...], payload: object) -> None:
    """JSON where it is JSON, text where it is not."""
    assert read_payload(words) == payload


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("hello",), "must be JSON"),
        (("x=1", "foo"), '"foo" is no pair'),
        (("x=1", "x=2"), 'names "x" twice'),
        (('{"a": 1}', "x=1"), "is no pair"),
        (("NaN",), "must be JSON"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: tuple[str, ...], rule: str) -> None:
    """The error names the payload and the rule."""
    with pytest.raises(FieldError, match=rule) as caught:
        read_payload(words)
    assert caught.value.field == "payload"


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payload may be too long for a command line."""

    class Stdin:
        buffer: Any = io.BytesIO(b'{"a": 1}\n')

    monkeypatch.setattr("sys.stdin", Stdin())
    assert read_payload(("-",)) == {"a": 1}


def test_json_errors_name_the_option() -> None:
    """Where several texts are given, the one that is wrong is named."""
    with pytest.raises(FieldError, match="--edit"):
        parse_json("payload", b"{", "--edit")
