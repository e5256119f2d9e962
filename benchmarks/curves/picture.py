"""Curves as tables and as a picture."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.curves.curve import CURVES
from benchmarks.report import spread

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.scenarios import Sample

Series = dict[str, dict[str, list["Sample"]]]
"""By series, by size (as text, as JSON has it)."""
Taken = dict[str, Series]
"""By curve."""

_RATES: Final = {"per_s": "jobs/s", "enqueue_per_s": "enqueued/s"}
_COSTS: Final = {
    "client_us": "client",
    "api_us": "API",
    "worker_us": "worker",
    "server_us": "server",
    "enqueue_server_us": "server, enqueue",
    "dequeue_server_us": "server, dequeue",
    "settle_server_us": "server, settle",
}
_COLORS: Final = {
    "client_us": "#4f7cac", "api_us": "#8e6c8a", "worker_us": "#5b8c5a", "server_us": "#c0504d",
    "enqueue_server_us": "#d99a98", "per_s": "#b8860b", "enqueue_per_s": "#4f7cac",
}  # fmt: skip
BACKLOGS: Final = ("50000", "5000000")
"""The sizes of the backlog's curve that are compared."""
_LEAST_SPAN: Final = 10.0
_DASHES: Final = ("-", "--", ":")


def tables(taken: Taken) -> str:
    """Return, for each curve, a heading, the reason of its form and its figures."""
    parts: list[str] = []
    for name, found in taken.items():
        curve = CURVES[name]
        samples = [each for sizes in found.values() for taken in sizes.values() for each in taken]
        figures = [
            figure for figure in (*_RATES, *_COSTS) if any(figure in sample for sample in samples)
        ]
        if not figures:
            continue
        heads = [curve.axis, "", *((_RATES | _COSTS)[figure] for figure in figures)]
        parts += [
            f"### {curve.title}\n",
            f"{curve.why}\n",
            "| " + " | ".join(heads) + " |",
            "|---:|---" + "|---:" * len(figures) + "|",
        ]
        for series, sizes in found.items():
            for size, of_size in sizes.items():
                cells = [_cell(of_size, figure) for figure in figures]
                parts.append(f"| {int(size):,} | {series} | " + " | ".join(cells) + " |")
        parts += ["", *_ratio(name, found)]
    return "\n".join(parts).strip()


def _cell(samples: list[Sample], figure: str) -> str:
    found = spread(samples, figure)
    if found is None:
        return ""
    low, middle, high = (_number(value, figure) for value in found)
    return f"**{middle}** ({low}–{high})"  # noqa: RUF001 - a range


def _number(value: float, figure: str) -> str:
    if figure in _RATES:
        return f"{round(value, -2 if value >= 1_000 else 0):,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _ratio(name: str, found: Series) -> list[str]:
    """Compare the ends of the backlog's curve: the aim is ≥ 0.95 of the rate."""
    sizes = found.get("drain", {})
    if name != "backlog" or not set(BACKLOGS) <= sizes.keys():
        return []
    few, many = (sizes[size] for size in BACKLOGS)
    rate, cost = (
        median(sample[figure] for sample in many) / median(sample[figure] for sample in few)
        for figure in ("per_s", "server_us")
    )
    said = f"{rate:.2f} of the rate (0.95 was the aim), {cost:.2f} of the server's CPU a job."
    return [f"5,000,000 waiting against 50,000: {said}\n"]


def plot(taken: Taken, path: Path) -> None:
    """Draw rates and CPU a job over size, a row a curve."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and not needed for figures
    from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib takes half a second

    mpl.rcParams["svg.hashsalt"] = "bananas"  # equal figures make equal files
    names = [name for name in taken if taken[name]]
    if not names:
        return
    chart = Figure(figsize=(11, 3.1 * len(names)), layout="constrained")
    rows = chart.subplots(len(names), 2, squeeze=False)
    for row, name in zip(rows, names, strict=True):
        for panel, words, what, unit in (
            (row[0], _RATES, "rate", "jobs a second"),
            (row[1], _COSTS, "CPU", "CPU, µs a job"),
        ):
            _panel(panel, name, taken[name], words, unit)
            if panel.lines:
                panel.set_title(f"{CURVES[name].title}: {what}", fontsize="medium", loc="left")
    chart.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(panel: Any, name: str, found: Series, words: dict[str, str], unit: str) -> None:  # noqa: ANN401 - matplotlib has no types
    """Draw one panel: a line a figure and series, with the spread of its samples."""
    for dash, (series, sizes) in zip(_DASHES, found.items(), strict=False):
        for figure, word in words.items():
            points = [
                (int(size), *spread_)
                for size, samples in sizes.items()
                if figure in _COLORS and (spread_ := spread(samples, figure)) is not None
            ]
            if not points:
                continue
            at, low, middle, high = zip(*points, strict=True)
            label = f"{word}, {series}".replace("`", "")
            color = _COLORS[figure]
            panel.plot(at, middle, dash, marker="o", markersize=4, color=color, label=label)
            panel.fill_between(at, low, high, color=color, alpha=0.18, linewidth=0)
    if not panel.lines:  # as a curve of costs alone has no rates
        panel.set_axis_off()
        return
    panel.set_xscale("log")
    panel.set_yscale("log")
    at_all = sorted({int(size) for by_size in found.values() for size in by_size})
    panel.set_xticks(at_all, [_short(size) for size in at_all])
    panel.set_xlabel(CURVES[name].axis, fontsize="small")
    panel.set_ylabel(unit, fontsize="small")
    low, high = panel.get_ylim()
    if (narrow := _LEAST_SPAN * low / high) > 1:  # what hardly moves is to look so
        low, high = low / narrow**0.5, high * narrow**0.5
        panel.set_ylim(low, high)
    ticks = [step * 10.0**power for power in range(-2, 8) for step in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    panel.set_yticks(shown, [f"{tick:,.10g}" for tick in shown])
    panel.minorticks_off()
    panel.grid(alpha=0.25)
    panel.legend(fontsize="x-small", handlelength=4)  # shorter, all lines look whole


def _short(size: int) -> str:
    for unit, text in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{text}"
    return f"{size // 1024} Ki" if size >= 1024 and size % 1024 == 0 else str(size)
