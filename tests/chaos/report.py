"""What a run prints and draws at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from chaos.ledger import Entry
    from chaos.recovery import Recovery
    from chaos.run import Summary

MOST_SHOWN = 40


def lines(summary: Summary) -> list[str]:
    """Return the summary as text."""
    out = [
        "",
        f"seed {summary.seed}, {summary.seconds:.0f} s, {summary.server}",
        f"{summary.jobs} jobs, {summary.starts} starts, {len(summary.plan)} faults; ended: "
        + ", ".join(f"{n} {name}" for name, n in sorted(summary.ends.items())),
        "",
        "must be 0: "
        + ", ".join(f"{name} {count}" for name, count in summary.must_be_zero.items()),
        f"lost within 2 s before a kill of the server, by everysec: {summary.lost_in_window}",
        f"foreign submissions that their producer cannot know of: {summary.undecided}",
        "second starts by cause: "
        + (", ".join(f"{name} {n}" for name, n in sorted(summary.duplicates.items())) or "none"),
        "processes: " + ", ".join(f"{name} {n}" for name, n in summary.processes.items()),
        "scripts that took more than 5 ms: {count:.0f}, the longest {longest_ms:.1f} ms".format(
            **summary.slow_scripts
        ),
        "",
        "must have happened:",
    ]
    out += [
        f"  {count:>7}  {name}" + ("   MISSING" if name in summary.missing else "")
        for name, count in summary.sometimes.items()
    ]
    out += [
        "",
        "recovery, s (p50 / p99 / max):",
        f"  {'fault':<22}{'n':>4}{'cut short':>10}{'held':>6}",
    ]
    out[-1] += f"  {'service goes on':<24}{'first job again':<24}{'last job again':<24}"
    for kind, line in summary.recovery.items():
        row = f"  {kind:<22}{line['faults']:>4}{line['overtaken']:>10}{line['held']:>6}"
        for name in ("service", "first", "last"):
            values = line[name]
            text = " / ".join(f"{value:.3f}" for value in values) if values else "-"
            row += f"  {text:<22}"
        out.append(row)
    if summary.growth:
        out += ["", "growth (median of the first third, of the last):"]
        out += [f"  {name}: {ends}" for name, ends in summary.growth.items()]
    for finding in summary.findings[:MOST_SHOWN]:
        out.append(f"FOUND  {finding['what']}: {finding['about']}: {finding['why']}")
    if len(summary.findings) > MOST_SHOWN:
        out.append(f"... and {len(summary.findings) - MOST_SHOWN} more")
    out += ["", "in order" if summary.ok else "NOT in order"]
    return out


def draw(
    path: Path, entries: list[Entry], recoveries: Iterable[Recovery], summary: Summary
) -> None:
    """Draw the last round: what went on when, under which fault, and how long recovery took."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, for the end alone

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    began = min((e["at"] for e in entries), default=0.0)
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(15, 11), height_ratios=(3, 2), constrained_layout=True
    )
    _draw_timeline(top, entries, began)
    top.set_title(
        f"bananas under chaos: seed {summary.seed}, {summary.jobs} jobs, "
        f"{summary.starts} starts, {len(summary.findings)} findings"
    )
    _draw_recovery(bottom, recoveries)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_timeline(axes: Any, entries: list[Entry], began: float) -> None:  # noqa: ANN401 - matplotlib has no types
    last = max((e["at"] for e in entries), default=began)
    seconds = int(last - began) + 1
    for what, label, color in (
        ("accepted", "accepted", "tab:blue"),
        ("start", "started", "tab:orange"),
        ("finish", "seen ended", "tab:green"),
    ):
        counts = [0] * (seconds + 1)
        for entry in entries:
            if entry["what"] == what:
                counts[int(entry["at"] - began)] += 1
        axes.step(range(seconds + 1), counts, where="post", label=label, color=color, lw=1)
    faults = [e for e in entries if e["what"] == "over"]
    _, high = axes.get_ylim()
    for number, fault in enumerate(faults):
        begin, end = fault["began"] - began, fault["at"] - began
        own = fault["kind"].startswith(("worker", "warden", "fleet", "host", "supervisor"))
        color = "tab:red" if own else "tab:purple"
        axes.axvspan(begin, max(end, begin + 0.3), color=color, alpha=0.13, lw=0)
        axes.text(
            begin, high * (1.02 + 0.045 * (number % 6)), fault["kind"], fontsize=7, color=color
        )
    axes.set_ylim(0, high * 1.32)
    axes.set_xlim(0, seconds)
    axes.set_xlabel("seconds")
    axes.set_ylabel("jobs a second")
    axes.legend(loc="upper right", fontsize=8)


def _draw_recovery(axes: Any, recoveries: Iterable[Recovery]) -> None:  # noqa: ANN401 - as above
    ones = list(recoveries)
    kinds = sorted({one.kind for one in ones}, reverse=True)
    least = 0.001
    for name, label, marker, color in (
        ("service", "service: from the end of the fault to the next start", "o", "tab:blue"),
        ("first", "first job of the victims again, from the fault on", "<", "tab:orange"),
        ("last", "last job of the victims again, from the fault on", ">", "tab:red"),
    ):
        points = [
            (max(least, value), kinds.index(one.kind))
            for one in ones
            if (value := getattr(one, name)) is not None
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, label=label, marker=marker, color=color, alpha=0.6, s=28)
    axes.set_xscale("log")
    axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    axes.set_xlabel("seconds (log)")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
