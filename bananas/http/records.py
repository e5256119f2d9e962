"""Records as answers: as they are stored, but for the place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bananas.codec import check_json, encode_text
from bananas.errors import PayloadError

if TYPE_CHECKING:
    from bananas.job import Job

SHOWN_BYTES: Final = 2**40
SHOWN_DEPTH: Final = 1024
"""Limits for what is shown: what got in also gets out."""

_PLACE_MEMBER: Final = b',"list":"'


def record_json(job: Job) -> bytes:
    """Return a job's record as JSON in the wire's order, its place left out.

    The payload is the stored one, byte for byte. A foreign producer's is looked at first:
    what is not JSON is shown as a string, so that the answer is JSON whatever was stored.
    """
    if job.place is None:
        try:
            check_json(job.payload_json, max_bytes=SHOWN_BYTES, max_depth=SHOWN_DEPTH)
        except PayloadError:
            job = job.with_(payload_json=encode_text(job.payload_json.decode("utf-8", "replace")))
    return job.encode(None)


def written_json(record: bytes) -> bytes:
    """Return a record that we wrote as JSON, its place left out."""
    # The place is the last member of every record of ours.
    return record[: record.rindex(_PLACE_MEMBER)] + b"}"
