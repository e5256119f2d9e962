"""Idempotency keys: the same key names the same job, so a repeat finds it and makes none.

The job's id is derived from the key, and the record is the memory: a key is known for as
long as its job is. Ids so made are UUIDs of version 8: they say of themselves that they
hold no time.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from uuid import UUID

from bananas.http.problems import at_parameter

if TYPE_CHECKING:
    from bananas.http.exchange import Headers

HEADER: Final = b"idempotency-key"
KEY_PATTERN: Final = r'^("[ !#-\[\]-~]{1,255}"|[!#-\[\]-~]{1,255})$'
"""A structured-field string of the IETF draft, or the bare form that most clients send."""

_match = re.compile(KEY_PATTERN.encode()).fullmatch


def read_key(headers: Headers) -> bytes | None:
    """Return the request's key, without quotes; None when it has none.

    Raises:
        Problem: 400.
    """
    given = headers.get(HEADER)
    if given is None:
        return None
    if _match(given.strip()) is None:
        raise at_parameter(
            "Idempotency-Key", "must be 1 to 255 visible ASCII characters, no quote or backslash"
        )
    return given.strip().strip(b'"')


def derived_id(key: bytes, line: int = 0) -> str:
    """Return the id of the job that a key, or a line of a batch under a key, stands for.

    Args:
        key: As `read_key` gives it.
        line: From 1 within a batch; 0 = the key of a single job.
    """
    digest = sha256(b"bananas\0%d\0%b" % (line, key)).digest()
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    return str(UUID(int=number))
