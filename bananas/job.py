"""A job: one request to run a task, as its record in Redis tells it.

A `Job` is the scanned record with names, nothing copied and nothing decoded until asked:
payload, description and error stay JSON, and go back byte for byte. What a foreign
producer left out has its default here; what breaks a rule of the wire is a DecodeError.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict, cast

from bananas.codec import decode_payload, decode_text, encode_text
from bananas.errors import DecodeError, FieldError, NewerRecordError
from bananas.keys import DEFAULT_ROUTING_KEY, PRIORITIES
from bananas.speedups import encode_record, finish_record, format_time, parse_time, scan_record

if TYPE_CHECKING:
    from typing import Self, Unpack

    from bananas.keys import Priority

PROTOCOL: Final = 1
"""The newest form of a record that this version understands; one without a number is of 1."""

STATUSES: Final = ("pending", "scheduled", "processing", "completed", "failed", "cancelled")
DEFAULT_MAX_RETRIES: Final = 3
MAX_ERROR_BYTES: Final = 4096

_STATUSES: Final = frozenset(STATUSES)
_PRIORITIES: Final = frozenset[str](PRIORITIES)

_match_name = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII).fullmatch
_match_routing_key = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII).fullmatch


class JobChanges(TypedDict, total=False):
    """What `Job.with_` can change; `description` and `error` are given as text."""

    id: str
    name: str
    description: str | None
    payload_json: bytes
    status: str
    priority: str
    routing_key: str
    created_at: str
    updated_at: str
    scheduled_for: str | None
    attempts: int
    max_retries: int
    error: str | None
    timeout_s: float | None
    result: bool
    expires_at: str | None
    crashes: int
    unclaimed: int
    extras: bytes
    place: str | None


class Job(NamedTuple):
    """One job; immutable.

    A named tuple in the order of `scan_record`, because that is free: a frozen dataclass of
    twenty fields costs 2.8 us to make, this 0.2 us, and every dequeued job is one.
    Use the names; the order may grow.

    Attributes:
        id: UUID of version 7, or what a foreign producer chose.
        name: The task's.
        description_json: A JSON string, see `description`.
        payload_json: Any JSON, see `payload`.
        status: As last written: between enqueue and end the live status is where the id lies.
        priority: `high`, `normal` or `low`.
        routing_key: `default` when the record had none.
        created_at: RFC 3339, "" when absent.
        updated_at: RFC 3339, "" when absent.
        scheduled_for: RFC 3339, or None.
        attempts: Runs made.
        max_retries: Runs allowed.
        error_json: A JSON string, see `error`.
        timeout_s: Its own soft time limit, seconds, or None for the task's.
        result: Whether the handler's return value is kept.
        expires_at: RFC 3339; not begun by then, it is dropped.
        crashes: Processes it took down.
        unclaimed: Times it was given back because no worker knew its name.
        extras: Unknown members of the record, raw JSON joined by commas.
        place: The list it waits in or came from, see `keys.place`; None in foreign records.
    """

    id: str
    name: str
    description_json: bytes | None = None
    payload_json: bytes = b"null"
    status: str = "pending"
    priority: str = "normal"
    routing_key: str = DEFAULT_ROUTING_KEY
    created_at: str = ""
    updated_at: str = ""
    scheduled_for: str | None = None
    attempts: int = 0
    max_retries: int = DEFAULT_MAX_RETRIES
    error_json: bytes | None = None
    timeout_s: float | None = None
    result: bool = False
    expires_at: str | None = None
    crashes: int = 0
    unclaimed: int = 0
    extras: bytes = b""
    place: str | None = None

    @classmethod
    def decode(
        cls, data: bytes, *, max_retries: int = DEFAULT_MAX_RETRIES, max_depth: int = 64
    ) -> Self:
        """Read a record.

        Args:
            data: The record's bytes.
            max_retries: Runs allowed where the record says nothing.
            max_depth: Deepest nesting of the payload.

        Raises:
            NewerRecordError: It says that a later version wrote it.
            DecodeError: Not a record, or a member breaks its rule; holds the bytes untouched.
        """
        try:
            scanned = scan_record(data, max_depth)
            # _make() is the same and a check of the length, which is known (0.4 us).
            job = tuple.__new__(cls, scanned)  # pyright: ignore[reportUnknownMemberType]
            # Our own records pass these tests; the others are looked at rule by rule.
            if (
                scanned[6] != DEFAULT_ROUTING_KEY
                or scanned[4] not in _STATUSES
                or scanned[5] not in _PRIORITIES
                or scanned[11] < 0
                or not scanned[0]
                or not scanned[1]
                or scanned[9] is not None
                or scanned[13] is not None
                or scanned[15] is not None
                or scanned[18]
            ):
                if b'"protocol"' in scanned[18] and _newer(data) is not None:
                    raise ValueError("newer")  # noqa: TRY301 - dealt with below, as all that is odd
                return job._mended(max_retries)  # noqa: SLF001 - of this class
        except ValueError as error:
            newer = _newer(data)  # first: later versions may have other rules
            if newer is not None:
                raise newer from None
            reason = error.why if isinstance(error, DecodeError) else str(error)
            raise DecodeError(reason, data) from None
        return job

    def _mended(self, max_retries: int) -> Self:
        """Return the job with defaults for what is absent, after a look at every rule."""
        if not self.id or not self.name:
            raise FieldError("name" if self.id else "id", "is required")
        if self.status and self.status not in STATUSES:
            raise FieldError("status", f"must be one of {', '.join(STATUSES)}", self.status)
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise FieldError("timeout_s", "must be > 0", self.timeout_s)
        for field in ("scheduled_for", "expires_at"):
            text = getattr(self, field)
            if text is not None:
                _check_time(field, text)
        if self.extras:
            decode_payload(b"{%b}" % self.extras)  # `to_dict` must not fail later
        return self._replace(
            status=self.status or ("scheduled" if self.scheduled_for else "pending"),
            priority=validate_priority(self.priority or "normal"),
            routing_key=validate_routing_key(self.routing_key or DEFAULT_ROUTING_KEY),
            max_retries=max_retries if self.max_retries < 0 else self.max_retries,
        )

    def encode(self, place: str | None) -> bytes:
        """Write the record, compact, with the place as its last member (None = without one).

        Raises:
            ValueError: A count outside 0 to 2**53 - 1, or text with unpaired surrogates.
        """
        return encode_record(*self[:19], place)

    def finish(self, status: str, updated_at: str, attempts: int) -> bytes:
        """Write the record with its end in it; payload and unknown members untouched."""
        return finish_record(self, status, updated_at, attempts)

    def with_(self, **changes: Unpack[JobChanges]) -> Self:
        """Return a copy with these members changed; an error is cut at 4 KiB."""
        values: dict[str, Any] = dict(changes)
        if "description" in values:
            text = values.pop("description")
            values["description_json"] = None if text is None else encode_text(text)
        if "error" in values:
            text = values.pop("error")
            values["error_json"] = encode_text(cut_error(text)) if text else None
        return self._replace(**values)

    @property
    def payload(self) -> Any:  # noqa: ANN401 - JSON is what it is
        """The payload, decoded anew at each asking.

        Raises:
            DecodeError: It is not JSON.
        """
        return decode_payload(self.payload_json)

    @property
    def description(self) -> str | None:
        """What the producer said about it."""
        return None if self.description_json is None else decode_text(self.description_json)

    @property
    def error(self) -> str | None:
        """The last error."""
        return None if self.error_json is None else decode_text(self.error_json)

    @property
    def created_us(self) -> int | None:
        """When it was made, Unix microseconds; None when absent or unreadable."""
        return _time_or_none(self.created_at)

    @property
    def updated_us(self) -> int | None:
        """When its record was last written, Unix microseconds; None when absent or unreadable."""
        return _time_or_none(self.updated_at)

    @property
    def scheduled_us(self) -> int | None:
        """When it is due, Unix microseconds."""
        return _time_or_none(self.scheduled_for)

    @property
    def expires_us(self) -> int | None:
        """When it is too late to begin it, Unix microseconds."""
        return _time_or_none(self.expires_at)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as a mapping in the wire's order, payload decoded, place left out.

        Raises:
            DecodeError: The payload is not JSON.
        """
        members: dict[str, Any] = {"id": self.id, "name": self.name}
        if self.description_json is not None:
            members["description"] = self.description
        members["payload"] = self.payload
        members["status"] = self.status
        members["priority"] = self.priority
        members["routing_key"] = self.routing_key
        members["created_at"] = self.created_at
        members["updated_at"] = self.updated_at
        if self.scheduled_for is not None:
            members["scheduled_for"] = self.scheduled_for
        members["attempts"] = self.attempts
        members["max_retries"] = self.max_retries
        if self.error_json is not None:
            members["error"] = self.error
        for name in ("timeout_s", "result", "expires_at", "crashes", "unclaimed"):
            value = getattr(self, name)
            if value:
                members[name] = value
        if self.extras:
            members.update(decode_payload(b"{%b}" % self.extras))
        return members


def cut_error(text: str) -> str:
    """Return an error's text cut to 4 KiB of UTF-8, between characters, the cut marked."""
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_ERROR_BYTES:
        return data.decode("utf-8")
    mark = "…"
    return data[: MAX_ERROR_BYTES - len(mark.encode())].decode("utf-8", "ignore") + mark


def _newer(data: bytes) -> NewerRecordError | None:
    """Return the error for a record that a later version wrote, None for others."""
    if b'"protocol"' not in data:
        return None
    try:
        record: object = decode_payload(data)
    except DecodeError:
        return None
    if not isinstance(record, dict):
        return None
    members = cast("dict[str, object]", record)
    protocol = members.get("protocol")
    if not isinstance(protocol, int) or protocol <= PROTOCOL:
        return None
    return NewerRecordError(protocol, data, status=str(members.get("status", "")))


# --- rules of the wire ------------------------------------------------------------------------


def validate_id(value: object) -> str:
    """Return a job id, or raise FieldError."""
    return _validate("id", value, _match_name, "must match ^[A-Za-z0-9._:-]{1,128}$")


def validate_name(value: object) -> str:
    """Return a task's name, or raise FieldError."""
    return _validate("name", value, _match_name, "must match ^[A-Za-z0-9._:-]{1,128}$")


def validate_routing_key(value: object) -> str:
    """Return a routing key, or raise FieldError."""
    return _validate("routing_key", value, _match_routing_key, "must match ^[A-Za-z0-9_-]{1,64}$")


def validate_priority(value: object) -> Priority:
    """Return a priority, or raise FieldError."""
    for priority in PRIORITIES:
        if value == priority:
            return priority
    raise FieldError("priority", f"must be one of {', '.join(PRIORITIES)}", value)


def validate_time(field: str, value: object) -> str:
    """Return an RFC 3339 time in the form we write: UTC, microseconds, `Z`; or raise FieldError."""
    if not isinstance(value, str):
        raise FieldError(field, "must be a string", value)
    return format_time(_check_time(field, value))


def _validate(field: str, value: object, match: Any, rule: str) -> str:  # noqa: ANN401
    """Return a string that matches, or raise FieldError with the rule."""
    if not isinstance(value, str):
        raise FieldError(field, "must be a string", value)
    if match(value) is None:
        raise FieldError(field, rule, value)
    return value


def _check_time(field: str, text: str) -> int:
    """Read a time, Unix microseconds, or raise FieldError."""
    try:
        return parse_time(text)
    except ValueError:
        raise FieldError(field, "must be an RFC 3339 time with an offset", text) from None


def _time_or_none(text: str | None) -> int | None:
    """Read a time that a foreign producer may have written badly."""
    if not text:
        return None
    try:
        return parse_time(text)
    except ValueError:
        return None
