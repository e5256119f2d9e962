"""Payloads as people write them on a command line: JSON, standard input, or k=v pairs."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

from bananas.codec import decode_payload
from bananas.errors import DecodeError, FieldError

if TYPE_CHECKING:
    from collections.abc import Sequence

_match_pair: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL).fullmatch


def read_payload(words: Sequence[str]) -> Any:  # noqa: ANN401 - JSON is what it is
    """Return the payload that the words of a command line mean.

    Args:
        words: None = `{}`; `-` = JSON from standard input; `k=v …` = an object, each value
            JSON where it is such, else text; any other single word = JSON.

    Raises:
        FieldError: They mean nothing.
    """
    if not words:
        return {}
    if list(words) == ["-"]:
        return parse_json("payload", sys.stdin.buffer.read(), "standard input")
    pairs = [_match_pair(word) for word in words]
    if all(pairs):
        payload: dict[str, Any] = {}
        for pair in pairs:
            assert pair is not None  # noqa: S101 - all of them matched
            name, text = pair.groups()
            if name in payload:
                raise FieldError("payload", f'names "{name}" twice', text)
            payload[name] = _value(text)
        return payload
    if len(words) > 1:
        wrong = next(word for word, pair in zip(words, pairs, strict=True) if pair is None)
        raise FieldError(
            "payload", f'must be one JSON text, or k=v pairs only; "{wrong}" is no pair'
        )
    return parse_json("payload", words[0].encode(), f'"{words[0]}"')


def parse_json(field: str, data: bytes, where: str) -> Any:  # noqa: ANN401 - JSON is what it is
    """Read JSON that a person wrote.

    Raises:
        FieldError: It is not JSON.
    """
    try:
        return decode_payload(data)
    except DecodeError as error:
        raise FieldError(field, f"must be JSON: {error.why} (in {where})") from None


def _value(text: str) -> Any:  # noqa: ANN401 - JSON is what it is
    try:
        return decode_payload(text.encode())
    except DecodeError:
        return text
