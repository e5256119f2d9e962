"""What the project is to reach, and whether the last runs that measured it did."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.cases import promotion, server_us
from benchmarks.curves.picture import BACKLOGS
from benchmarks.peers.measures import MEASURES
from benchmarks.peers.peers import PEERS
from benchmarks.report import at_half_load
from benchmarks.runs import newest_first
from benchmarks.scenarios import SCENARIOS
from benchmarks.setup import Setup

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.runs import Run

Found = tuple[float, str]
"""A figure, and a remark about it."""

_OURS: Final = "bananas"
_NOT_PYTHON: Final = ("BullMQ",)
USUAL: Final[dict[str, dict[str, Any]]] = {
    "bench": Setup().as_json(),
    "budget": Setup(jobs=50_000).as_json(),
    "curves": Setup(jobs=60_000).as_json(),
    "peers": {"jobs": 3_000, "probes": 200},
}
"""By command: the knobs of a run as they are when nobody turns them."""
_UNITS: Final = {
    "per_s": (0, "/s"), "us": (1, " µs"), "ms": (2, " ms"), "bytes": (0, " bytes"),
    "times": (1, " ×"), "share": (2, ""),  # noqa: RUF001 - times
}  # fmt: skip
"""Digits of a measured figure, and what stands behind it."""


@dataclass(frozen=True, slots=True)
class Aim:
    """One figure to be reached; those with the same title are one aim.

    Attributes:
        title: What it is of.
        least: Whether `wanted` is the least that will do, not the most.
        wanted: The figure.
        unit: Of both figures.
        command: Whose history has it.
        measured: Finds it in a run, if that measured it.
        detail: What tells this figure from the others of its title.
    """

    title: str
    least: bool
    wanted: float
    unit: str
    command: str
    measured: Callable[[Run], Found | None]
    detail: str = ""


def _middle(samples: list[dict[str, float]] | None, *figures: str) -> float | None:
    """Return the median of a figure, or of the sum of some."""
    if not samples or any(figure not in sample for sample in samples for figure in figures):
        return None
    return median(sum(sample[figure] for figure in figures) for sample in samples)


def _of(title: str, scenario: str, figure: str, detail: str = "") -> Aim:
    """Return an aim that a line of the harness has."""

    def measured(run: Run) -> Found | None:
        found = _middle(run["samples"].get(scenario), figure)
        return None if found is None else (found, "")

    unit = "per_s" if figure == "per_s" else figure.rsplit("_", 1)[-1]
    wanted = SCENARIOS[scenario].targets[figure]
    return Aim(title, unit == "per_s", wanted, unit, "bench", measured, detail)


def _at_half_load(run: Run) -> Found | None:
    samples = run["samples"].get("loaded", [])
    found, load, asked = (_middle(samples, f) for f in ("p99_ms", "load_per_s", "asked_per_s"))
    if found is None or load is None or asked is None or not at_half_load(samples):
        return None  # an earlier version, or another load than half
    return found, f"at {load:,.0f} of {asked:,.0f} jobs/s"


def all_peers(run: Run, measure: str) -> bool:
    """Tell whether a run has a measure of every peer that can do it: the best of some is none."""
    able = {peer.name for peer in PEERS if MEASURES[measure].applies(peer)}
    return able <= set(run["samples"].get(measure, {}))


def _against(measure: str, *, python: bool) -> Callable[[Run], Found | None]:
    """Compare with the best peer in Python, or with BullMQ."""

    def measured(run: Run) -> Found | None:
        if not all_peers(run, measure):
            return None
        rates = {name: _middle(of, "per_s") for name, of in run["samples"][measure].items()}
        others = {
            name: rate
            for name, rate in rates.items()
            if rate and not name.startswith(_OURS) and (name not in _NOT_PYTHON) == python
        }
        ours = rates.get(_OURS)
        if not ours or not others:
            return None
        rival = max(others, key=lambda name: others[name])
        return ours / others[rival], f"{rival} {others[rival]:,.0f}/s"

    return measured


def _whole_life(run: Run) -> Found | None:
    found = _middle(run["samples"].get("life-compiled"), "enqueue_server_us", "server_us")
    return None if found is None else (found, "")


def _beside(native: str) -> Callable[[Run], Found | None]:
    """Compare the server's CPU with that of native commands, at 250 and 500 jobs a call."""

    def measured(run: Run) -> Found | None:
        ratios: list[float] = []
        for batch in (250, 500):
            ours, theirs = (server_us(run["cases"], life, batch) for life in ("scripts", native))
            if not ours or not theirs:
                return None
            ratios.append(ours / theirs)
        return max(ratios), ""

    return measured


def _promotion(figure: str) -> Callable[[Run], Found | None]:
    def measured(run: Run) -> Found | None:
        found = promotion(run["cases"]).get(figure)
        return None if found is None else (found, "")

    return measured


def _backlog(run: Run) -> Found | None:
    drains = run["curves"].get("backlog", {}).get("drain", {})
    few, many = (_middle(drains.get(size), "per_s") for size in BACKLOGS)
    return (many / few, "") if few and many else None


_DRAIN: Final = "drain of no-op async jobs"
_SERVER: Final = "Redis CPU a job, batches of 250 and more"
_MANY: Final = "`enqueue_many`, one process"
_HTTP: Final = "`POST /jobs`, one API process"
_IDLE: Final = "idle submission → handler start"
_DUE: Final = "promotion of due jobs"
_FEWEST: Final = "against the fewest native commands, many jobs each"

AIMS: Final = (
    _of(_DRAIN, "drain", "per_s"),
    Aim(_DRAIN, True, 20, "times", "peers", _against("async", python=True),
        "against the best Python peer, async handlers in both"),
    Aim(_DRAIN, True, 20, "times", "peers", _against("sync", python=True),
        "against the best Python peer, blocking handlers in both"),
    Aim(_DRAIN, True, 5, "times", "peers", _against("async", python=False), "against BullMQ"),
    Aim(_SERVER, False, 7, "us", "budget", _whole_life, "enqueue, dequeue and settle"),
    Aim(_SERVER, False, 1.8, "times", "bench", _beside("pipelined"),
        "against native commands, pipelined"),
    Aim(_SERVER, False, 1.8, "times", "bench", _beside("fewest"), _FEWEST),
    _of("worker CPU a job, compiled", "drain", "worker_us"),
    _of(_MANY, "enqueue-many", "per_s"),
    Aim(_MANY, True, 5, "times", "peers", _against("bulk", python=False),
        "against BullMQ's `addBulk`"),
    _of("`enqueue`, 50 tasks of one client", "enqueue-50", "per_s"),
    _of(_HTTP, "post", "per_s"),
    _of(_HTTP, "post", "p99_ms", "p99"),
    _of(_HTTP, "ndjson", "per_s", "jobs by NDJSON"),
    _of("sync handlers in threads", "drain-sync", "per_s"),
    _of(_IDLE, "idle", "p50_ms", "p50"),
    _of(_IDLE, "idle", "p99_ms", "p99"),
    Aim("the same at half load", False, SCENARIOS["loaded"].targets["p99_ms"], "ms", "bench",
        _at_half_load, "p99"),
    Aim("5,000,000 waiting against 50,000", True, 0.95, "share", "curves", _backlog,
        "of the drain's rate"),
    _of("memory in Redis of a waiting job", "memory", "beside_bytes", "beside its record"),
    Aim(_DUE, True, 200_000, "per_s", "bench", _promotion("promoted_per_s")),
    Aim(_DUE, False, 5, "ms", "bench", _promotion("slowest_ms"), "the slowest script"),
)  # fmt: skip


def table(machine: str) -> str:
    """Return each aim with what was measured last on such machines, and whether that reaches it."""
    lines = ["| | what | to reach | measured | | run |", "|---:|---|---:|---:|---|---|"]
    reached: dict[str, bool] = {}
    unknown = 0
    for aim in AIMS:
        digits, unit = _UNITS[aim.unit]
        wanted = f"{'≥' if aim.least else '≤'} {aim.wanted:,g}{unit}"
        number = "" if aim.title in reached else str(len(reached) + 1)
        what = f"{aim.title}: {aim.detail}" if number and aim.detail else aim.title
        what = what if number else f"… {aim.detail}"
        run, found, remark = _last(aim, machine)
        reaches = run is not None and (found >= aim.wanted if aim.least else found <= aim.wanted)
        reached[aim.title] = reached.get(aim.title, True) and reaches
        if run is None:
            unknown += 1
            lines.append(f"| {number} | {what} | {wanted} |  | not measured |  |")
            continue
        text = f"{found:,.{digits}f}{unit}" + (f" ({remark})" if remark else "")
        verdict = "reached" if reaches else "**missed**"
        date = run["date"].replace("T", " ").removesuffix("Z")[:16]
        lines.append(
            f"| {number} | {what} | {wanted} | {text} | {verdict} | {aim.command}, {date} |"
        )
    lines.append(
        f"\n{sum(reached.values())} of {len(reached)} are reached in every line, "
        f"{unknown} {'line is' if unknown == 1 else 'lines are'} not measured."
    )
    return "\n".join(lines)


def _last(aim: Aim, machine: str) -> tuple[Run | None, float, str]:
    for run in newest_first(aim.command, machine):
        found = aim.measured(run) if _is_usual(run, aim.command) else None
        if found is not None:
            return run, *found
    return None, 0.0, ""


def _is_usual(run: Run, command: str) -> bool:
    """Tell whether a run left the knobs alone; an earlier one may not have had each of them."""
    knobs = run["parameters"]
    return all(
        knobs.get(knob, value) == value
        for knob, value in USUAL[command].items()
        if knob != "load_per_s"  # had another default once; the aim under load asks its samples
    )
