"""Metrics as Prometheus text: the fleet's from Redis, this host's from the shared table.

Every process of a host counts in the table, so any API process beside them can tell of all:
no files, no ports of their own. Labels have few values: roles, transitions, and the queues
that there are, up to a limit.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from bananas.errors import BrokerError
from bananas.http.exchange import Query
from bananas.http.operations import Operation
from bananas.stalls import find_stalls, patience_s
from bananas.table import DURATION_BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request

    from bananas.http.operations import Context
    from bananas.inspector import QueueInfo
    from bananas.settings import Settings
    from bananas.table import Histogram, Slot, Table

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_QUEUES: Final = 1000
"""Most queues told one by one: each is a time series for ever."""
REDIS_S: Final = 2.0
"""How long Redis may take to tell its part; without it this host's part is told alone."""

Labels = dict[str, str]

_GAUGES: Final = ("waiting", "scheduled", "leased", "dead")

_OF_SLOTS: Final = {
    "started": "Runs of handlers begun.",
    "completed": "Runs that completed their job.",
    "retried": "Runs after which their job is to run again.",
    "failed": "Jobs failed for good.",
    "released": "Jobs given back before they began.",
    "poisoned": "Jobs failed because they took down their process too often.",
    "stale": "Outcomes refused because the lease was no longer the worker's.",
    "repeated": "Outcomes in effect already when the repeat of their call was answered.",
    "reconciled": "Jobs given back because the answer that brought them was lost.",
    "fenced": "Epochs that a living worker lost.",
    "reclaimed_epochs": "Epochs whose jobs the warden has given back.",
    "reclaimed": "Jobs that the warden has given back for processes that are gone.",
    "connects": "Connections to Redis made, the first ones included.",
    "drops": "Connections to Redis lost or given up.",
    "resends": "Calls to Redis sent again because their answer was lost.",
    "script_loads": "Scripts sent anew because Redis did not have them.",
}
"""The table's counts of a child that are told by role, and what they are."""

_OF_TABLE: Final = {
    "starts": "Children started.",
    "crashes": "Children that ended unasked.",
    "boot_failures": "Children that ended before they were ready.",
    "kills": "Children ended by force: past a job's hard limit, or too slow to leave.",
}


class Exposition:
    """Text in the making."""

    def __init__(self) -> None:
        """Begin."""
        self._lines: list[str] = []

    def add(
        self, name: str, kind: str, about: str, samples: Iterable[tuple[Labels, float]]
    ) -> None:
        """Tell one metric; nothing where there are no samples."""
        rows = [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
        if rows:
            self._lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *rows]

    def add_histogram(
        self, name: str, about: str, samples: Iterable[tuple[Labels, tuple[int, ...], float]]
    ) -> None:
        """Tell durations by bucket: for each, the counts (not cumulative) and the sum."""
        rows: list[str] = []
        for labels, counts, total_s in samples:
            so_far = 0
            for bound, count in zip((*DURATION_BOUNDS_S, None), counts, strict=True):
                so_far += count
                edge = "+Inf" if bound is None else repr(bound)
                rows.append(f"{name}_bucket{_labels({**labels, 'le': edge})} {so_far}")
            rows.append(f"{name}_sum{_labels(labels)} {_number(total_s)}")
            rows.append(f"{name}_count{_labels(labels)} {so_far}")
        if rows:
            self._lines += [f"# HELP {name} {about}", f"# TYPE {name} histogram", *rows]

    def text(self) -> str:
        """Return all that was added."""
        return "\n".join([*self._lines, ""])


async def show_metrics(context: Context, request: Request) -> Response:
    """Answer GET /metrics; an outage of Redis is a sample, not an error."""
    Query(request.scope["query_string"]).done()
    out = Exposition()
    try:
        async with asyncio.timeout(REDIS_S):
            stats = await context.client.stats()
            queues = await context.client.queues()
    except (BrokerError, TimeoutError):
        out.add("bananas_redis_up", "gauge", "Whether Redis told its part.", [({}, 0)])
    else:
        out.add("bananas_redis_up", "gauge", "Whether Redis told its part.", [({}, 1)])
        tell_fleet(out, stats, queues)
    if context.table is not None:
        tell_host(out, context.table, context.settings, time.monotonic_ns())
    return Response(out.text(), media_type=MEDIA_TYPE)


def tell_fleet(out: Exposition, stats: Mapping[str, int], queues: list[QueueInfo]) -> None:
    """Tell what Redis knows: the same on every host."""
    transitions = sorted(stats.keys() - {*_GAUGES, "drift"})
    out.add(
        "bananas_jobs_total",
        "counter",
        "Jobs by transition, counted in the script that made it.",
        [({"transition": name}, stats[name]) for name in transitions],
    )
    out.add(
        "bananas_jobs",
        "gauge",
        "Jobs by where they are now.",
        [({"state": name}, stats[name]) for name in _GAUGES],
    )
    about = "Jobs too many (or too few) against the counters; foreign ones that wait count here."
    out.add("bananas_drift", "gauge", about, [({}, stats["drift"])])
    told = sorted(queues, key=lambda queue: -queue.waiting)[:MAX_QUEUES]
    labels = [
        {"routing_key": queue.routing_key, "priority": queue.priority, "task": queue.task or ""}
        for queue in told
    ]
    out.add(
        "bananas_queue_waiting",
        "gauge",
        "Jobs that wait, by queue.",
        [(label, queue.waiting) for label, queue in zip(labels, told, strict=True)],
    )
    out.add(
        "bananas_queue_oldest_age_seconds",
        "gauge",
        "How long the next job of a queue has waited.",
        [(label, queue.oldest_age_s or 0.0) for label, queue in zip(labels, told, strict=True)],
    )


def tell_host(out: Exposition, table: Table, settings: Settings, now_ns: int) -> None:
    """Tell what the shared table knows: the processes of this host."""
    for name, about in _OF_TABLE.items():
        out.add(f"bananas_child_{name}_total", "counter", about, [({}, getattr(table, name))])
    by_role: dict[str, list[Slot]] = {}
    for slot in table.slots:
        if slot.role:
            by_role.setdefault(slot.role, []).append(slot)
    live = table.live()
    out.add(
        "bananas_processes",
        "gauge",
        "Living processes.",
        [({"role": role}, sum(slot.role == role for slot in live)) for role in by_role],
    )
    for name, about in _OF_SLOTS.items():
        counts = [
            ({"role": role}, sum(getattr(slot, name) for slot in slots))
            for role, slots in by_role.items()
            if role in ("worker", "warden")
        ]
        out.add(f"bananas_process_{name}_total", "counter", about, counts)
    stalls = find_stalls(table, patience_s(settings), now_ns)
    about = "Workers that have stopped asking for jobs."
    out.add("bananas_stalled_workers", "gauge", about, [({}, len(stalls))])
    workers = [slot for slot in live if slot.role == "worker"]
    out.add(
        "bananas_worker_memory_bytes",
        "gauge",
        "Resident memory.",
        [({"slot": str(slot.index)}, slot.rss_bytes) for slot in workers],
    )
    out.add(
        "bananas_worker_loop_age_seconds",
        "gauge",
        "Since the event loop last went round.",
        [
            ({"slot": str(slot.index)}, max(0, now_ns - slot.tick_ns) / 1e9)
            for slot in workers
            if slot.tick_ns
        ],
    )
    mine = by_role.get("worker", [])
    out.add_histogram(
        "bananas_run_seconds",
        "Durations of runs, of about one in 16.",
        _histogram([slot.run_time for slot in mine]),
    )
    out.add_histogram(
        "bananas_wait_seconds",
        "From a job's creation to its arrival at a worker, of one job a batch.",
        _histogram([slot.wait_time for slot in mine]),
    )


def _histogram(each: list[Histogram]) -> list[tuple[Labels, tuple[int, ...], float]]:
    if not each:
        return []
    counts = tuple(map(sum, zip(*(one.counts for one in each), strict=True)))
    return [({}, counts, sum(one.sum_s for one in each))]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = [f'{name}="{_escape(value)}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


OPERATION: Final = Operation(
    "GET",
    "/metrics",
    "read",
    {
        "operationId": "getMetrics",
        "tags": ["queues"],
        "summary": "Counters and gauges of the fleet and of this host, as Prometheus text",
        "responses": {
            "200": {
                "description": "Text exposition format 0.0.4.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
        },
    },
    show_metrics,
)
