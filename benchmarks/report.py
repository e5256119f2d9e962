"""One run's figures as a table and as a plot."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.scenarios import LOAD_REACHED, SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.scenarios import Sample

Samples = dict[str, list["Sample"]]

_CPU: Final = ("worker_us", "client_us", "api_us", "server_us")
_COLORS: Final = ("#5b8c5a", "#4f7cac", "#8e6c8a", "#c0504d")
_HEAD: Final = (
    "what", "jobs/s", "worker", "client", "API", "server", "p50 ms", "p99 ms", "to reach",
)  # fmt: skip
_SHOWN: Final = ("per_s", "worker_us", "client_us", "api_us", "server_us", "p50_ms", "p99_ms")


def spread(samples: Sequence[Sample], figure: str) -> tuple[float, float, float] | None:
    """Return (min, median, max) of a figure, None when these samples have none."""
    values = [sample[figure] for sample in samples if figure in sample]
    return (min(values), median(values), max(values)) if values else None


def said(run: Mapping[str, Any]) -> str:
    """Return all that a run says of its samples."""
    parts = (table(run["samples"]), notes(run["samples"]), said_conditions(run))
    return "\n\n".join(filter(None, parts))


def table(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return a markdown table: medians, with minimum and maximum."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" + "|---:" * (len(_HEAD) - 1) + "|"]
    for name, of_scenario in samples.items():
        if not any(figure in sample for sample in of_scenario for figure in _SHOWN):
            continue
        cells = [SCENARIOS[name].title + _load(of_scenario)]
        cells += [_cell(spread(of_scenario, figure), figure) for figure in _SHOWN]
        judged = name != "loaded" or at_half_load(of_scenario)
        cells.append(_targets(SCENARIOS[name].targets, of_scenario) if judged else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _cell(figures: tuple[float, float, float] | None, figure: str) -> str:
    if figures is None:
        return ""
    low, middle, high = (_number(value, figure) for value in figures)
    return f"**{middle}** ({low}–{high})"  # noqa: RUF001 - a range


def _number(value: float, figure: str) -> str:
    if figure == "per_s":
        return f"{round(value, -2 if value >= 1_000 else 0):,.0f}"
    return f"{value:.2f}" if figure.endswith("_ms") else f"{value:.1f}"


def _load(samples: Sequence[Sample]) -> str:
    """Say how much else was to be done while a latency was measured, where that is known."""
    asked, reached = spread(samples, "asked_per_s"), spread(samples, "load_per_s")
    if asked is None or reached is None:
        return ""
    half = "half of a drain, " if spread(samples, "drained_per_s") else ""
    return (
        f": {half}{_number(reached[1], 'per_s')} jobs/s of {_number(asked[1], 'per_s')} asked for"
    )


def at_half_load(samples: Sequence[Sample]) -> bool:
    """Tell whether half of what was drained came beside the probes: no other load has an aim."""
    asked, reached = spread(samples, "asked_per_s"), spread(samples, "load_per_s")
    if asked is None or reached is None or spread(samples, "drained_per_s") is None:
        return False
    return reached[1] >= LOAD_REACHED * asked[1]


def _targets(targets: Mapping[str, float], samples: Sequence[Sample]) -> str:
    return ", ".join(
        _target(figure, wanted, found[1])
        for figure, wanted in targets.items()
        if (found := spread(samples, figure)) is not None
    )


def _target(figure: str, wanted: float, found: float) -> str:
    if figure == "per_s":
        return f"{wanted:,.0f} ({found / wanted:.0%})"
    name, unit = figure.split("_")
    unit = unit.replace("us", "µs")
    return f"{name} ≤ {wanted:g} {unit} ({'yes' if found <= wanted else 'no'})"


def notes(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return in sentences what has no column: an idle fleet, a waiting job, the small processes."""
    said: list[str] = []
    if fleet := samples.get("fleet"):
        costs = ", ".join(
            f"{role} {_cell(spread(fleet, f'{role}_cpu_ms'), 'ms')}"
            for role in ("worker", "warden", "supervisor", "server")
        )
        said.append(
            f"An idle fleet asks the server {_cell(spread(fleet, 'sent_per_s'), 'each')} times a "
            "second by worker process and warden, the one that is scheduler included (under 5 is "
            f"to be reached), which is {_cell(spread(fleet, 'commands_per_s'), 'each')} commands a "
            "second of all of them, those inside of scripts counted; CPU of a process, ms a "
            f"second: {costs}."
        )
    if memory := samples.get("memory"):
        record = memory[0]["bytes"] - memory[0]["beside_bytes"]
        said.append(
            f"A waiting job takes {_cell(spread(memory, 'bytes'), 'each')} bytes in Redis, "
            f"{_cell(spread(memory, 'beside_bytes'), 'each')} beside its record of {record:.0f} "
            "(200 at most are to be reached); "
            f"{_cell(spread(memory, 'at_once_bytes'), 'each')} right after all "
            "were enqueued, when the server may still be enlarging its table of keys."
        )
    others = spread([sample for taken in samples.values() for sample in taken], "other_us")
    if others:
        said.append(
            f"Supervisor and warden together took {others[0]:.1f} to {others[2]:.1f} µs a job in "
            "the drains; the kernel counts in 10 ms."
        )
    return "\n".join(said)


def said_conditions(run: Mapping[str, Any]) -> str:
    """Return the conditions of a run in a few lines for people."""
    known, knobs = run["conditions"], run["parameters"]
    dirty = " and changes" if run["dirty"] else ""
    packages = ", ".join(f"{name} {number}" for name, number in known["packages"].items())
    return (
        f"{run['date']}, commit {run['commit'] or 'unknown'}{dirty}. "
        f"{known['cpu']}, {known['cores']} cores, {known['system']}; load at start "
        f"{known['load_at_start'][0]}, at the end {run['load_at_end'][0]}; before each sample "
        f"{_free(run['samples'])} of the cores were free. "
        f"Python {known['python']}, {known['core']} core, {packages}; "
        f"{', '.join(known['servers'])}, unix socket.\n"
        f"{knobs['jobs']:,} jobs of {knobs['payload_bytes']} bytes, {knobs['procs']} worker "
        f"processes of concurrency {knobs['concurrency']}, {run['repeats']} repeats, interleaved: "
        "median (min to max). CPU in µs a job."
    )


def _free(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return how free the machine was, median and spread over all samples."""
    shares = spread([sample for taken in samples.values() for sample in taken], "free")
    if shares is None:
        return "an unknown share"
    return f"{shares[1]:.0%} ({shares[0]:.0%} to {shares[2]:.0%})"


def plot(samples: Mapping[str, Sequence[Sample]], path: Path) -> None:
    """Draw rates with their spread and targets, and CPU a job by process."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and not needed for figures
    from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib takes half a second

    mpl.rcParams["svg.hashsalt"] = "bananas"  # equal figures make equal files
    names = [name for name in samples if spread(samples[name], "per_s")][::-1]
    if not names:
        return
    titles = [SCENARIOS[name].title.replace("`", "") for name in names]
    chart = Figure(figsize=(11, 0.42 * len(names) + 1.6), layout="constrained")
    rates, costs = chart.subplots(1, 2, sharey=True)
    for at, name in enumerate(names):
        low, middle, high = spread(samples[name], "per_s") or (0.0, 0.0, 0.0)
        rates.barh(at, middle, color="#e5b92b")
        rates.plot([low, high], [at, at], color="#333", linewidth=1.5)
        if wanted := SCENARIOS[name].targets.get("per_s"):
            rates.plot([wanted] * 2, [at - 0.4, at + 0.4], color="#b3261e", linewidth=2)
        left = 0.0
        for figure, color in zip(_CPU, _COLORS, strict=True):
            cost = spread(samples[name], figure)
            if cost is not None and cost[1]:
                costs.barh(at, cost[1], left=left, color=color)
                left += cost[1]
    rates.set_yticks(range(len(names)), titles)
    rates.set_ylim(-0.7, len(names) - 0.3)
    rates.xaxis.set_major_formatter(lambda value, _at: f"{value / 1_000:,.0f}")
    rates.set_xlabel("thousand jobs a second (line: min to max; red: to reach)")
    rates.set_title("Rate")
    costs.set_xlabel("CPU, µs a job")
    costs.set_title("CPU")
    named = dict(zip(_HEAD[2:6], _COLORS, strict=True))
    bars = [costs.barh(0, 0, color=color) for color in named.values()]
    costs.legend(bars, named.keys(), fontsize="small")
    chart.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
