"""`Bananas`: tasks under their names, and typed ways to enqueue them.

A decorated function stays a function: called, it runs here and now. What the decorator
adds is `enqueue` and its like, with the function's own signature.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from bananas.client import Client
from bananas.errors import FieldError
from bananas.handle import JobHandle, SyncJobHandle
from bananas.job import validate_id
from bananas.producer import Draft
from bananas.registry import Batching, Registry, TaskOptions, define
from bananas.settings import Settings
from bananas.sync_client import SyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from bananas.keys import Priority
    from bananas.producer import Form
    from bananas.registry import Definition
    from bananas.retry import RetryPolicy
    from bananas.submission import Report, SubmitOptions, Verdicts

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")
R = TypeVar("R")

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


class TaskArguments(TypedDict, total=False):
    """What `task` and `batch_task` take; the meanings are those of `TaskOptions`."""

    name: str
    priority: Priority
    routing_key: str
    max_retries: int
    timeout_s: float
    result: bool
    retention_s: int
    retry: RetryPolicy
    description: str


class _Task(Generic[T]):
    """What all kinds of tasks share: the definition, options of this copy, and the way out."""

    def __init__(
        self, app: Bananas, definition: Definition, options: Mapping[str, Any] | None = None
    ) -> None:
        self.app: Final = app
        self.definition: Final = definition
        self.name: Final = definition.name
        self._options: Final[Mapping[str, Any]] = options or {}
        self._form: Form | None = None
        functools.update_wrapper(cast("Any", self), definition.function, updated=())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def options(self, **options: Unpack[SubmitOptions]) -> Self:
        """Return a copy whose jobs have these options; those not given stay as they are.

        Args:
            **options: As the fields of `Submission`.

        Raises:
            FieldError: At `enqueue`: an option breaks its rule.
        """
        return type(self)(self.app, self.definition, {**self._options, **options})

    async def _submit(self, payload: object) -> JobHandle[T]:
        client = self.app.client
        draft = self._draft(client, payload)
        session = client.open_session() or await client.session()
        return JobHandle(client, (await session.producer.submit(draft)).job_id, self.name)

    def _submit_sync(self, payload: object) -> SyncJobHandle[T]:
        draft = self._draft(self.app.client, payload)
        client = self.app.sync_client
        return SyncJobHandle(client, client.submit_draft(draft), self.name)

    async def _submit_many(
        self,
        rows: Iterable[Any] | AsyncIterable[Any],
        keep_verdicts: bool,
        on_chunk: Callable[[Verdicts], object] | None,
    ) -> Report:
        client = self.app.client
        return await client.stream(
            rows, self._row_drafter(client), keep_verdicts=keep_verdicts, on_chunk=on_chunk
        )

    def _submit_many_sync(
        self,
        rows: Iterable[Any],
        keep_verdicts: bool,
        on_chunk: Callable[[Verdicts], object] | None,
    ) -> Report:
        return self.app.sync_client.stream(
            rows,
            self._row_drafter(self.app.client),
            keep_verdicts=keep_verdicts,
            on_chunk=on_chunk,
        )

    def _draft(self, client: Client, payload: object) -> Draft:
        job_id = self._options.get("id")
        if job_id is not None:
            validate_id(job_id)
        form = self._form or self._make_form(client)
        return Draft(form, client.drafter.payload(payload, self.name), job_id)

    def _row_drafter(self, client: Client) -> Callable[[Any], Draft]:
        if self._options.get("id") is not None:
            raise FieldError("id", "must not be given for many jobs", self._options["id"])
        form = self._form or self._make_form(client)
        to_payload, encode = self.definition.to_item_payload, client.drafter.encoder(self.name)

        def draft(row: object) -> Draft:
            # Draft() would pass through a Python function: 0.25 us against 0.1.
            drafted = (form, encode(to_payload(row)), None)
            return tuple.__new__(Draft, drafted)  # pyright: ignore[reportUnknownMemberType]

        return draft

    def _make_form(self, client: Client) -> Form:
        """Return the form of this copy's jobs; kept unless it depends on the time."""
        of_task = self.definition.options
        form = client.drafter.form(
            self.name,
            {
                "priority": of_task.priority,
                "routing_key": of_task.routing_key,
                "max_retries": of_task.max_retries,
                "result": of_task.result,
                "description": of_task.description,
                # Its time limit is not copied: workers know it, and may know a newer one.
                **{name: value for name, value in self._options.items() if value is not None},
            },
        )
        if self._options.get("delay_s") is None:
            self._form = form
        return form


class AsyncTask(_Task[T], Generic[P, T]):
    """A task whose handler is `async def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run the handler here and now, as if it were no task."""
        return cast("Coroutine[Any, Any, T]", self.definition.function(*args, **kwargs))

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Enqueue a call; calls made at the same time share a round trip.

        Raises:
            PayloadTypeError: The arguments do not fit, or one has no JSON form.
            PayloadError: They are too large or too deep.
            FieldError: An option breaks its rule.
            DuplicateJobError: A job of the id given by `options` exists.
            BrokerError: See `bananas.errors`.
        """
        return await self._submit(self.definition.to_payload(args, kwargs))

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> SyncJobHandle[T]:
        """Enqueue a call from code that blocks; see `enqueue`."""
        return self._submit_sync(self.definition.to_payload(args, kwargs))

    async def enqueue_many(
        self,
        rows: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Enqueue a call for each row of keyword arguments; see `Client.submit_many`."""
        return await self._submit_many(rows, keep_verdicts, on_chunk)

    def enqueue_many_sync(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Do the same from code that blocks; see `SyncClient.submit_many`."""
        return self._submit_many_sync(rows, keep_verdicts, on_chunk)


class SyncTask(_Task[T], Generic[P, T]):
    """A task whose handler is `def`; enqueued like any other."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the handler here and now, as if it were no task."""
        return cast("T", self.definition.function(*args, **kwargs))

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        """Enqueue a call; see `AsyncTask.enqueue`."""
        return await self._submit(self.definition.to_payload(args, kwargs))

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> SyncJobHandle[T]:
        """Enqueue a call from code that blocks; see `AsyncTask.enqueue`."""
        return self._submit_sync(self.definition.to_payload(args, kwargs))

    async def enqueue_many(
        self,
        rows: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Enqueue a call for each row of keyword arguments; see `Client.submit_many`."""
        return await self._submit_many(rows, keep_verdicts, on_chunk)

    def enqueue_many_sync(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Do the same from code that blocks; see `SyncClient.submit_many`."""
        return self._submit_many_sync(rows, keep_verdicts, on_chunk)


class BatchTask(_Task[Any], Generic[Item, R]):
    """A task whose handler takes a list of items; each item is a job of its own."""

    def __call__(self, items: list[Item]) -> R:
        """Run the handler here and now, as if it were no task."""
        return cast("R", self.definition.function(items))

    async def enqueue(self, item: Item) -> JobHandle[Any]:
        """Enqueue one item; see `AsyncTask.enqueue`."""
        return await self._submit(self.definition.to_item_payload(item))

    def enqueue_sync(self, item: Item) -> SyncJobHandle[Any]:
        """Enqueue one item from code that blocks; see `AsyncTask.enqueue`."""
        return self._submit_sync(self.definition.to_item_payload(item))

    async def enqueue_many(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Enqueue every item; see `Client.submit_many`."""
        return await self._submit_many(items, keep_verdicts, on_chunk)

    def enqueue_many_sync(
        self,
        items: Iterable[Item],
        *,
        keep_verdicts: bool = True,
        on_chunk: Callable[[Verdicts], object] | None = None,
    ) -> Report:
        """Do the same from code that blocks; see `SyncClient.submit_many`."""
        return self._submit_many_sync(items, keep_verdicts, on_chunk)


class TaskDecorator:
    """`@app.task(…)`: what makes a task of a function."""

    def __init__(self, app: Bananas, inline: bool, arguments: TaskArguments) -> None:
        """Keep what was asked for."""
        self._app = app
        self._inline = inline
        self._arguments = arguments

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the first that fits is meant
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AsyncTask[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> SyncTask[P, T]: ...

    def __call__(self, function: Callable[..., Any], /) -> AsyncTask[..., Any] | SyncTask[..., Any]:
        """Register the function.

        Raises:
            FieldError: An option breaks its rule, or the name is taken.
            PayloadTypeError: The function has parameters that cannot be sent.
        """
        name, options = _split(self._arguments)
        definition = define(function, name=name, inline=self._inline, options=options)
        self._app.registry.add(definition)
        if definition.kind == "async":
            return AsyncTask[..., Any](self._app, definition)
        return SyncTask[..., Any](self._app, definition)


class BatchDecorator:
    """`@app.batch_task(…)`: what makes a batch task of a function."""

    def __init__(self, app: Bananas, batching: Batching, arguments: TaskArguments) -> None:
        """Keep what was asked for."""
        self._app = app
        self._batching = batching
        self._arguments = arguments

    def __call__(self, function: Callable[[list[Item]], R], /) -> BatchTask[Item, R]:
        """Register the function; raises as `TaskDecorator` does."""
        name, options = _split(self._arguments)
        definition = define(function, name=name, batching=self._batching, options=options)
        self._app.registry.add(definition)
        return BatchTask(self._app, definition)


def _split(arguments: TaskArguments) -> tuple[str | None, TaskOptions]:
    """Return (name, options)."""
    given: dict[str, Any] = dict(arguments)
    return given.pop("name", None), TaskOptions(**given)


class Bananas:
    """An application: its tasks, its settings, and a client for each kind of code."""

    def __init__(
        self, url: str | None = None, *, settings: Settings | None = None, **overrides: object
    ) -> None:
        """Register nothing, open nothing, read nothing yet.

        Args:
            url: The server; default: that of the settings.
            settings: Default: read from the environment when first needed.
            **overrides: Settings by name, as in `max_retries=5`; they win.

        Raises:
            SettingsError: At first use: a setting is wrong.
        """
        self.registry: Final = Registry()
        named: dict[str, Any] = dict(overrides)
        if url is not None:
            named["redis_url"] = url
        self.overrides: Final[Mapping[str, Any]] = named
        self._base = settings
        self._settings: Settings | None = None
        self._client: Client | None = None
        self._sync_client: SyncClient | None = None
        self._lifespans: list[Lifespan] = []

    def configure(self, settings: Settings) -> None:
        """Use exactly these settings from now on: for who starts a process, before any job.

        `overrides` has what the application asked for, to be put into them.
        """
        self._settings = settings
        self._client = self._sync_client = None

    @property
    def settings(self) -> Settings:
        """The settings: those configured, else those given, else the environment's."""
        if self._settings is None:
            if self._base is None:
                self._settings = Settings.from_sources(os.environ, **self.overrides)
            else:
                self._settings = replace(self._base, **self.overrides)
        return self._settings

    @property
    def client(self) -> Client:
        """The client for async code; connects when first used."""
        if self._client is None:
            self._client = Client(settings=self.settings)
        return self._client

    @property
    def sync_client(self) -> SyncClient:
        """The client for code that blocks; has a thread of its own once used."""
        if self._sync_client is None:
            self._sync_client = SyncClient(settings=self.settings)
        return self._sync_client

    async def __aenter__(self) -> Self:
        """Connect, so that a wrong address shows here, or a server that is not durable enough."""
        await self.client.ping()
        await self.client.check_durability()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.aclose()

    async def aclose(self) -> None:
        """Send what is on its way and close both clients."""
        if self._client is not None:
            await self._client.aclose()
        if self._sync_client is not None:
            await asyncio.to_thread(self._sync_client.close)

    # --- tasks ------------------------------------------------------------------------------

    @overload
    def task(  # type: ignore[overload-overlap]  # the first that fits is meant
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AsyncTask[P, T]: ...
    @overload
    def task(self, function: Callable[P, T], /) -> SyncTask[P, T]: ...
    @overload
    def task(
        self, /, *, inline: bool = False, **arguments: Unpack[TaskArguments]
    ) -> TaskDecorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        inline: bool = False,
        **arguments: Unpack[TaskArguments],
    ) -> Any:
        """Make a task of a function: `@app.task` or `@app.task(name=…, priority=…, …)`.

        Args:
            function: `async def` runs on the loop, `def` in a thread. Its parameters are the
                members of the payload.
            inline: Run a short `def` on the loop.
            **arguments: Defaults of its jobs; the name is the function's unless given.

        Raises:
            FieldError: An option breaks its rule, or the name is taken.
            PayloadTypeError: The function has parameters that cannot be sent.
        """
        decorator = TaskDecorator(self, inline, arguments)
        return decorator if function is None else decorator(function)

    @overload
    def batch_task(self, function: Callable[[list[Item]], R], /) -> BatchTask[Item, R]: ...
    @overload
    def batch_task(
        self,
        /,
        *,
        max_size: int = 500,
        linger_s: float = 0.02,
        **arguments: Unpack[TaskArguments],
    ) -> BatchDecorator: ...

    def batch_task(
        self,
        function: Callable[[list[Any]], Any] | None = None,
        /,
        *,
        max_size: int = 500,
        linger_s: float = 0.02,
        **arguments: Unpack[TaskArguments],
    ) -> Any:
        """Make a task of a function that takes many items a call.

        Args:
            function: Takes one list; returns an `Outcome` for each item, or nothing.
            max_size: Most items a call, 1..10000.
            linger_s: How long the first item waits for others, seconds, 0..60.
            **arguments: As for `task`.

        Raises:
            FieldError: An option breaks its rule, or the name is taken.
        """
        decorator = BatchDecorator(self, Batching(max_size, linger_s), arguments)
        return decorator if function is None else decorator(function)

    # --- processes --------------------------------------------------------------------------

    def lifespan(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Run around the work of every worker process: `@app.lifespan`.

        Args:
            function: An async generator function that yields once, or anything that returns
                an async context manager. Entered before the first job, in the order given.
        """
        if inspect.isasyncgenfunction(function):
            generator = cast("Callable[[], AsyncGenerator[None]]", function)
            self._lifespans.append(asynccontextmanager(generator))
        else:
            self._lifespans.append(function)
        return function

    @asynccontextmanager
    async def process(self) -> AsyncGenerator[None]:
        """Enter every lifespan; on the way out leave them, last one first, and the clients."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.aclose)
            for lifespan in self._lifespans:
                await stack.enter_async_context(lifespan())
            yield
