"""The curves: what is varied, what is measured at each size, and what one expects to see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psutil

from benchmarks.bed import Bed
from benchmarks.curves.measures import Line, calls, drained, far_keys, life, limit, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from benchmarks.scenarios import Sample
    from benchmarks.setup import Setup

Point = tuple[str, int, "Callable[[], Sample]"]
"""Series, size, and what measures it."""

_BYTES_AT_ONCE: Final = 96 * 2**20
_BYTES_A_JOB: Final = 900
"""Of a waiting job of 200 bytes, generously: for the bound below."""
_SHARE_OF_MEMORY: Final = 0.6
_FILL: Final = 500_000


@dataclass(frozen=True, slots=True)
class Curve:
    """One question.

    Attributes:
        name: On the command line and in the history.
        title: For people.
        axis: What is varied.
        sizes: Of the whole run.
        quick: Of a quick one.
        points: Gives what is to be measured in one repeat; called once, as the beds of a curve
            may live through all repeats.
        why: What one expects to see, and for which reason.
    """

    name: str
    title: str
    axis: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    points: Callable[[Setup, tuple[int, ...], ExitStack], Iterator[Point]]
    why: str


def _batches(setup: Setup, sizes: tuple[int, ...], _beds: ExitStack) -> Iterator[Point]:
    for size in sizes:
        sized = replace(setup, jobs=min(setup.jobs, 1_500 * size))
        yield "`enqueue_many`", size, partial(calls, sized, size)
        yield "NDJSON", size, partial(requests, sized, size)


def _payloads(setup: Setup, sizes: tuple[int, ...], _beds: ExitStack) -> Iterator[Point]:
    for size in sizes:
        jobs = min(setup.jobs, max(200, _BYTES_AT_ONCE // size))
        sized = replace(setup, jobs=jobs, payload_bytes=size)
        yield "compiled", size, partial(life, replace(sized, core="compiled"))
        yield "pure", size, partial(life, replace(sized, core="pure"))


def _processes(setup: Setup, sizes: tuple[int, ...], _beds: ExitStack) -> Iterator[Point]:
    for size in sizes:
        yield "no-op", size, partial(drained, replace(setup, procs=str(size)))


def _concurrencies(setup: Setup, sizes: tuple[int, ...], _beds: ExitStack) -> Iterator[Point]:
    for size in sizes:
        jobs = min(setup.jobs, 250 * size)
        sized = replace(setup, jobs=jobs, procs="2", concurrency=size, kind="wait")
        yield "10 ms", size, partial(drained, sized)


def _limits(setup: Setup, sizes: tuple[int, ...], _beds: ExitStack) -> Iterator[Point]:
    for size in sizes:
        sized = replace(setup, jobs=min(setup.jobs // 2, 2_000 * size))
        yield "scripts", size, partial(limit, sized, size, native=False)
        yield "native", size, partial(limit, sized, size, native=True)


def _backlogs(setup: Setup, sizes: tuple[int, ...], beds: ExitStack) -> Iterator[Point]:
    """All beds stand at once, so that repeats can be interleaved; each keeps its backlog."""
    at_hand = psutil.virtual_memory().available * _SHARE_OF_MEMORY
    lines: dict[int, Line] = {}

    def at(size: int) -> Sample:
        if size not in lines:
            bed = beds.enter_context(Bed(setup))
            lines[size] = Line(bed, setup, min(size, 2_000))
        line, jobs = lines[size], min(setup.jobs // 2, size * 4 // 5)
        samples: list[Sample] = []
        for _ in range(max(1, min(5, setup.jobs // 2 // jobs))):
            while line.waiting < size - 1_000:
                line.fill(min(_FILL, size - line.waiting))
            samples.append(line.drain(jobs))
        return {
            figure: sum(sample[figure] for sample in samples) / len(samples)
            for figure in samples[0]
        }

    held = 0
    for size in sizes:
        held += size
        if held * _BYTES_A_JOB <= at_hand:
            yield "drain", size, partial(at, size)


def _keys(setup: Setup, sizes: tuple[int, ...], _beds: ExitStack) -> Iterator[Point]:
    at_hand = psutil.virtual_memory().available * _SHARE_OF_MEMORY
    for size in sizes:
        if size * _BYTES_A_JOB <= at_hand:
            yield "`MGET`, `DEL`", size, partial(far_keys, setup, size)


def _curve(*facts: Any) -> Curve:  # noqa: ANN401 - the fields, in their order
    return Curve(*facts)


CURVES: Final = {
    curve.name: curve
    for curve in (
        _curve(
            "batch", "Jobs a call", "jobs a call", (1, 10, 100, 1_000), (1, 100), _batches,
            "A call costs a round trip, a request id and a script's start, whatever it carries; "
            "shared by 100 jobs little is left of it.",
        ),
        _curve(
            "backlog", "Waiting jobs", "jobs waiting",
            (10_000, 50_000, 100_000, 1_000_000, 5_000_000),
            (2_000, 10_000), _backlogs,
            "No step looks at more than its batch: ids leave a list at its end and records are "
            "looked up by key, so the cost does not grow with the backlog, except by what larger "
            "tables miss in the caches.",
        ),
        _curve(
            "keys", "Keys far apart", "keys", (50_000, 1_000_000, 5_000_000), (2_000, 10_000),
            _keys,
            "Each job's record is looked up twice, to be read and to be deleted. These two "
            "commands alone, 250 keys of a record's size a call, the oldest first, cost more in a "
            "larger table: a part of the curve above that no queue with a key a job is without.",
        ),
        _curve(
            "payload", "Payload", "bytes a payload", (50, 200, 1_024, 4_096, 16_384, 65_536),
            (200, 16_384), _payloads,
            "Records are carried whole and the payload is decoded once, for the handler: beyond "
            "1 KiB every byte is paid for, by copies through sockets and by JSON.",
        ),
        _curve(
            "procs", "Worker processes", "processes", (1, 2, 4), (1, 2), _processes,
            "Processes share nothing but the server; more than cores only share their time.",
        ),
        _curve(
            "concurrency", "Concurrency, handlers that wait for 10 ms, in 2 processes",
            "jobs at a time in a process",
            (1, 10, 100, 1_000), (10, 100), _concurrencies,
            "Handlers that wait cost no time of the processor: the rate grows with the concurrency "
            "until a process is busy.",
        ),
        _curve(
            "limit", "What one core of Redis could do", "jobs a call", (1, 10, 100, 250, 1_000),
            (10, 250), _limits,
            "A bare client sends ready-made commands and throws the answers away: no worker can be "
            "faster on one server. Beside it the fewest native commands for the same data, which "
            "lease, fence and count nothing.",
        ),
    )
}  # fmt: skip
