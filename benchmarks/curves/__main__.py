"""`python -m benchmarks.curves`: how figures grow with size; a table, a picture, a history."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any, Final

import click

from bananas import speedups
from benchmarks.bed import BedError
from benchmarks.conditions import commit, conditions, free_share, load, machine_kind, said
from benchmarks.curves.curve import CURVES
from benchmarks.curves.picture import plot, tables
from benchmarks.publish import publish_aims, publish_curves
from benchmarks.runs import append
from benchmarks.setup import Setup
from servers import KINDS, available

if TYPE_CHECKING:
    from benchmarks.curves.curve import Curve

QUICK_JOBS: Final = 2_000


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="NAMES", help=f"Some of: {', '.join(CURVES)}.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--jobs", type=click.IntRange(5_000), default=60_000, show_default=True)
@click.option("--limit-s", type=float, default=720.0, show_default=True, help="When to stop.")
@click.option("--quick", is_flag=True, help="Few sizes, small and once; not kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON.")
@click.option("--no-history", is_flag=True, help="Do not keep the figures.")
@click.option("--docs", is_flag=True, help="Put tables and picture into docs/performance.md.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Where to draw.")
def main(  # noqa: PLR0913 - one a flag
    *,
    only: str | None,
    repeats: int,
    jobs: int,
    limit_s: float,
    quick: bool,
    as_json: bool,
    no_history: bool,
    docs: bool,
    picture: Path | None,
) -> None:
    """Measure how rates and CPU a job grow with batch, backlog, payload, processes, concurrency.

    Repeats of a curve are interleaved. What is not measured when the time is up is left out.
    """
    if docs and (quick or only):
        raise click.UsageError("--docs wants a whole run")
    setup = Setup(
        jobs=QUICK_JOBS if quick else jobs,
        core="compiled" if speedups.COMPILED else "pure",
        server=available(KINDS)[0],
    )
    head, dirty = commit()
    run: dict[str, Any] = {
        "what": "curves",
        "commit": head,
        "dirty": dirty,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "conditions": conditions(),
        "parameters": setup.as_json(),
        "repeats": 1 if quick else repeats,
        "curves": {},
        "free_shares": [],
        "failures": [],
    }
    began_s = time.monotonic()
    for curve in _chosen(only):
        _take(run, curve, setup, began_s + limit_s)
    run["seconds"] = round(time.monotonic() - began_s, 1)
    run["load_at_end"] = load()
    print(json.dumps(run) if as_json else f"\n{tables(run['curves'])}\n\n{said(run)}")
    if picture is not None:
        plot(run["curves"], picture)
    if not quick and not no_history:
        append("curves", run)
    if docs:
        publish_curves(run)
        publish_aims(machine_kind(run["conditions"]))
    if run["failures"]:
        raise click.ClickException(f"{len(run['failures'])} points failed")


def _chosen(only: str | None) -> list[Curve]:
    names = list(CURVES) if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        if name not in CURVES:
            raise click.UsageError(f'--only "{name}": is none of {", ".join(CURVES)}')
    return [CURVES[name] for name in names]


def _take(run: dict[str, Any], curve: Curve, setup: Setup, ends_s: float) -> None:
    """Take all samples of a curve, repeat after repeat."""
    quick = run["repeats"] == 1 and setup.jobs == QUICK_JOBS
    with ExitStack() as beds:
        points = list(curve.points(setup, curve.quick if quick else curve.sizes, beds))
        for repeat in range(run["repeats"]):
            for series, size, measure in points:
                if not speedups.COMPILED and series == "compiled":
                    continue
                left_s = ends_s - time.monotonic()
                head = f"{left_s:4.0f} s left  {repeat + 1}/{run['repeats']} {curve.name} "
                head += f"{series} {size:,}"
                if left_s < 0:
                    _fail(run, f"{head}: left out, the time is up")
                    continue
                free = free_share()
                run["free_shares"].append(free)
                try:
                    sample = measure()
                except (BedError, OSError, AssertionError, TimeoutExpired) as error:
                    _fail(run, f"{head}: failed: {error}")
                    continue
                kept = {figure: round(value, 3) for figure, value in sample.items()}
                found = run["curves"].setdefault(curve.name, {}).setdefault(series, {})
                found.setdefault(str(size), []).append(kept | {"free": free})
                told = ", ".join(f"{figure} {value:,.5g}" for figure, value in kept.items())
                _say(f"{head}: {told}; {free:.0%} free")


def _fail(run: dict[str, Any], text: str) -> None:
    run["failures"].append(text)
    _say(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.curves")
