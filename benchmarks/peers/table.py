"""The figures of a run of peers: a table where the best of each line stands out, and a plot."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.peers.measures import Measure
    from benchmarks.peers.peers import Peer
    from benchmarks.peers.stage import Figures

Samples = dict[str, dict[str, list["Figures"]]]
"""By measure, by peer."""

_COSTS: Final = (("worker_us", "worker"), ("client_us", "client"), ("server_us", "server"))


def table(samples: Samples, measures: Sequence[Measure], peers: Sequence[Peer]) -> str:
    """Return a markdown table a measure, best first, with what stands behind bananas' multiple."""
    parts: list[str] = []
    for measure in measures:
        found = samples.get(measure.name, {})
        ranked = sorted(
            ((peer, found[peer.name]) for peer in peers if peer.name in found),
            key=lambda pair: middle(pair[1], measure.figure),
            reverse=measure.better == "more",
        )
        if not ranked:
            continue
        costs = [cost for cost in _COSTS if any(cost[0] in rows[0] for _, rows in ranked)]
        if "p99_ms" in ranked[0][1][0]:
            costs = [("p99_ms", "p99 ms")]
        heads = ["peer", measure.title.rsplit(", ", 1)[-1], *(head for _, head in costs), ""]
        parts += [
            f"\n**{measure.title}**\n",
            "| " + " | ".join(heads) + " |",
            "|---" + "|---:" * (len(heads) - 1) + "|",
        ]
        ours = next((rows for peer, rows in ranked if not peer.version), None)
        for peer, rows in ranked:
            cells = [peer.name, _cell(rows, measure.figure)]
            cells += [_cell(rows, figure) for figure, _ in costs]
            cells.append(_multiple(measure, ours, rows) if peer.version else "")
            parts.append("| " + " | ".join(cells) + " |")
    return "\n".join(parts).strip()


def middle(rows: Sequence[Figures], figure: str) -> float:
    """Return the median of a figure."""
    return median(row[figure] for row in rows)


def _cell(rows: Sequence[Figures], figure: str) -> str:
    values = [row[figure] for row in rows if figure in row]
    if not values:
        return ""
    low, high = _number(min(values), figure), _number(max(values), figure)
    return f"**{_number(median(values), figure)}** ({low}–{high})"  # noqa: RUF001 - a range


def _number(value: float, figure: str) -> str:
    if figure == "per_s":
        return f"{value:,.0f}"
    return f"{value:.2f}" if figure.endswith("_ms") else f"{value:,.1f}"


def _multiple(measure: Measure, ours: list[Figures] | None, theirs: list[Figures]) -> str:
    """Say how much better bananas is, or by how much this peer wins."""
    if ours is None:
        return ""
    mine, other = middle(ours, measure.figure), middle(theirs, measure.figure)
    times = mine / other if measure.better == "more" else other / mine
    return f"{times:.1f} ×" if times >= 1 else f"wins, {1 / times:.1f} ×"  # noqa: RUF001 - times


def plot(samples: Samples, measures: Sequence[Measure], peers: Sequence[Peer], path: Path) -> None:
    """Draw a panel a measure, logarithmic, with the spread of the repeats."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and not needed for figures
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "bananas"  # equal figures make equal files
    shown = [measure for measure in measures if samples.get(measure.name)]
    if not shown:
        return
    across = 2
    down = -(-len(shown) // across)
    chart = Figure(figsize=(11, 2.9 * down), layout="constrained")
    panels = chart.subplots(down, across, squeeze=False)
    for at, measure in enumerate(shown):
        panel = panels[at // across][at % across]
        found = samples[measure.name]
        names = sorted(
            (peer.name for peer in peers if peer.name in found),
            key=lambda name: middle(found[name], measure.figure),
            reverse=measure.better == "less",
        )
        for row, name in enumerate(names):
            values = [figures[measure.figure] for figures in found[name]]
            color = "#e5b92b" if name == "bananas" else "#9db4c0"
            panel.barh(row, median(values), color=color)
            panel.plot([min(values), max(values)], [row, row], color="#333", linewidth=1.2)
        panel.set_yticks(range(len(names)), names)
        panel.set_xscale("log")
        panel.set_title(measure.title + f" ({measure.better} is better)", fontsize="small")
    for spare in range(len(shown), down * across):
        panels[spare // across][spare % across].set_axis_off()
    chart.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
