"""The way of jobs into Redis: what is submitted together travels together.

Calls of `submit` in one tick of the loop join one script call; while calls are in flight
newcomers gather, so that the load itself makes the batches larger. Whoever was alone in
his tick, with nothing in flight, makes the call himself. A lost answer is asked for again
with the same request id, and never enqueues twice.

Jobs that are to be durable travel with the others; only their callers wait on, for the
confirmer. What the server lost before it was safe is sent again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from bananas.broker import MAX_JOBS, Entry
from bananas.clock import SYSTEM_CLOCK
from bananas.confirmer import Confirmer
from bananas.errors import DuplicateJobError, DurabilityUnconfirmedError
from bananas.ids import IdMaker, request_id
from bananas.keys import place
from bananas.speedups import encode_record, format_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Sequence

    from bananas.broker import Broker, Specials
    from bananas.clock import Clock

T = TypeVar("T")

MAX_CALL_BYTES: Final = 1024 * 1024
"""Most bytes of records in one call, as estimated: 500 common jobs are a fifth of it, and the
server does nothing else meanwhile. A single larger job goes alone."""

MAX_IN_FLIGHT: Final = 4
"""Calls without an answer at a time, so that a network need not be waited for.

With the answer 5 ms away ready drafts leave at 66,000 a second with 1, 130,000 with 2, 224,000
with 4 (8: 337,000). Beside the server the number makes no difference.
"""

MAX_UNCONFIRMED: Final = 64
"""Chunks of a stream that may wait to be confirmed: 32,000 jobs, as a wait takes up to a second
and covers all that came before it."""

MEMORY: Final = "memory"
"""The durability of a job that is accepted once the server has it in memory."""

_RECORD_BYTES: Final = 400  # a record without its payload: 270 and what its options take
_SENDINGS: Final = 3  # of jobs that the server loses before they are safe: two restarts in a row


@dataclass(frozen=True, slots=True)
class Form:
    """What jobs submitted in one way have in common; validated by whoever makes it.

    Attributes:
        name: The task's.
        priority: `high`, `normal` or `low`.
        routing_key: `default` or a key.
        max_retries: Runs allowed.
        description_json: A JSON string, or None.
        timeout_s: Seconds, or None for the task's.
        result: Whether the return value is kept.
        expires_at: RFC 3339, or None.
        scheduled_for: RFC 3339, or None.
        due: When to run it, for the server: unix seconds, or `+ms` from now; None = at once.
        durability: `memory`, `fsync` or `replica`: what must be so before a job is accepted.
    """

    name: str
    priority: str
    routing_key: str
    max_retries: int
    description_json: bytes | None = None
    timeout_s: float | None = None
    result: bool = False
    expires_at: str | None = None
    scheduled_for: str | None = None
    due: str | None = None
    durability: str = MEMORY

    def place(self, specials: Specials) -> str:
        """Return the place that such a job waits in."""
        task = self.name if self.name in specials.tasks else None
        return place(self.priority, self.routing_key, task)

    def mould(self, now: str, where: str) -> Mould:
        """Return the record's text around the id and the payload."""
        sample = encode_record(
            "",
            self.name,
            self.description_json,
            b"0",
            "pending" if self.due is None else "scheduled",
            self.priority,
            self.routing_key,
            now,
            now,
            self.scheduled_for,
            0,
            self.max_retries,
            None,
            self.timeout_s,
            self.result,
            self.expires_at,
            0,
            0,
            b"",
            where,
        )
        # A quote inside the description is escaped, so this is the member and not a text.
        payload_at = sample.index(b'"payload":0,') + len(b'"payload":')
        id_at = len(b'{"id":"')
        return Mould(sample[:id_at], sample[id_at:payload_at], sample[payload_at + 1 :])


class Mould(NamedTuple):
    """A record without its id and payload: before the one, between, after the other.

    Ids need no escape, so a record is these parts joined: 0.2 us, where writing it member
    by member takes three times as long compiled and ten times in the twin.
    """

    head: bytes
    middle: bytes
    tail: bytes


class Draft(NamedTuple):
    """One job to be: validated, without a place; `job_id` None = gets a new one when sent."""

    form: Form
    payload: bytes
    job_id: str | None = None


@dataclass(slots=True)
class Receipt:
    """The answer to a list of drafts, in its order; not accepted = the id exists already.

    `entries` is what was sent; empty where more than one call made the answer.
    """

    ids: list[str]
    accepted: list[bool]
    request: str = ""
    entries: list[Entry] = field(default_factory=list[Entry])


@dataclass(slots=True)
class _Call:
    """One script call to be: drafts and who waits for the answer."""

    drafts: Sequence[Draft]
    whole: asyncio.Future[Receipt] | None = None
    each: Sequence[asyncio.Future[Entry]] = ()

    def done(self, receipt: Receipt, *, safe: bool = False) -> set[str]:
        """Answer whoever is still waiting; returns the durabilities that some wait for yet.

        With `safe` there are none: the jobs are as safe as was asked.
        """
        open_ones: set[str] = set()
        if self.whole is not None:
            if not self.whole.done():
                self.whole.set_result(receipt)
            return open_ones
        for (form, _, _), future, entry, accepted in zip(
            self.drafts, self.each, receipt.entries, receipt.accepted, strict=True
        ):
            if future.done():
                continue
            if not safe and form.durability != MEMORY:
                open_ones.add(form.durability)
            elif accepted:
                future.set_result(entry)
            else:
                future.set_exception(DuplicateJobError(entry.job_id))
        return open_ones

    def unconfirmed(self, error: DurabilityUnconfirmedError, ids: Sequence[str]) -> None:
        """Tell each who is still waiting of his own job."""
        for future, job_id in zip(self.each, ids, strict=True):
            if not future.done():
                future.set_exception(_named(error, (job_id,), error.requests))

    def failed(self, error: BaseException) -> None:
        """Pass on what went wrong; for a cancelled call, the cancellation."""
        futures: Sequence[asyncio.Future[Receipt] | asyncio.Future[Entry]]
        futures = self.each if self.whole is None else [self.whole]
        for future in futures:
            if future.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)


class Producer:
    """Sends drafts through one broker; belongs to the loop it is used in.

    A caller that is cancelled leaves its job on the way: it may still be enqueued.
    """

    def __init__(
        self,
        broker: Broker,
        ids: IdMaker | None = None,
        clock: Clock = SYSTEM_CLOCK,
        *,
        confirm_timeout_s: float = 5.0,
        replicas: int = 1,
    ) -> None:
        """Send through `broker`; its owner closes it.

        Args:
            broker: Where to.
            ids: Makes ids for jobs without one.
            clock: Dates the records.
            confirm_timeout_s: How long the durability of accepted jobs may stay unconfirmed.
            replicas: How many must have a job of durability `replica`.
        """
        self._broker = broker
        self._ids = ids or IdMaker(clock)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._gathered: list[Draft] = []
        self._callers: list[asyncio.Future[Entry]] = []
        self._taken = 0  # of those gathered, the first ones
        self._pump_due = False
        self._chunks: deque[_Call] = deque()
        self._chunk_turn = False
        self._in_flight: set[asyncio.Future[Any]] = set()
        self._confirm_timeout_s = confirm_timeout_s
        self._replicas = replicas
        self._confirmers: dict[str, Confirmer] = {}
        self._confirming: set[asyncio.Task[Any]] = set()

    def submit(self, draft: Draft) -> Awaitable[Entry]:
        """Enqueue one job together with others of this tick; returns what was written.

        Await it at once: until then it may not have begun.

        Raises:
            DuplicateJobError: The id exists.
            BrokerError: It could not be enqueued, or nobody knows.
        """
        durability = draft[0].durability
        if durability == MEMORY:
            if not self._in_flight and not self._pump_due:
                return self._submit_first(draft)
        elif not self.confirmer(durability).able:
            return self._tracked(self._submit_checked(draft))
        return self._join(draft)

    async def _submit_first(self, draft: Draft) -> Entry:
        """Enqueue the first job of a tick; the caller makes the call himself if no other comes.

        One after the other that takes 169,000 instructions of the client instead of 200,000,
        since there is no task and no turn of the loop for it.
        """
        if self._in_flight or self._pump_due:  # others were faster to await theirs
            return await self._join(draft)
        self._pump_due = True  # by us, when this tick is over
        future = self._join(draft)
        try:
            await asyncio.sleep(0)
        except BaseException:
            future.cancel()  # the job stays on its way; how that ends nobody asks
            self._pump()
            raise
        if self._in_flight or self._callers != [future]:
            self._pump()
            return await future
        self._pump_due = False
        self._gathered.clear()
        self._callers.clear()
        self._in_flight.add(future)
        try:
            receipt = await self._send([draft])
        finally:
            future.cancel()  # it only stands for the call, for whoever closes us
            self._landed(future)
        if not receipt.accepted[0]:
            raise DuplicateJobError(receipt.ids[0])
        return receipt.entries[0]

    def _join(self, draft: Draft) -> asyncio.Future[Entry]:
        """Add a draft to those that the next call takes."""
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)
        self._gathered.append(draft)
        self._callers.append(self._loop.create_future())
        return self._callers[-1]

    async def submit_chunk(self, drafts: Sequence[Draft]) -> Receipt:
        """Enqueue a list of jobs, in as few calls as its size allows; each call is atomic.

        Raises:
            BrokerFullError: At maxmemory; calls before the one refused stand.
            BrokerUnavailableError: No answer in time; what was enqueued is unknown.
            DurabilityError: The server cannot keep them as safe as asked; none was enqueued.
            DurabilityUnconfirmedError: They are enqueued, and may not be as safe as asked.
        """
        durabilities = {form.durability for form, _, _ in drafts} - {MEMORY}
        if durabilities:
            return await self._tracked(self._submit_durably(drafts, durabilities))
        return _joined(await self._receipts(list(_parts(drafts))))

    async def _receipts(self, parts: Sequence[Sequence[Draft]]) -> list[Receipt]:
        """Enqueue each part in a call of its own."""
        calls: list[asyncio.Future[Receipt]] = []
        for part in parts:
            calls.append(self._loop.create_future())
            self._chunks.append(_Call(part, whole=calls[-1]))
        self._pump()
        return await _all(calls)

    async def close(self) -> None:
        """Wait for the calls in flight, those gathered, and what is to be confirmed."""
        self._pump()
        while self._in_flight or self._confirming:
            await asyncio.wait([*self._in_flight, *self._confirming])
        await self.abandon()

    async def abandon(self) -> None:
        """Close the connections that confirm; those who wait are told so."""
        for confirmer in self._confirmers.values():
            await confirmer.close()

    # --- durability ---------------------------------------------------------------------------

    def confirmer(self, durability: str) -> Confirmer:
        """Return what confirms this durability, `fsync` or `replica`."""
        confirmer = self._confirmers.get(durability)
        if confirmer is None:
            confirmer = self._confirmers[durability] = Confirmer(
                self._broker,
                durability,
                timeout_s=self._confirm_timeout_s,
                replicas=self._replicas,
            )
        return confirmer

    async def confirm(
        self, durability: str, requests: Iterable[str], job_ids: Iterable[str]
    ) -> None:
        """Wait until what some requests did is as safe as asked.

        Raises:
            DurabilityUnconfirmedError: Not in time, or the server has lost it.
        """
        requests, job_ids = tuple(requests), tuple(job_ids)
        confirmer = self.confirmer(durability)
        try:
            kept = await _all([confirmer.confirm(request) for request in requests])
        except DurabilityUnconfirmedError as error:
            raise _named(error, job_ids, requests) from None
        if not all(kept):
            why = "the server does not know of them any more; submit them again, with these ids"
            raise DurabilityUnconfirmedError(durability, why, job_ids, requests)

    def _tracked(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run what `close` is to wait for."""
        task = self._loop.create_task(work)
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)
        return task

    async def _submit_checked(self, draft: Draft) -> Entry:
        """Enqueue one job, if the server can give the durability that it asks for."""
        await self.confirmer(draft.form.durability).check()
        return await self._join(draft)

    async def _confirm_each(self, call: _Call, receipt: Receipt, durability: str) -> None:
        """Answer the callers of one call who wait for this durability."""
        at = [n for n, draft in enumerate(call.drafts) if draft.form.durability == durability]
        part = Receipt(
            [receipt.ids[n] for n in at],
            [receipt.accepted[n] for n in at],
            receipt.request,
            [receipt.entries[n] for n in at],
        )
        own = _Call([call.drafts[n] for n in at], each=[call.each[n] for n in at])
        try:
            await self._make_safe(own.drafts, part, [durability])
        except DurabilityUnconfirmedError as error:
            own.unconfirmed(error, part.ids)
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            own.failed(error)
        except BaseException as error:
            own.failed(error)
            raise
        else:
            own.done(part, safe=True)

    async def _submit_durably(self, drafts: Sequence[Draft], durabilities: set[str]) -> Receipt:
        """Enqueue a list of jobs; return when they are safe."""
        for durability in durabilities:
            await self.confirmer(durability).check()
        parts = list(_parts(drafts))
        receipts = await self._receipts(parts)
        for receipt in receipts:  # up to 64 chunks may wait here, and nobody asks for these
            receipt.entries = []
        outcomes = await asyncio.gather(
            *(
                self._make_safe(part, receipt, durabilities)
                for part, receipt in zip(parts, receipts, strict=True)
            ),
            return_exceptions=True,
        )
        open_ones = [error for error in outcomes if isinstance(error, DurabilityUnconfirmedError)]
        if open_ones:
            raise DurabilityUnconfirmedError.of(open_ones)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return _joined(receipts)

    async def _make_safe(
        self, drafts: Sequence[Draft], receipt: Receipt, durabilities: Iterable[str]
    ) -> None:
        """Wait until one call's jobs are safe; what the server has lost is sent again.

        Raises:
            DurabilityUnconfirmedError: Not in time, or lost again and again.
        """
        for durability in durabilities:
            confirmer = self.confirmer(durability)
            for _ in range(_SENDINGS - 1):
                try:
                    if await confirmer.confirm(receipt.request):
                        break
                except DurabilityUnconfirmedError as error:
                    raise _named(error, tuple(receipt.ids), (receipt.request,)) from None
                again = [
                    draft._replace(job_id=job_id)
                    for draft, job_id in zip(drafts, receipt.ids, strict=True)
                ]
                (answer,) = await self._receipts([again])
                receipt.request, receipt.entries = answer.request, answer.entries
                # lost and accepted anew is accepted, whatever the first answer was
                receipt.accepted = [
                    first or second
                    for first, second in zip(receipt.accepted, answer.accepted, strict=True)
                ]
            else:
                await self.confirm(durability, (receipt.request,), receipt.ids)

    # --- calls --------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Start calls while there is something to send and room in flight."""
        self._pump_due = False
        while len(self._in_flight) < MAX_IN_FLIGHT:
            # In turns, so that neither a stream of lists nor of single jobs starves the other.
            if self._chunks and (self._chunk_turn or not self._gathered):
                self._chunk_turn = False
                call = self._chunks.popleft()
            elif self._gathered:
                self._chunk_turn = True
                call = self._take_gathered()
            else:
                return
            task = self._loop.create_task(self._run(call))
            self._in_flight.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, call: asyncio.Future[Any]) -> None:
        self._in_flight.discard(call)
        self._pump()

    def _take_gathered(self) -> _Call:
        part = _first_part(self._gathered, self._taken)
        end = self._taken + len(part)
        call = _Call(part, each=self._callers[self._taken : end])
        self._taken = end
        if 2 * end >= len(self._gathered):  # moved at every call, a long rest costs its square
            del self._gathered[:end], self._callers[:end]
            self._taken = 0
        return call

    async def _run(self, call: _Call) -> None:
        try:
            receipt = await self._send(call.drafts)
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            call.failed(error)
        except BaseException as error:
            call.failed(error)
            raise
        else:
            for durability in call.done(receipt):
                self._tracked(self._confirm_each(call, receipt, durability))

    async def _send(self, drafts: Sequence[Draft]) -> Receipt:
        """Make one call of it, asked again with the same request id until it is answered."""
        ids = self._ids_of(drafts)
        if len(set(ids)) != len(ids):
            return await self._send_repetitive(drafts, ids)
        now = format_time(self._clock.real_us())
        request = request_id()
        while True:
            specials = self._broker.specials
            entries = _entries(drafts, ids, now, specials)
            answers = await self._broker.enqueue(request, entries)
            if answers is not None:
                break
        return Receipt(ids, answers, request, entries)

    async def _send_repetitive(self, drafts: Sequence[Draft], ids: list[str]) -> Receipt:
        """Send the first of each id; the others are duplicates of it."""
        first = {job_id: index for index, job_id in reversed(list(enumerate(ids)))}
        accepted = [False] * len(ids)
        answer = await self._send(
            [drafts[index]._replace(job_id=ids[index]) for index in sorted(first.values())]
        )
        entries = {entry.job_id: entry for entry in answer.entries}
        for job_id, is_new in zip(answer.ids, answer.accepted, strict=True):
            accepted[first[job_id]] = is_new
        return Receipt(ids, accepted, answer.request, [entries[job_id] for job_id in ids])

    def _ids_of(self, drafts: Sequence[Draft]) -> list[str]:
        """Return the ids, new ones where the drafts have none."""
        given = [job_id for _, _, job_id in drafts]
        absent = given.count(None)
        if absent == len(given):
            return self._ids.new_ids(absent)
        fresh = iter(self._ids.new_ids(absent))
        return [next(fresh) if job_id is None else job_id for job_id in given]


async def _all(answers: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for every answer, then raise the first error among them, if any."""
    found: list[T] = []
    for answer in await asyncio.gather(*answers, return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer
        found.append(answer)
    return found


def _joined(receipts: Iterable[Receipt]) -> Receipt:
    whole = Receipt([], [])
    for receipt in receipts:
        whole.ids += receipt.ids
        whole.accepted += receipt.accepted
    return whole


def _named(
    error: DurabilityUnconfirmedError, job_ids: tuple[str, ...], requests: tuple[str, ...]
) -> DurabilityUnconfirmedError:
    """Return the error with the jobs that it is about."""
    return DurabilityUnconfirmedError(error.durability, error.reason, job_ids, requests)


def _parts(drafts: Sequence[Draft]) -> Iterator[Sequence[Draft]]:
    """Cut a list where the next job would make a call too long or too large."""
    begin = 0
    while part := _first_part(drafts, begin):
        yield part
        begin += len(part)


def _first_part(drafts: Sequence[Draft], begin: int) -> Sequence[Draft]:
    """Return those of one call, from there on: one at least, if there is any."""
    part = drafts[begin : begin + MAX_JOBS]
    room = MAX_CALL_BYTES
    for index, (_, payload, _) in enumerate(part):
        room -= len(payload) + _RECORD_BYTES
        if room < 0 and index:
            return part[:index]
    return part


def _entries(
    drafts: Sequence[Draft], ids: Sequence[str], now: str, specials: Specials
) -> list[Entry]:
    entries: list[Entry] = []
    form: Form | None = None
    head = middle = tail = b""
    where, due = "", None
    for (of, payload, _), job_id in zip(drafts, ids, strict=True):
        if of is not form:
            form = of
            where, due = form.place(specials), form.due
            head, middle, tail = form.mould(now, where)
        record = b"".join((head, job_id.encode(), middle, payload, tail))
        # Entry() would pass through a Python function: 0.25 us against 0.1.
        named = (job_id, where, record, due)
        entry = tuple.__new__(Entry, named)  # pyright: ignore[reportUnknownMemberType]
        entries.append(entry)
    return entries
