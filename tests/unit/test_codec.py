"""Payloads to JSON and back, with orjson and without."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import sys
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas import codec
from bananas.codec import check_json, decode_payload, decode_text, encode_payload, encode_text
from bananas.errors import DecodeError, PayloadError, PayloadTypeError
from bananas.speedups import DEPTH_CEILING

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(params=["orjson", "json"], autouse=True)
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test on both paths: the fast one, and the one where orjson is missing."""
    if request.param == "json":
        monkeypatch.setattr(codec, "_dumps", None)
        monkeypatch.setattr(codec, "_loads", None)


class Colour(enum.Enum):
    """A plain enum."""

    RED = "red"


class Level(enum.IntEnum):
    """An enum that is an integer, too."""

    HIGH = 3


class Odd(enum.Enum):
    """An enum whose value is no JSON either."""

    NOT = math.nan
    SET = frozenset({1})


@dataclasses.dataclass
class Row:
    """A dataclass as a batch task takes it."""

    carrier: str
    delays: tuple[float, ...] = ()
    _note: str = ""


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the plain one is what is tested


class Metres(float):
    """A subclass of float, as numpy's are."""


class Grams(int):
    """A subclass of int."""


class Name(str):
    """A subclass of str."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        ({"a": [1, 2.5, True, None, "x"]}, b'{"a":[1,2.5,true,null,"x"]}'),
        ({"é": "ü😀"}, '{"é":"ü😀"}'.encode()),
        ((1, (2,)), b"[1,[2]]"),
        (Colour.RED, b'"red"'),
        ({"level": Level.HIGH}, b'{"level":3}'),
        (Row("UA", (1.5,)), b'{"carrier":"UA","delays":[1.5],"_note":""}'),
        (Point(1, 2), b"[1,2]"),
        (OrderedDict(b=1, a=2), b'{"b":1,"a":2}'),
        ([Metres(1.5), Grams(7), Name("n")], b'[1.5,7,"n"]'),
        (UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (datetime(2026, 11, 24, 2, 53, tzinfo=UTC), b'"2026-11-24T02:53:00+00:00"'),
        ([date(2026, 11, 24), time(2, 53)], b'["2026-11-24","02:53:00"]'),
        (
            [2**63, 2**64, -(2**63) - 1],
            b"[9223372036854775808,18446744073709551616,-9223372036854775809]",
        ),
        ("\x00\x1f", b'"\\u0000\\u001f"'),
    ],
)
def test_values_have_one_form(value: object, data: bytes) -> None:
    """Each kind of value is written the same with and without orjson."""
    assert encode_payload(value) == data


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf],
        {"a": {"b": (-math.inf,)}},
        Row("UA", (math.nan,)),
        Odd.NOT,
        [Metres("nan")],
    ],
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [None, v]], ids=["alone", "inside"])
def test_numbers_without_a_json_form_are_refused(
    value: object, wrap: Callable[[object], object]
) -> None:
    """NaN and infinity never turn into null."""
    with pytest.raises(PayloadError, match="NaN and infinity have no JSON form"):
        encode_payload(wrap(value), task="load")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"bytes", "bytes has no JSON form"),
        ({"a": {1, 2}}, "set has no JSON form"),
        ([object()], "object has no JSON form"),
        (Row, "type has no JSON form"),
        (Odd.SET, "frozenset has no JSON form"),
        (1j, "complex has no JSON form"),
        ({1: 2}, "keys must be strings, not int"),
        ([{None: 2}], "keys must be strings, not NoneType"),
    ],
)
def test_values_without_a_json_form_are_refused(value: object, words: str) -> None:
    """The error names the type, and the task."""
    with pytest.raises(PayloadTypeError, match=words) as caught:
        encode_payload(value, task="load")
    assert isinstance(caught.value, TypeError)
    assert 'payload of "load"' in str(caught.value)


def test_unpaired_surrogates_are_refused() -> None:
    """Text that UTF-8 cannot hold is refused, in values and in keys."""
    for value in ("\ud800", {"\udfff": 1}):
        with pytest.raises(PayloadError, match="unpaired surrogate"):
            encode_payload(value)


def test_integers_of_any_printable_size_are_kept() -> None:
    """Beyond 64 bits nothing is rounded; beyond what Python prints it is refused clearly."""
    for number in (2**64, -(2**64), 10**4000):
        assert decode_payload(encode_payload([number])) == [number]
    with pytest.raises(PayloadError, match="digits"):
        encode_payload([10**5000])
    with pytest.raises(DecodeError, match="digits"):
        decode_payload(b"9" * 100_000)
    with pytest.raises(PayloadError, match="digits"):
        check_json(b"9" * 100_000)


def test_size_is_limited() -> None:
    """The limit counts encoded bytes."""
    assert encode_payload("é" * 4, max_bytes=10) == '"éééé"'.encode()
    with pytest.raises(PayloadError, match="10 bytes, the limit is 9"):
        encode_payload("é" * 4, max_bytes=9)
    with pytest.raises(PayloadError, match="10 bytes, the limit is 9"):
        check_json('"éééé"'.encode(), max_bytes=9)


def nested(depth: int) -> list[object]:
    """Lists in lists."""
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth_is_limited() -> None:
    """As deep as the limit is allowed; one deeper, a bomb or a circle is refused."""
    assert encode_payload(nested(64)) == b"[" * 64 + b"]" * 64
    check_json(b"[" * 64 + b"]" * 64)
    circle: dict[str, object] = {}
    circle["self"] = circle
    for value in (nested(65), nested(900), circle):
        with pytest.raises(PayloadError, match="nested deeper than 64"):
            encode_payload(value)
    for depth in (65, 100_000):
        with pytest.raises(PayloadError, match="nested deeper than 64"):
            check_json(b"[" * depth + b"]" * depth)
    assert encode_payload([[1], [2]] * 64) == b"[" + b",".join([b"[1],[2]"] * 64) + b"]"
    with pytest.raises(DecodeError):
        decode_payload(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1,]",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"1e400",
        b"01",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'{"\\udc00":1}',
        b'"\n"',
        b"\xef\xbb\xbf1",
        '"x"'.encode("utf-16"),
        b"{'a':1}",
        b"1 2",
    ],
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    """Both paths are strict, and the error keeps the bytes."""
    for text in (data, b"[%b,%b]" % (b"1" * 19, data)):  # the second takes the careful path
        with pytest.raises(DecodeError) as caught:
            decode_payload(text)
        assert caught.value.data == text
        with pytest.raises(PayloadError):
            check_json(text)


def test_the_careful_path_has_the_same_depth_whatever_the_stack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program that has raised Python's limit reads what others read, and no more."""
    ordinary = sys.getrecursionlimit()
    monkeypatch.setattr(codec, "_loads", None)
    sys.setrecursionlimit(20_000)
    try:
        decode_payload(b"[" * DEPTH_CEILING + b"]" * DEPTH_CEILING)
        with pytest.raises(DecodeError, match="nested deeper than 1024"):
            decode_payload(b"[" * (DEPTH_CEILING + 1) + b"]" * (DEPTH_CEILING + 1))
    finally:
        sys.setrecursionlimit(ordinary)


def test_duplicate_keys_and_minus_zero_are_read() -> None:
    """What JSON allows is read: the last duplicate counts."""
    assert decode_payload(b'{"a":1,"a":2}') == {"a": 2}
    assert decode_payload(b"[-0, -0.0]") == [0, 0]
    assert decode_payload(rb'"\ud83d\ude00"') == "😀"


def test_long_digits_do_not_change_the_value() -> None:
    """Digits in strings and in fractions are no integers."""
    assert decode_payload(b'["12345678901234567890", 0.12345678901234567890]') == [
        "12345678901234567890",
        0.12345678901234567890,
    ]
    assert decode_payload(b"12345678901234567890123") == 12345678901234567890123


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda v: st.lists(v, max_size=5) | st.dictionaries(st.text("abcé"), v, max_size=5),
        max_leaves=20,
    )
)
def test_values_come_back(value: object) -> None:
    """What goes in comes out, and is what the standard library reads."""
    data = encode_payload(value)
    assert decode_payload(data) == value
    assert json.loads(data) == value
    check_json(data)


def test_text_never_fails() -> None:
    """Errors hold any text a program makes, so an unpaired surrogate becomes a mark."""
    assert decode_text(encode_text('a"\n\x00é😀')) == 'a"\n\x00é😀'
    assert decode_text(encode_text("bad \ud800 text")) == "bad ? text"
