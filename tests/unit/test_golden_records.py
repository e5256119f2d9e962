"""Records of every protocol so far are read as they were meant (row 34): `tests/golden/`.

A file there is never edited: what stands in it stands in somebody's Redis. A new form of the
record has a new number and a file of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bananas.errors import DecodeError, NewerRecordError
from bananas.job import PROTOCOL, Job

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(protocol: int) -> list[dict[str, Any]]:
    """Return the records of one protocol, with what they mean."""
    lines = (GOLDEN / f"records_of_protocol_{protocol}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


EVERY = [record for protocol in range(1, PROTOCOL + 1) for record in golden(protocol)]


@pytest.mark.parametrize("known", EVERY, ids=lambda known: known["what"])
def test_a_record_means_what_it_meant(known: dict[str, Any]) -> None:
    """Every member that was read is read the same; what is absent has the same default."""
    job = Job.decode(known["record"].encode())
    assert job.to_dict() == known["members"]
    assert job.place == known["place"]


@pytest.mark.parametrize(
    "known", [one for one in golden(PROTOCOL) if one["ours"]], ids=lambda known: known["what"]
)
def test_a_record_is_written_as_it_was(known: dict[str, Any]) -> None:
    """The same job gives the same bytes: older workers, and other languages, rely on them."""
    job = Job.decode(known["record"].encode())
    assert job.encode(job.place).decode() == known["record"]


def newer(**members: object) -> bytes:
    """Return a record of the next protocol, with members that this one would refuse."""
    record = {"id": "n", "name": "t", "status": "parked", "protocol": PROTOCOL + 1, **members}
    return json.dumps(record).encode()


def test_a_newer_record_is_known_as_such() -> None:
    """Its own number is looked at first: the rules of later versions are not ours to judge."""
    for record in (newer(), newer(priority="urgent"), newer(max_retries=-5, routing_key="a b")):
        with pytest.raises(NewerRecordError) as caught:
            Job.decode(record)
        assert caught.value.protocol == PROTOCOL + 1
        assert caught.value.data == record


@pytest.mark.parametrize("number", [PROTOCOL, PROTOCOL - 1, "9", None, True, 2.5])
def test_what_is_no_newer_number_is_a_member_like_others(number: object) -> None:
    """A foreign member of that name does not make a record unreadable."""
    job = Job.decode(newer(status="pending", protocol=number))
    assert job.to_dict()["protocol"] == number
    with pytest.raises(DecodeError):
        Job.decode(newer(protocol=number))
