"""Records as producers of ours write them, for the cases."""

from __future__ import annotations

from typing import Final

from bananas.broker import Entry
from bananas.ids import IdMaker
from bananas.speedups import encode_record, format_time

PLACE: Final = "queue:normal"
PAYLOAD: Final = b'{"x":"%b"}' % (b"x" * 191)
_ids = IdMaker()
_NOW: Final = format_time(1_795_488_795_123_456)


def record(job_id: str, name: str = "noop") -> bytes:
    """Return a record with a payload of 200 bytes."""
    return encode_record(
        job_id, name, None, PAYLOAD, "pending", "normal", "default", _NOW, _NOW, None,
        0, 3, None, None, False, None, 0, 0, b"", PLACE,
    )  # fmt: skip


def entries(count: int) -> list[Entry]:
    """Return so many fresh jobs."""
    return [Entry(job_id, PLACE, record(job_id)) for job_id in _ids.new_ids(count)]
