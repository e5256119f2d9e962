"""One run's figures as a table, as a plot, and as a line of history."""

from __future__ import annotations

import json
import re
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.scenarios import Sample

Samples = dict[str, list["Sample"]]

_CPU: Final = ("worker_us", "client_us", "api_us", "server_us", "other_us")
_HEAD: Final = (
    "what", "jobs/s", "worker", "client", "API", "server", "p50 ms", "p99 ms", "to reach",
)  # fmt: skip
_SHOWN: Final = ("per_s", "worker_us", "client_us", "api_us", "server_us", "p50_ms", "p99_ms")


def spread(samples: Sequence[Sample], figure: str) -> tuple[float, float, float] | None:
    """Return (min, median, max) of a figure, None when these samples have none."""
    values = [sample[figure] for sample in samples if figure in sample]
    return (min(values), median(values), max(values)) if values else None


def table(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return a markdown table: medians, with minimum and maximum."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" + "|---:" * (len(_HEAD) - 1) + "|"]
    for name, of_scenario in samples.items():
        scenario = SCENARIOS[name]
        cells = [scenario.title]
        cells += [_cell(spread(of_scenario, figure), figure) for figure in _SHOWN]
        cells.append(_target(scenario.target, of_scenario))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figures: tuple[float, float, float] | None, figure: str) -> str:
    if figures is None:
        return ""
    low, middle, high = (_number(value, figure) for value in figures)
    return f"**{middle}** ({low}–{high})"  # noqa: RUF001 - a range


def _number(value: float, figure: str) -> str:
    if figure == "per_s":
        return f"{round(value, -2 if value >= 1_000 else 0):,.0f}"
    return f"{value:.2f}" if figure.endswith("_ms") else f"{value:.1f}"


def _target(target: tuple[str, float] | None, samples: Sequence[Sample]) -> str:
    if target is None:
        return ""
    figure, wanted = target
    figures = spread(samples, figure)
    if figures is None:
        return ""
    if figure == "per_s":
        return f"{wanted:,.0f} ({figures[1] / wanted:.0%})"
    return (
        f"{figure.removesuffix('_ms')} ≤ {wanted:g} ms ({'yes' if figures[1] <= wanted else 'no'})"
    )


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


def append_history(folder: Path, kind: str, run: Mapping[str, Any]) -> Path:
    """Add a run as one line to the history of its kind of machine; returns the file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{kind}.jsonl"
    with path.open("a") as history:
        history.write(json.dumps(run, separators=(",", ":"), ensure_ascii=False) + "\n")
    return path


def put_in(text: str, figures: str, name: str = "figures") -> str:
    """Return a document with what stands between its two marks of that name renewed.

    Raises:
        ValueError: It has no such marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the document has no place for {name}")
    return pattern.sub(lambda _: f"{begin}\n{figures}\n{end}", text)


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
        target = SCENARIOS[name].target
        if target is not None:
            rates.plot([target[1]] * 2, [at - 0.4, at + 0.4], color="#b3261e", linewidth=2)
        left = 0.0
        for figure, color in zip(
            _CPU, ("#5b8c5a", "#4f7cac", "#8e6c8a", "#c0504d", "#999"), strict=True
        ):
            cost = spread(samples[name], figure)
            if cost is not None:
                costs.barh(at, cost[1], left=left, color=color, label=figure.removesuffix("_us"))
                left += cost[1]
    rates.set_yticks(range(len(names)), titles)
    rates.set_xlabel("jobs/s (line: min to max; red: to reach)")
    costs.set_xlabel("CPU a job, µs")
    legend = dict(zip(*costs.get_legend_handles_labels()[::-1], strict=True))
    costs.legend(legend.values(), legend.keys(), fontsize="small")
    chart.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
