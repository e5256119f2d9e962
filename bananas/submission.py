"""What a caller may ask for, checked field by field, and the verdicts it gets.

One gate for Python, HTTP and files: whoever submits comes through `Drafter`, so a rule is
stated once and broken in the same words everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypedDict, cast, overload

from bananas.clock import SYSTEM_CLOCK
from bananas.codec import encode_payload, encode_text
from bananas.errors import FieldError, PayloadError, PayloadTypeError
from bananas.job import (
    DEFAULT_MAX_RETRIES,
    validate_id,
    validate_name,
    validate_priority,
    validate_routing_key,
    validate_time,
)
from bananas.keys import DEFAULT_ROUTING_KEY, Priority
from bananas.producer import MEMORY, Draft, Form
from bananas.speedups import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.clock import Clock
    from bananas.settings import Durability

DURABILITIES: Final[tuple[Durability, ...]] = ("memory", "fsync", "replica")
MAX_RETRIES_CEILING: Final = 1_000_000
MAX_DESCRIPTION_CHARS: Final = 4096
MAX_DELAY_S: Final = 10 * 365 * 86_400.0
MAX_TIMEOUT_S: Final = 366 * 86_400.0

_FORMS_KEPT: Final = 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class JobOptions(TypedDict, total=False):
    """What any way of submitting may say; absent = the task's or the default."""

    priority: Priority
    routing_key: str
    description: str | None
    scheduled_for: datetime | str | None
    delay_s: float | None
    max_retries: int | None
    id: str | None
    expires_at: datetime | str | None
    durability: Durability | None


class SubmitOptions(JobOptions, total=False):
    """The options of `submit`, fields of `Submission`."""

    timeout_s: float | None
    result: bool


class WaitOptions(JobOptions, total=False):
    """The options of `submit_and_wait`, whose own `timeout_s` is how long it waits."""

    run_timeout_s: float | None


class RetryChanges(TypedDict, total=False):
    """What a retry may change of the job."""

    payload: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One job to submit by name; checked when it is submitted, or by `from_mapping`.

    Attributes:
        name: The task's.
        payload: Any JSON value; an object's members are the handler's keyword arguments.
        priority: `high`, `normal` or `low`.
        routing_key: Which workers it is for.
        description: For people, at most 4096 characters.
        scheduled_for: Not before this time; aware, or RFC 3339 text.
        delay_s: Not before so many seconds from now; not together with `scheduled_for`.
        max_retries: Runs allowed; None = the setting.
        id: Instead of a new one; a job of this id must not exist.
        timeout_s: Soft limit of one run, seconds; None = the task's.
        result: Whether the return value is kept.
        expires_at: Not begun by then, it is dropped; aware, or RFC 3339 text.
        durability: `memory`, `fsync` or `replica`; None = the setting.
    """

    name: str
    payload: Any = field(default_factory=dict[str, Any])
    priority: Priority = "normal"
    routing_key: str = DEFAULT_ROUTING_KEY
    description: str | None = None
    scheduled_for: datetime | str | None = None
    delay_s: float | None = None
    max_retries: int | None = None
    id: str | None = None
    timeout_s: float | None = None
    result: bool = False
    expires_at: datetime | str | None = None
    durability: Durability | None = None

    @classmethod
    def from_mapping(cls, members: Mapping[str, Any]) -> Submission:
        """Read what came in as JSON; absent and null members have their defaults.

        Raises:
            FieldError: The first field that breaks its rule, or that is not known.
        """
        name, payload, options = _split(members)
        options = {member: value for member, value in options.items() if value is not None}
        _form(name, options, DEFAULT_MAX_RETRIES, SYSTEM_CLOCK, MEMORY)
        if "id" in options:
            validate_id(options["id"])
        return cls(name=name, payload=payload, **options)


FIELDS: Final = frozenset(Submission.__slots__)
"""Every member a submission may have."""

_OPTION_FIELDS: Final = tuple(SubmitOptions.__annotations__)

VerdictStatus = Literal["accepted", "duplicate", "rejected"]


class Verdict(NamedTuple):
    """What became of one item of a batch; a tuple because every job gets one.

    Attributes:
        index: Its place in the batch, from 0.
        id: The job's; None when rejected without one.
        status: `accepted`, `duplicate` (the id exists, nothing changed) or `rejected`.
        field: Rejected: which field.
        rule: Rejected: the rule it broke.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks
    id: str | None
    status: VerdictStatus
    field: str | None = None
    rule: str | None = None


class Verdicts(Sequence[Verdict]):
    """The verdicts on a run of items, in order; each is made when it is looked at.

    A million kept as ids takes a third of the memory of a million tuples, and none of the
    time that the garbage collector would spend on those: 0.1 us an item against 1.2.
    """

    __slots__ = ("_begin", "_ids", "_others")

    def __init__(
        self, begin: int, ids: list[str | None], others: dict[int, Verdict] | None = None
    ) -> None:
        """Say that items from `begin` on were accepted under these ids, but for `others`."""
        self._begin = begin
        self._ids = ids
        self._others = others or {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._ids)

    @overload
    def __getitem__(self, at: int) -> Verdict: ...
    @overload
    def __getitem__(self, at: slice) -> list[Verdict]: ...

    def __getitem__(self, at: int | slice) -> Verdict | list[Verdict]:
        """Return one, or a list."""
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(len(self._ids)))]
        index = range(self._begin, self._begin + len(self._ids))[at]
        other = self._others.get(index)
        return other or Verdict(index, self._ids[at], "accepted")

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence of verdicts."""
        return isinstance(other, Sequence) and list(self) == list(cast("Sequence[object]", other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show the beginning."""
        more = ", …" if len(self) > 3 else ""  # noqa: PLR2004
        return f"<Verdicts of {len(self)}: {', '.join(map(repr, self[:3]))}{more}>"

    def extend(self, verdicts: Verdicts) -> None:
        """Add what follows these."""
        self._ids += verdicts._ids
        self._others.update(verdicts._others)

    @property
    def exceptions(self) -> list[Verdict]:
        """Those that were not accepted, in order."""
        return [self._others[index] for index in sorted(self._others)]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a whole stream of items.

    Attributes:
        accepted: New jobs.
        duplicates: Items whose id existed.
        rejected: Items that broke a rule.
        verdicts: One an item, in order; None when they were not kept.
        elapsed_s: From the first item to the last answer, seconds.
    """

    accepted: int
    duplicates: int
    rejected: int
    verdicts: Verdicts | None
    elapsed_s: float

    @property
    def total(self) -> int:
        """Items taken."""
        return self.accepted + self.duplicates + self.rejected

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.total / self.elapsed_s if self.elapsed_s > 0 else 0.0


class Drafter:
    """Turns what callers submit into drafts, or says which field breaks which rule."""

    def __init__(
        self,
        *,
        max_retries: int = DEFAULT_MAX_RETRIES,
        max_payload_bytes: int,
        max_depth: int,
        clock: Clock = SYSTEM_CLOCK,
        durability: str = MEMORY,
    ) -> None:
        """Take the limits; `max_retries` and `durability` are for those who say nothing."""
        self.durability: Final = durability
        self._max_retries = max_retries
        self._max_payload_bytes = max_payload_bytes
        self._max_depth = max_depth
        self._clock = clock
        self._forms: dict[object, Form] = {}
        self._others: dict[str, Drafter] = {}

    def defaulting(self, durability: str | None) -> Drafter:
        """Return one like this, with another durability for those who say nothing.

        Raises:
            FieldError: There is no such durability.
        """
        if durability is None or durability == self.durability:
            return self
        other = self._others.get(_durability(durability))
        if other is None:
            other = self._others[durability] = Drafter(
                max_retries=self._max_retries,
                max_payload_bytes=self._max_payload_bytes,
                max_depth=self._max_depth,
                clock=self._clock,
                durability=durability,
            )
        return other

    def payload(self, value: object, task: str | None = None) -> bytes:
        """Write a payload within the limits.

        Raises:
            PayloadError: Too large or too deep.
            PayloadTypeError: No JSON form.
        """
        return encode_payload(
            value, max_bytes=self._max_payload_bytes, max_depth=self._max_depth, task=task
        )

    def encoder(self, task: str | None) -> Callable[[object], bytes]:
        """Return `payload` for one task, without a call between."""
        return partial(
            encode_payload, max_bytes=self._max_payload_bytes, max_depth=self._max_depth, task=task
        )

    def form(self, name: str, options: Mapping[str, Any]) -> Form:
        """Return the form of jobs with these options (`id` aside), all rules checked.

        Raises:
            FieldError: The first field that breaks its rule.
        """
        return _form(name, options, self._max_retries, self._clock, self.durability)

    def draft(self, item: Submission | Mapping[str, Any]) -> Draft:
        """Return the draft of one job.

        Raises:
            FieldError: The first field that breaks its rule, or that is not known.
            PayloadError: Too large or too deep.
            PayloadTypeError: No JSON form.
        """
        if isinstance(item, Submission):
            options = {
                member: value
                for member in _OPTION_FIELDS
                if (value := getattr(item, member)) is not None and value is not False
            }
            return self.draft_call(item.name, item.payload, options)
        return self.draft_call(*_split(item))

    def draft_call(self, name: Any, payload: object, options: dict[str, Any]) -> Draft:  # noqa: ANN401
        """Return the draft of one job given in pieces; takes `options` for itself.

        Raises:
            FieldError: As `draft`; also PayloadError and PayloadTypeError.
        """
        job_id = options.pop("id", None)
        if job_id is not None:
            validate_id(job_id)
        # Checking every field costs 3 us; jobs that look alike are checked once. Only what can
        # never change its meaning counts: times depend on now, and 1 is equal to True.
        key: object = None
        if not options:
            key = name
        elif options.keys() <= _LASTING:
            key = (name, *options.items())
        try:
            form = self._forms.get(key) if type(name) is str else None
        except TypeError:  # unhashable, so wrong: the check says how
            form = None
        if form is None:
            form = self.form(validate_name(name), options)
            if key is not None:
                if len(self._forms) >= _FORMS_KEPT:
                    self._forms.clear()
                self._forms[key] = form
        return Draft(form, self.payload(payload, form.name), job_id)


# Options whose values mean the same for every job and have one type each.
_LASTING: Final = frozenset({"priority", "routing_key", "description", "durability"})


def rejection(index: int, error: FieldError | PayloadError | PayloadTypeError) -> Verdict:
    """Return the verdict on an item that could not be drafted."""
    if isinstance(error, FieldError):
        return Verdict(index, None, "rejected", error.field, error.rule)
    return Verdict(index, None, "rejected", "payload", error.why)


def _split(members: object) -> tuple[Any, Any, dict[str, Any]]:
    """Return (name, payload, options), all of known names."""
    if not isinstance(members, Mapping):
        raise FieldError("item", f"must be an object, not {type(members).__name__}", members)
    options = dict(cast("Mapping[str, Any]", members))
    if not options.keys() <= FIELDS:
        unknown = min(map(str, options.keys() - FIELDS))
        raise FieldError(unknown, f"unknown field; known are {', '.join(sorted(FIELDS))}")
    name = options.pop("name", None)
    if name is None:
        raise FieldError("name", "is required")
    payload: Any = options.pop("payload") if "payload" in options else {}
    return name, payload, options


def _form(
    name: str, options: Mapping[str, Any], max_retries: int, clock: Clock, durability: str
) -> Form:
    """Check every option; None counts as not given."""
    get = options.get
    scheduled_for, due = _due(get("scheduled_for"), get("delay_s"), clock)
    description = get("description")
    runs = get("max_retries")
    timeout_s = get("timeout_s")
    result = get("result")
    expires_at = get("expires_at")
    if result is not None and not isinstance(result, bool):
        raise FieldError("result", "must be true or false", result)
    priority = get("priority")
    routing_key = get("routing_key")
    asked = get("durability")
    return Form(
        name=validate_name(name),
        priority="normal" if priority is None else validate_priority(priority),
        routing_key=(
            DEFAULT_ROUTING_KEY if routing_key is None else validate_routing_key(routing_key)
        ),
        max_retries=max_retries if runs is None else _runs(runs),
        description_json=None if description is None else _description(description),
        timeout_s=(
            None if timeout_s is None else _seconds("timeout_s", timeout_s, 0.001, MAX_TIMEOUT_S)
        ),
        result=bool(result),
        expires_at=None if expires_at is None else format_time(_instant("expires_at", expires_at)),
        scheduled_for=scheduled_for,
        due=due,
        durability=durability if asked is None else _durability(asked),
    )


def _durability(value: object) -> str:
    if value not in DURABILITIES:
        raise FieldError("durability", f"must be one of {', '.join(DURABILITIES)}", value)
    return value


def _due(scheduled_for: Any, delay_s: Any, clock: Clock) -> tuple[str | None, str | None]:  # noqa: ANN401
    """Return (RFC 3339 time, due time for the server); (None, None) = at once."""
    if delay_s is not None:
        if scheduled_for is not None:
            raise FieldError("delay_s", "must not be given together with scheduled_for", delay_s)
        delay_us = round(_seconds("delay_s", delay_s, 0, MAX_DELAY_S) * 1_000_000)
        if delay_us == 0:
            return None, None
        # The server adds the delay to its own clock; the text is for people.
        return format_time(clock.real_us() + delay_us), f"+{max(1, -(-delay_us // 1000))}"
    if scheduled_for is None:
        return None, None
    unix_us = _instant("scheduled_for", scheduled_for)
    if unix_us < 0:
        raise FieldError("scheduled_for", "must not be before 1970", scheduled_for)
    return format_time(unix_us), f"{unix_us // 1_000_000}.{unix_us % 1_000_000:06d}"


def _instant(name: str, value: object) -> int:
    """Return a point in time, Unix microseconds."""
    if not isinstance(value, datetime):
        return parse_time(validate_time(name, value))
    if value.tzinfo is None or value.utcoffset() is None:
        raise FieldError(name, "must have a time zone", value)
    return (value - _EPOCH) // timedelta(microseconds=1)


def _seconds(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(name, "must be a number of seconds", value)
    if not (low <= value <= high and math.isfinite(value)):
        raise FieldError(name, f"must be from {low:g} to {high:g} seconds", value)
    return float(value)


def _runs(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError("max_retries", "must be an integer", value)
    if not 0 <= value <= MAX_RETRIES_CEILING:
        raise FieldError("max_retries", f"must be from 0 to {MAX_RETRIES_CEILING}", value)
    return value


def _description(value: object) -> bytes:
    if not isinstance(value, str):
        raise FieldError("description", "must be a string", value)
    if len(value) > MAX_DESCRIPTION_CHARS:
        rule = f"must be at most {MAX_DESCRIPTION_CHARS} characters"
        raise FieldError("description", rule, len(value))
    return encode_text(value)
