"""Payloads to JSON bytes and back, within limits: what comes out is what went in, or an error.

orjson does the work where it is sure to be exact. It would turn NaN into `null` and an
integer beyond 64 bits into a float; such values take the careful path through the standard
library, which is also what runs where orjson is missing. Both paths accept the same values.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from uuid import UUID

from bananas.errors import DecodeError, PayloadError, PayloadTypeError
from bananas.speedups import DEPTH_CEILING, has_long_number, json_depth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 64

_dumps: Callable[[object, Callable[[object], object], int], bytes] | None = None
_loads: Callable[[bytes], Any] | None = None
_options = 0
try:
    import orjson
except ImportError:  # a platform without a wheel: the careful path does it all
    pass
else:
    _dumps, _loads = orjson.dumps, orjson.loads
    # What has several forms gets its one form from `_as_plain`, on both paths.
    _options = (
        orjson.OPT_PASSTHROUGH_DATACLASS
        | orjson.OPT_PASSTHROUGH_DATETIME
        | orjson.OPT_PASSTHROUGH_SUBCLASS
    )


def encode_payload(
    value: object,
    *,
    max_bytes: int = MAX_PAYLOAD_BYTES,
    max_depth: int = MAX_DEPTH,
    task: str | None = None,
) -> bytes:
    """Write a value as compact UTF-8 JSON.

    Beside JSON's own types: tuples as arrays, dataclasses as objects, enum members as their
    value, UUIDs and datetimes as their standard text. Integers of up to 4300 digits are kept.

    Args:
        value: What to send.
        max_bytes: Longest result.
        max_depth: Deepest nesting; `{}` is one deep.
        task: Named in the error.

    Raises:
        PayloadTypeError: A value or a key has no JSON form.
        PayloadError: Too large, too deep, NaN or infinite, or text with unpaired surrogates.
    """
    data: bytes | None = None
    if _dumps is not None:
        try:
            data = _dumps(value, _as_plain, _options)
        except TypeError:
            pass  # the careful path either has a form for it or says what is wrong
        else:
            # `null` may be a NaN that orjson hid; only then is the value looked through.
            # Found by find(): `in` takes the word for an integer first, 0.5 us against 0.2.
            if data.find(b"null") >= 0 and _holds_nonfinite(value):
                raise PayloadError("NaN and infinity have no JSON form", task=task)
            # Counting is cheaper than following: most payloads have few brackets at all.
            if data.count(b"{") + data.count(b"[") > max_depth:
                _check_depth(json_depth(data), max_depth, task)
    if data is None:
        data = _encode_carefully(value, max_depth, task)
    if len(data) > max_bytes:
        raise PayloadError(f"{len(data)} bytes, the limit is {max_bytes}", task=task)
    return data


def decode_payload(data: bytes) -> Any:  # noqa: ANN401 - JSON is what it is
    """Read JSON bytes; integers beyond 64 bits stay integers.

    Raises:
        DecodeError: Not JSON (NaN, invalid UTF-8 and unpaired surrogates included), nested
            deeper than 1024, or a number out of range (an integer of more than 4300 digits).
    """
    if _loads is None or has_long_number(data):
        return _decode_carefully(data)
    try:
        return _loads(data)
    except ValueError as error:
        raise DecodeError(str(error), data) from None


def check_json(
    data: bytes, *, max_bytes: int = MAX_PAYLOAD_BYTES, max_depth: int = MAX_DEPTH
) -> None:
    """Accept a payload that is JSON bytes already, exactly when `decode_payload` will.

    Raises:
        PayloadError: Not JSON, too large or too deep.
    """
    if len(data) > max_bytes:
        raise PayloadError(f"{len(data)} bytes, the limit is {max_bytes}")
    _check_depth(json_depth(data), max_depth, None)
    try:
        decode_payload(data)
    except DecodeError as error:
        raise PayloadError(error.why) from None


def encode_text(text: str) -> bytes:
    """Write a string as JSON; unpaired surrogates become `?`, so that it never fails."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(clean, ensure_ascii=False).encode()


def decode_text(data: bytes) -> str:
    """Read a JSON string that a record's scan has checked."""
    text: str = json.loads(data)
    return text


# --- the careful path -------------------------------------------------------------------------


def _encode_carefully(value: object, max_depth: int, task: str | None) -> bytes:
    """Write a value by the standard library, after a look at every part of it."""
    plain = _to_plain(value, max_depth, max_depth, task)
    try:
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise PayloadError("text with an unpaired surrogate", task=task) from None
    except ValueError as error:  # an integer of more digits than int() prints
        raise PayloadError(str(error), task=task) from None


def _to_plain(value: object, depth_left: int, max_depth: int, task: str | None) -> object:
    """Return the value in JSON's own types, or raise what is wrong with it."""
    kind = type(value)
    if kind is dict or kind is list or kind is tuple:
        if depth_left == 0:
            raise PayloadError(f"nested deeper than {max_depth}", task=task)
        if kind is not dict:
            items = cast("Iterable[object]", value)
            return [_to_plain(item, depth_left - 1, max_depth, task) for item in items]
        members = cast("dict[object, object]", value)
        for key in members:
            if type(key) is not str:
                raise PayloadTypeError(f"keys must be strings, not {_name(key)}", task=task)
        return {k: _to_plain(v, depth_left - 1, max_depth, task) for k, v in members.items()}
    if kind is float and not math.isfinite(cast("float", value)):
        raise PayloadError("NaN and infinity have no JSON form", task=task)
    if value is None or kind in (str, int, bool, float):
        return value
    try:
        plainer = _as_plain(value)
    except TypeError as error:
        raise PayloadTypeError(str(error), task=task) from None
    # Looked at again: the value of an enum member may be anything.
    return _to_plain(plainer, depth_left, max_depth, task)


def _as_plain(value: object) -> object:  # noqa: PLR0911 - one line a type
    """Return a form one step nearer to JSON of a value that has none of its own."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    # Subclasses: of tuple (namedtuple), of dict (defaultdict), of float (numpy's) …
    if isinstance(value, dict):
        return dict(cast("dict[object, object]", value))
    if isinstance(value, list | tuple):
        return list(cast("Iterable[object]", value))
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"{_name(value)} has no JSON form")


def _holds_nonfinite(value: object) -> bool:
    """Whether a value that orjson wrote has a NaN or an infinity anywhere."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        kind = type(part)
        if kind is str or kind is int or part is None or kind is bool:
            continue
        if kind is float:
            if not math.isfinite(cast("float", part)):
                return True
        elif kind is dict:
            waiting.extend(cast("dict[str, object]", part).values())
        elif kind is list or kind is tuple:
            waiting.extend(cast("Iterable[object]", part))
        else:
            waiting.append(_as_plain(part))
    return False


def _check_depth(depth: int, max_depth: int, task: str | None) -> None:
    """Refuse what nests too deep."""
    if depth > max_depth:
        raise PayloadError(f"nested deeper than {max_depth}", task=task)


def _name(value: object) -> str:
    """Return the name of a value's type, for an error."""
    return type(value).__qualname__


_search_surrogate = re.compile(rb"\\u[dD][89a-fA-F]").search


def _decode_carefully(data: bytes) -> Any:  # noqa: ANN401 - JSON is what it is
    """Read JSON by the standard library, as strictly as orjson does."""
    if json_depth(data) > DEPTH_CEILING:
        raise DecodeError(f"nested deeper than {DEPTH_CEILING}", data)
    try:
        # Decoded here: json.loads(bytes) would guess UTF-16 and let surrogates pass.
        value = json.loads(
            data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite_float
        )
        if _search_surrogate(data) is not None:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise DecodeError("not valid Unicode", data) from None
    except RecursionError:
        raise DecodeError(f"nested deeper than {DEPTH_CEILING}", data) from None
    except ValueError as error:  # JSONDecodeError, and int() of too many digits
        raise DecodeError(str(error), data) from None
    return value


def _refuse_constant(literal: str) -> NoReturn:
    """Refuse NaN, Infinity and -Infinity, which Python's reader would take."""
    raise ValueError(f"{literal} is not JSON")


def _finite_float(literal: str) -> float:
    """Read a float that fits one."""
    value = float(literal)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value
