"""Rows of a file, each with its number and where it ends, and the jobs that they mean."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, cast

from bananas.codec import check_json, decode_payload, encode_payload
from bananas.errors import DecodeError, FieldError, PayloadError
from bananas.job import validate_id, validate_name
from bananas.producer import Draft
from bananas.speedups import uuid7_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bananas.submission import Drafter

_BOM: Final = b"\xef\xbb\xbf"
_BLOCK: Final = 512  # ids made in one go
_SEED_BYTES: Final = 10
_SEED_MASK: Final = (1 << 73) - 1  # room to count up
_SKIP_BYTES: Final = 1 << 20
_ENVELOPE_BYTES: Final = 64 * 1024


class Row(NamedTuple):
    """One line that is not blank.

    Attributes:
        number: Of the line, from 1.
        end: Offset of the byte after it, its line end included.
        line: Without its line end; None = longer than allowed, and skipped.
    """

    number: int
    end: int
    line: bytes | None


def max_line_bytes(max_payload_bytes: int) -> int:
    """Return the longest line that may hold a job: its payload and some more."""
    return max_payload_bytes + _ENVELOPE_BYTES


def read_rows(file: BinaryIO, *, offset: int, number: int, max_bytes: int) -> Iterator[Row]:
    """Give the rows from an offset on.

    Args:
        file: Stands at `offset`.
        offset: Of the next line.
        number: Of the line before it.
        max_bytes: A longer line is skipped, in constant memory.
    """
    while raw := file.readline(max_bytes + 2):
        number += 1
        offset += len(raw)
        if len(raw) > max_bytes and not raw.endswith(b"\n"):
            while more := file.readline(_SKIP_BYTES):
                offset += len(more)
                if more.endswith(b"\n"):
                    break
            yield Row(number, offset, None)
            continue
        line = raw.strip()
        if number == 1 and line.startswith(_BOM):
            line = line.removeprefix(_BOM)
        if line:
            yield Row(number, offset, line)


class Ids:
    """Ids that follow from a run and a line's number: a line sent again has the id it had."""

    def __init__(self, run: str, started_ms: int) -> None:
        """Take the run's own name, and the time that its ids are to tell."""
        self._run = run
        self._started_ms = started_ms
        self._block = -1
        self._ids: list[str] = []

    def of(self, number: int) -> str:
        """Return the id of a line's job."""
        block, at = divmod(number, _BLOCK)
        if block != self._block:
            digest = blake2b(f"{self._run}:{block}".encode(), digest_size=_SEED_BYTES).digest()
            seed = (int.from_bytes(digest, "big") & _SEED_MASK).to_bytes(_SEED_BYTES, "big")
            self._ids = uuid7_batch(self._started_ms, _BLOCK, seed)
            self._block = block
        return self._ids[at]


class Shape:
    """What a row means: a whole submission, or the payload of one task."""

    def __init__(  # noqa: PLR0913 - by name
        self,
        drafter: Drafter,
        ids: Ids,
        *,
        task: str | None,
        id_from: str | None,
        options: Mapping[str, Any],
        max_payload_bytes: int,
        max_depth: int,
    ) -> None:
        """Prepare.

        Args:
            drafter: Checks the rules.
            ids: For rows that have none.
            task: Rows are payloads of this task; None = they are submissions.
            id_from: The field of a payload that the job's id is made of.
            options: Of all jobs, for payloads of a task.
            max_payload_bytes: Of one payload.
            max_depth: Of one payload.

        Raises:
            FieldError: The task or an option breaks its rule.
        """
        self._drafter = drafter
        self._ids = ids
        self._task = task
        self._id_from = id_from
        self._options = dict(options)
        self._max_payload_bytes = max_payload_bytes
        self._max_depth = max_depth
        self._max_line_bytes = max_line_bytes(max_payload_bytes)
        # A task's name and options as JSON, without the end: ids need no escape.
        self._head = json.dumps({"name": task} | self._options)[:-1].encode() + b","
        self._form = None if task is None else drafter.form(validate_name(task), options)

    def draft(self, row: Row) -> Draft:
        """Return the draft of a row's job.

        Raises:
            FieldError: The row breaks a rule.
            PayloadError: Its payload does.
            PayloadTypeError: Its payload does.
        """
        if self._form is None:
            return self._drafter.draft(self._submission(row))
        line = self._line(row)
        check_json(line, max_bytes=self._max_payload_bytes, max_depth=self._max_depth)
        return Draft(self._form, line, self._id(row.number, self._form.name, line))

    def wire(self, row: Row) -> bytes:
        """Return the line of a batch over HTTP that a row means; the rest is for the API to judge.

        Raises:
            FieldError: It cannot be sent.
            PayloadError: It is not JSON, too large or too deep.
        """
        if self._task is None:
            return encode_payload(
                self._submission(row), max_bytes=self._max_line_bytes, max_depth=1024
            )
        line = self._line(row)
        check_json(line, max_bytes=self._max_payload_bytes, max_depth=self._max_depth)
        job_id = self._id(row.number, self._task, line)
        return b'%b"id":"%b","payload":%b}' % (self._head, job_id.encode(), line)

    def _line(self, row: Row) -> bytes:
        if row.line is None:
            raise FieldError("line", f"must be at most {self._max_line_bytes} bytes")
        return row.line

    def _submission(self, row: Row) -> dict[str, Any]:
        """Return a row that is a submission, with an id."""
        try:
            found: object = decode_payload(self._line(row))
        except DecodeError as error:
            raise FieldError("line", f"must be JSON: {error.why}") from None
        if not isinstance(found, dict):
            raise FieldError("line", f"must be an object, not {type(found).__name__}")
        submission = cast("dict[str, Any]", found)
        if submission.get("id") is None:
            if self._id_from is None:
                submission["id"] = self._ids.of(row.number)
            else:
                name = str(submission.get("name", ""))
                submission["id"] = derived_id(name, submission.get("payload"), self._id_from)
        return submission

    def _id(self, number: int, name: str, line: bytes) -> str:
        if self._id_from is None:
            return self._ids.of(number)
        try:
            return derived_id(name, decode_payload(line), self._id_from)
        except DecodeError as error:
            raise PayloadError(error.why) from None


def derived_id(name: str, payload: object, field: str) -> str:
    """Return the id that follows from a payload's field: `task:value`, or a hash of a long value.

    Raises:
        FieldError: The payload has no such field, or it is no string and no integer.
    """
    members = cast("dict[str, object]", payload) if isinstance(payload, dict) else {}
    value = members.get(field)
    if value is None:
        raise FieldError(field, "is missing, and the job's id is to be made of it")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise FieldError(field, "must be a string or an integer: the job's id is made of it", value)
    text = f"{name}:{value}"
    with suppress(FieldError):
        if value != "":
            return validate_id(text)
    return f"{name[:60]}:{sha256(str(value).encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"
