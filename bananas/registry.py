"""Tasks: what may be run, by name. A message can call what was registered here and nothing else.

Registration happens at import of the user's module; from then on a registry is only read.
A task knows how its arguments become a payload and a payload its arguments; it knows
nothing of Redis.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, cast

from bananas.errors import FieldError, PayloadTypeError, UnknownTaskError
from bananas.job import validate_name, validate_priority, validate_routing_key
from bananas.keys import DEFAULT_ROUTING_KEY, Priority

if TYPE_CHECKING:
    from bananas.retry import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

MAX_BATCH: Final = 10_000
MAX_LINGER_S: Final = 60.0
MAX_TIMEOUT_S: Final = 366 * 86_400.0
MAX_RETENTION_S: Final = 10 * 366 * 86_400

Kind = Literal["async", "sync", "inline", "batch"]
"""How a handler runs: on the loop, in a thread, a short `def` on the loop, many jobs a call."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What holds for every job of a task unless its enqueue says otherwise; None = the settings."""

    priority: Priority = "normal"
    routing_key: str = DEFAULT_ROUTING_KEY
    max_retries: int | None = None
    """Runs allowed, >= 1."""
    timeout_s: float | None = None
    """Soft limit of one run, seconds, > 0."""
    result: bool | None = None
    """Whether the return value is kept for `job.result()`."""
    retention_s: int | None = None
    """How long a completed record is kept, seconds; 0 = deleted at once."""
    retry: RetryPolicy | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no job could carry."""
        validate_priority(self.priority)
        validate_routing_key(self.routing_key)
        if self.max_retries is not None and self.max_retries < 1:
            raise FieldError("max_retries", "must be >= 1", self.max_retries)
        if self.timeout_s is not None and not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise FieldError("timeout_s", f"must be > 0, at most {MAX_TIMEOUT_S:g}", self.timeout_s)
        if self.retention_s is not None and not (
            type(self.retention_s) is int and 0 <= self.retention_s <= MAX_RETENTION_S
        ):
            rule = f"must be a whole number, 0 to {MAX_RETENTION_S}"
            raise FieldError("retention_s", rule, self.retention_s)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict of a batch handler on one of its items."""

    status: Literal["ok", "retry", "dead"]
    value: Any = None
    delay_s: float | None = None
    reason: str = ""

    @classmethod
    def ok(cls, value: object = None) -> Outcome:
        """Return: completed, with a result where the task keeps results."""
        return cls("ok", value=value)

    @classmethod
    def retry(cls, reason: str = "", *, delay_s: float | None = None) -> Outcome:
        """Return: run this item again after `delay_s` seconds, None = the task's back-off."""
        if delay_s is not None and not delay_s >= 0:
            raise FieldError("delay_s", "must be >= 0", delay_s)
        return cls("retry", delay_s=delay_s, reason=reason)

    @classmethod
    def dead(cls, reason: str) -> Outcome:
        """Return: failed for good, into the dead-letter queue."""
        return cls("dead", reason=reason)


class Signature:
    """The arguments of a handler, checked at enqueue without `inspect` on the way."""

    __slots__ = ("_open", "_required", "names", "positional")

    def __init__(self, function: Callable[..., Any]) -> None:
        """Read the function's parameters once."""
        parameters = inspect.signature(function).parameters.values()
        kinds = inspect.Parameter
        named = [
            p for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
        ]
        if any(p.kind in (kinds.POSITIONAL_ONLY, kinds.VAR_POSITIONAL) for p in parameters):
            raise PayloadTypeError(
                "positional-only and *args parameters cannot be sent: a payload's members are "
                "keyword arguments",
                task=function.__qualname__,
            )
        self.names: Final = frozenset(p.name for p in named)
        self.positional: Final = tuple(
            p.name for p in named if p.kind is kinds.POSITIONAL_OR_KEYWORD
        )
        self._required: Final = frozenset(p.name for p in named if p.default is kinds.empty)
        self._open: Final = any(p.kind is kinds.VAR_KEYWORD for p in parameters)

    def bind(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, perhaps `kwargs` itself.

        Raises:
            PayloadTypeError: Missing, unexpected or doubled arguments, in the words of a call.
        """
        if not args and type(kwargs) is dict and kwargs.keys() == self.names:
            return cast("dict[str, Any]", kwargs)  # the usual call: 0.15 us instead of 0.6
        bound: dict[str, Any] = {**kwargs}
        if args:
            if len(args) > len(self.positional):
                raise PayloadTypeError(
                    f"takes {len(self.positional)} positional arguments, {len(args)} given",
                    task=task,
                )
            for name, value in zip(self.positional, args, strict=False):
                if name in bound:
                    raise PayloadTypeError(f'argument "{name}" given twice', task=task)
                bound[name] = value
        given = bound.keys()
        if not self._required <= given:
            missing = ", ".join(sorted(self._required - given))
            raise PayloadTypeError(f"missing arguments: {missing}", task=task)
        if not self._open and not given <= self.names:
            unexpected = ", ".join(sorted(given - self.names))
            raise PayloadTypeError(f"unexpected arguments: {unexpected}", task=task)
        return bound


@dataclass(frozen=True, slots=True)
class Batching:
    """How items are gathered for a batch handler."""

    max_size: int = 500
    linger_s: float = 0.02

    def __post_init__(self) -> None:
        """Refuse sizes and waits that cannot be."""
        if not 1 <= self.max_size <= MAX_BATCH:
            raise FieldError("max_size", f"must be 1..{MAX_BATCH}", self.max_size)
        if not 0 <= self.linger_s <= MAX_LINGER_S:
            raise FieldError("linger_s", f"must be 0..{MAX_LINGER_S:g}", self.linger_s)


@dataclass(frozen=True, slots=True)
class Definition:
    """A registered task, as workers see it: untyped, complete, unchanging."""

    name: str
    function: Callable[..., Any]
    kind: Kind
    options: TaskOptions = field(default_factory=TaskOptions)
    batching: Batching | None = None
    signature: Signature | None = None
    item_type: type | None = None
    """For a batch task whose items are dataclasses: the class to build from each payload."""

    def to_payload(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON is what it is
        """Return the JSON value to send for a call.

        Raises:
            PayloadTypeError: The arguments do not fit the handler.
        """
        if self.signature is not None:
            return self.signature.bind(self.name, args, kwargs)
        if kwargs or len(args) != 1:
            raise PayloadTypeError("a batch task is enqueued with exactly one item", task=self.name)
        return self.to_item_payload(args[0])

    def to_item_payload(self, item: Any) -> Any:  # noqa: ANN401 - JSON is what it is
        """Return the JSON value to send for one item of a batch task, or one row of keywords."""
        if self.signature is not None:
            if type(item) is not dict and not isinstance(item, Mapping):
                raise PayloadTypeError(
                    f"a row must be a mapping of keyword arguments, not {type(item).__name__}",
                    task=self.name,
                )
            return self.signature.bind(self.name, (), item)  # pyright: ignore[reportUnknownArgumentType] - any mapping
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return dataclasses.asdict(item)
        return item

    def from_payload(self, payload: Any) -> Any:  # noqa: ANN401 - JSON is what it is
        """Return what the batch handler is given for one decoded payload.

        Raises:
            TypeError: The payload does not fit the item's dataclass.
        """
        if self.item_type is None:
            return payload
        if not isinstance(payload, dict):
            raise TypeError(f"an item must be an object, not {type(payload).__name__}")
        return self.item_type(**cast("dict[str, Any]", payload))


def _batch_item_type(function: Callable[..., Any]) -> type | None:
    parameters = list(inspect.signature(function).parameters.values())
    required = [p for p in parameters if p.default is inspect.Parameter.empty]
    if not parameters or len(required) > 1:
        raise PayloadTypeError(
            "a batch handler takes one list of items", task=function.__qualname__
        )
    hints = inspect.get_annotations(function, eval_str=True)
    arguments = getattr(hints.get(parameters[0].name), "__args__", ())
    item = arguments[0] if arguments else None
    return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


def define(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    inline: bool = False,
    batching: Batching | None = None,
    options: TaskOptions,
) -> Definition:
    """Return the definition of one handler.

    Args:
        function: `def` or `async def`; a batch handler takes one list.
        name: Default: the function's name.
        inline: Run a short `def` on the loop, without a thread.
        batching: Set for batch tasks.
        options: Defaults of its jobs.

    Raises:
        FieldError: A name or an option breaks its rule.
        PayloadTypeError: The handler's parameters cannot be sent.
    """
    chosen = validate_name(name or getattr(function, "__name__", ""))
    is_async = inspect.iscoroutinefunction(function)
    if inline and (is_async or batching is not None):
        raise FieldError("inline", "is for short `def` handlers of single jobs", inline)
    if batching is not None:
        return Definition(
            chosen, function, "batch", options, batching, item_type=_batch_item_type(function)
        )
    kind: Kind = "async" if is_async else "inline" if inline else "sync"
    return Definition(chosen, function, kind, options, signature=Signature(function))


class Registry(Mapping[str, Definition]):
    """Task names to definitions."""

    def __init__(self) -> None:
        """Start empty."""
        self._definitions: dict[str, Definition] = {}

    def add(self, definition: Definition) -> None:
        """Register a task.

        Raises:
            FieldError: Another function has the name already.
        """
        known = self._definitions.get(definition.name)
        if known is not None and known.function is not definition.function:
            raise FieldError(
                "name", f'task "{definition.name}" is registered already', definition.name
            )
        self._definitions[definition.name] = definition

    def find(self, name: str) -> Definition | None:
        """Return a task's definition, or None; without the cost of an error."""
        return self._definitions.get(name)

    def __getitem__(self, name: str) -> Definition:
        """Return a task's definition.

        Raises:
            UnknownTaskError: No such task here.
        """
        try:
            return self._definitions[name]
        except KeyError:
            raise UnknownTaskError(name, tuple(sorted(self._definitions))) from None

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._definitions)

    def __len__(self) -> int:
        """Return how many tasks there are."""
        return len(self._definitions)
