"""The budget of a job: a table and a picture of stacked bars, from the samples of a run."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.conditions import said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.scenarios import Sample

Samples = dict[str, list["Sample"]]
"""By part: `scripts`, `native`, and of each core `life-…` and `pieces-…`."""
Rows = dict[str, dict[str, float]]
"""By row of the sheet, us a job by step."""

STEPS: Final = ("enqueue", "dequeue", "run", "settle")
COLORS: Final = ("#4f7cac", "#e5b92b", "#5b8c5a", "#c0504d")


def rows(samples: Samples) -> list[Rows]:
    """Return, by repeat, who spends how much on which step.

    The server does not tell dequeue from settle while a worker drains, so what it spends then
    is divided as the bare client's calls are. A worker's `run` is what is left of its CPU when
    taking and settling, measured alone, are subtracted.
    """
    repeats = max(map(len, samples.values()), default=0)
    return [
        _rows({part: taken[at] for part, taken in samples.items() if at < len(taken)})
        for at in range(repeats)
    ]


def _rows(samples: dict[str, Sample]) -> Rows:
    found: Rows = {}
    for part, title in (("native", "native commands"), ("scripts", "scripts")):
        if of_part := samples.get(part):
            for who in ("server", "client"):
                found[f"{who}: {title}, bare client"] = {
                    step: of_part[f"{step}_{who}_us"] for step in STEPS if step != "run"
                }
    bare = samples.get("scripts")
    for core in ("compiled", "pure"):
        life, alone = samples.get(f"life-{core}"), samples.get(f"pieces-{core}")
        if not life or not alone or not bare:
            continue
        share = bare["dequeue_server_us"] / (bare["dequeue_server_us"] + bare["settle_server_us"])
        found[f"server: bananas, {core}"] = {
            "enqueue": life["enqueue_server_us"],
            "dequeue": life["server_us"] * share,
            "settle": life["server_us"] * (1 - share),
        }
        found[f"client and worker: bananas, {core}"] = {
            "enqueue": life["client_us"],
            "dequeue": alone["dequeue_us"],
            "run": max(0.0, life["worker_us"] - alone["dequeue_us"] - alone["settle_us"]),
            "settle": alone["settle_us"],
        }
    return dict(sorted(found.items(), key=lambda row: not row[0].startswith("server")))


def _medians(samples: list[Sample]) -> Sample:
    if not samples:
        return {}
    return {figure: median(sample[figure] for sample in samples) for figure in samples[0]}


def said_budget(run: Mapping[str, Any]) -> str:
    """Return all that a run says."""
    samples = run["samples"]
    return "\n\n".join((table(rows(samples)), said_limits(samples), said(run)))


def table(found: Sequence[Rows]) -> str:
    """Return the sheet as a markdown table: medians, with minimum and maximum."""
    lines = [
        "| CPU, µs a job | " + " | ".join(STEPS) + " | whole life |",
        "|---" + "|---:" * (len(STEPS) + 1) + "|",
    ]
    for title in found[0] if found else ():
        taken = [of_repeat[title] for of_repeat in found if title in of_repeat]
        cells = [_cell([by_step[step] for by_step in taken if step in by_step]) for step in STEPS]
        cells.append(_cell([sum(by_step.values()) for by_step in taken]))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    return f"**{median(values):.2f}** ({min(values):.2f}–{max(values):.2f})"  # noqa: RUF001 - a range


def said_limits(samples: Samples) -> str:
    """Return how far the engine is from what the server could do, in words."""
    scripts, native = _medians(samples.get("scripts", [])), _medians(samples.get("native", []))
    life = _medians(samples.get("life-compiled", [])) or _medians(samples.get("life-pure", []))
    if not scripts or not native or not life:
        return ""
    inside = sum(scripts[f"{step}_inside_us"] for step in ("enqueue", "dequeue", "settle"))
    running = life["enqueue_server_us"] + life["server_us"]
    # The server times its commands by the wall: on a busy machine that says nothing.
    within = f", {inside:.2f} µs of it inside the scripts" if inside < scripts["server_us"] else ""
    return (
        f"One core of the server could carry {_rate(native['server_us'])} whole lives a second by "
        f"native commands, {_rate(scripts['server_us'])} by the scripts "
        f"({scripts['server_us'] / native['server_us']:.1f} times the CPU{within}), and "
        f"{_rate(running)} as it runs."
    )


def _rate(cost_us: float) -> str:
    return f"{round(1e6 / cost_us, -3):,.0f}"


def plot(samples: Samples, path: Path) -> None:
    """Draw each row as a bar of medians, stacked by step."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and not needed for figures
    from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib takes half a second

    mpl.rcParams["svg.hashsalt"] = "bananas"  # equal figures make equal files
    repeats = rows(samples)
    found = {
        title: {
            step: median(of_repeat[title][step] for of_repeat in repeats)
            for step in repeats[0][title]
        }
        for title in repeats[0]
    }
    chart = Figure(figsize=(11, 0.5 * len(found) + 1.4), layout="constrained")
    panel: Any = chart.subplots()
    titles = list(found)[::-1]
    widest = max(sum(by_step.values()) for by_step in found.values())
    for at, title in enumerate(titles):
        left = 0.0
        for step, color in zip(STEPS, COLORS, strict=True):
            cost = found[title].get(step, 0.0)
            panel.barh(at, cost, left=left, color=color, label=step, height=0.7)
            if cost > widest * 0.035:
                panel.text(left + cost / 2, at, f"{cost:.1f}", ha="center", va="center", color="w")
            left += cost
        panel.text(left + widest * 0.008, at, f"{left:.1f}", va="center", fontweight="bold")
    panel.set_xlim(0, widest * 1.07)
    panel.set_yticks(range(len(titles)), titles)
    panel.set_xlabel("CPU, µs a job")
    panel.set_title("A job's CPU by step")
    handles, labels = panel.get_legend_handles_labels()
    panel.legend(handles[: len(STEPS)], labels[: len(STEPS)], loc="upper right")
    chart.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
