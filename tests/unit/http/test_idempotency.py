"""Idempotency keys and the ids that are derived from them."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.http.idempotency import KEY_PATTERN, derived_id, read_key
from bananas.http.problems import Problem
from bananas.job import validate_id

keys = st.binary(min_size=1, max_size=255)


@given(keys, st.integers(0, 10**9))
def test_an_id_is_a_uuid_that_holds_no_time(key: bytes, line: int) -> None:
    """Derived ids are UUIDs of version 8, valid as ids of jobs, and always the same."""
    job_id = derived_id(key, line)
    assert validate_id(job_id) == job_id
    assert UUID(job_id).version == 8
    assert UUID(job_id).variant == "specified in RFC 4122"
    assert derived_id(key, line) == job_id


@given(keys, keys, st.integers(0, 99), st.integers(0, 99))
def test_other_keys_and_lines_are_other_jobs(
    key: bytes, other: bytes, line: int, other_line: int
) -> None:
    """No two of key and line share an id."""
    same = (key, line) == (other, other_line)
    assert (derived_id(key, line) == derived_id(other, other_line)) == same


def test_the_id_of_a_key_never_changes() -> None:
    """A key means the same job after an upgrade."""
    assert derived_id(b"k-1") == "7c0acdb8-496c-827e-afde-2f906a3a5425"
    assert derived_id(b"k-1", 7) == "a95878d9-10ba-8465-b287-fc1ea5e46346"


def test_a_quoted_key_is_the_key() -> None:
    """Both forms of the header name the same key."""
    assert read_key({b"idempotency-key": b'"a b"'}) == b"a b"
    assert read_key({b"idempotency-key": b" ab "}) == read_key({b"idempotency-key": b'"ab"'})
    assert read_key({}) is None


@given(st.binary(max_size=300))
def test_a_key_matches_its_pattern_or_is_refused(value: bytes) -> None:
    """The documented pattern is the rule."""
    matches = re.fullmatch(KEY_PATTERN.encode(), value.strip()) is not None
    try:
        key = read_key({b"idempotency-key": value})
    except Problem:
        key = None
    assert (key is not None) == matches
    assert key is None or (key and b'"' not in key)


@pytest.mark.parametrize("value", [b"", b'""', b'"', b'a"', b"a\\b", b"x" * 256])
def test_odd_keys_are_refused(value: bytes) -> None:
    """Empty, half-quoted and endless keys are errors."""
    with pytest.raises(Problem):
        read_key({b"idempotency-key": value})
