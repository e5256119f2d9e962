"""The figures of a run of peers: a table where the best of each line stands out, and a plot."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers.measures import MEASURES
from benchmarks.peers.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.peers.measures import Measure
    from benchmarks.peers.peers import Peer
    from benchmarks.peers.stage import Figures

Samples = dict[str, dict[str, list["Figures"]]]
"""By measure, by peer."""

_COSTS: Final = (("worker_us", "worker"), ("client_us", "client"), ("server_us", "server"))
_NO_OP: Final = ("async", "sync")
_COLUMNS: Final = (
    (("enqueue",), "per_s", "enqueue/s"),
    (("bulk",), "per_s", "in bulk/s"),
    (("async",), "per_s", "drain async/s"),
    (("sync",), "per_s", "drain blocking/s"),
    (("sleep",), "per_s", "drain 1 ms/s"),
    (_NO_OP, "worker_us", "worker µs a no-op"),
    (_NO_OP, "server_us", "server µs a no-op"),
    (("latency",), "p50_ms", "idle p50 ms"),
    (("latency",), "p99_ms", "idle p99 ms"),
    (("memory",), "bytes", "bytes a waiting job"),
)
"""At a glance: the measures (of the first that a peer has), the figure, the head."""
_OURS: Final = "bananas"


def table(samples: Samples, measures: Sequence[Measure], peers: Sequence[Peer]) -> str:
    """Return all at a glance, then a table a measure with its spread and its costs."""
    return "\n".join([*_glance(samples, peers), *_details(samples, measures, peers)])


def _glance(samples: Samples, peers: Sequence[Peer]) -> list[str]:
    """A row a peer, a column a figure; the best of each column stands out."""
    heads: list[str] = []
    cells: dict[str, list[str]] = {peer.name: [] for peer in peers}
    against: list[str] = []
    for measures, figure, head in _COLUMNS:
        column: dict[str, float] = {}
        for measure in reversed(measures):
            rows = samples.get(measure, {})
            column |= {name: middle(taken, figure) for name, taken in rows.items()}
        if not column:
            continue
        heads.append(head)
        best = _best(column, figure)
        for name, row in cells.items():
            text = _number(column[name], figure) if name in column else ""
            row.append(f"**{text}** ◀" if name == best else text)
        against.append(_against(column, figure))
    return [
        "| peer | " + " | ".join(heads) + " |",
        "|---" + "|---:" * len(heads) + "|",
        *(f"| {name} | " + " | ".join(row) + " |" for name, row in cells.items()),
        "| *bananas to the best peer* | " + " | ".join(against) + " |",
    ]


def _best(column: dict[str, float], figure: str) -> str:
    return (max if figure == "per_s" else min)(column, key=lambda name: column[name])


def _against(column: dict[str, float], figure: str) -> str:
    """Say how bananas stands to the best of the others, and who wins where it does not."""
    others = {name: value for name, value in column.items() if not name.startswith(_OURS)}
    if _OURS not in column or not others:
        return ""
    rival = _best(others, figure)
    times = column[_OURS] / others[rival]
    times = times if figure == "per_s" else 1 / times
    return f"{times:.2g} × {rival}" if times >= 1 else f"{rival} wins: {1 / times:.2g} ×"  # noqa: RUF001 - times


def _details(samples: Samples, measures: Sequence[Measure], peers: Sequence[Peer]) -> list[str]:
    """A table a measure, best first, with what stands behind it."""
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
        ways = "processes" in ranked[0][1][0]
        heads = ["peer", measure.title.rsplit(", ", 1)[-1], *(head for _, head in costs)]
        heads += (["processes"] if ways else []) + ["bananas is better by"]
        parts += [
            f"\n**{measure.title}**\n",
            "| " + " | ".join(heads) + " |",
            "|---" + "|---:" * (len(heads) - 1) + "|",
        ]
        ours = found.get(_OURS)
        for peer, rows in ranked:
            cells = [peer.name, _cell(rows, measure.figure)]
            cells += [_cell(rows, figure) for figure, _ in costs]
            if ways:
                cells.append("/".join(sorted({f"{row['processes']:.0f}" for row in rows})))
            cells.append("" if peer.name == _OURS else _multiple(measure, ours, rows))
            parts.append("| " + " | ".join(cells) + " |")
    return parts


def chosen(run: Mapping[str, Any]) -> tuple[list[Measure], list[Peer]]:
    """Return what was measured in a run, and of whom."""
    return (
        [measure for name, measure in MEASURES.items() if name in run["samples"]],
        [peer for peer in PEERS if peer.name in run["versions"]],
    )


def said(run: Mapping[str, Any]) -> str:
    """Return all that a run says."""
    measures, peers = chosen(run)
    settings = _settings(peers, run["versions"])
    return f"{table(run['samples'], measures, peers)}\n\n{_conditions(run)}\n\n{settings}"


def _conditions(run: Mapping[str, Any]) -> str:
    known, knobs = run["conditions"], run["parameters"]
    free = sorted(run["free_shares"])
    return (
        f"{run['date']}, commit {run['commit'] or 'unknown'}. {known['cpu']}, {known['cores']} "
        f"cores, {known['system']}; before each sample {free[len(free) // 2]:.0%} "
        f"({free[0]:.0%} to {free[-1]:.0%}) of the cores were free. Python {known['python']}; "
        f"{known['servers'][0]}, TCP loopback, no persistence.\n"
        f"{knobs['jobs']:,} jobs of 200 bytes times the scale of a peer, {knobs['probes']} probes, "
        f"{knobs['repeats']} repeats, interleaved: median (min to max). CPU in µs a job. "
        f"{run['seconds']:,.0f} s in all."
    )


def _settings(peers: Sequence[Peer], versions: Mapping[str, str]) -> str:
    """Return how each peer was set up, as a markdown table."""
    rows = [
        f"| {peer.name} | {versions[peer.name]} | {peer.settings} | {peer.scale:g} |"
        for peer in peers
    ]
    return "\n".join(["| peer | version | set up | jobs × |", "|---|---|---|---:|", *rows])  # noqa: RUF001 - times


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
    """Draw a panel a measure, logarithmic: a dot a peer, with the spread of the repeats."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and not needed for figures
    from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib takes half a second

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
            color = {_OURS: "#e5b92b", f"{_OURS} pure": "#f3dd96"}.get(name, "#9db4c0")
            # No bars: on a logarithmic axis their length would say nothing.
            panel.plot([min(values), max(values)], [row, row], color="#333", linewidth=1.2)
            panel.plot(median(values), row, "o", color=color, markeredgecolor="#333", markersize=7)
            text = "   " + _number(median(values), measure.figure)
            panel.text(max(values), row, text, va="center", fontsize="x-small")
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(-0.7, len(names) - 0.3)
        panel.set_xscale("log")
        all_values = [figures[measure.figure] for taken in found.values() for figures in taken]
        least, most = min(all_values) / 1.4, max(all_values) * 3  # room for the last figure
        panel.set_xlim(least, most)
        steps = (1, 2, 5) if most < 30 * least else (1, 3)
        ticks = [step * 10.0**power for power in range(-3, 8) for step in steps]
        ticks = [tick for tick in ticks if least <= tick <= most * 0.8]
        panel.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
        panel.minorticks_off()
        panel.grid(axis="both", alpha=0.25)
        panel.set_title(measure.title + f" ({measure.better} is better)", fontsize="small")
    for spare in range(len(shown), down * across):
        panels[spare // across][spare % across].set_axis_off()
    chart.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
