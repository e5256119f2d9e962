"""`python -m benchmarks.budget`: where the time of a job goes; a table, a picture, a history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bananas import speedups
from benchmarks import ROOT
from benchmarks.budget.pieces import BATCH
from benchmarks.budget.sheet import plot, said_budget
from benchmarks.conditions import commit, conditions, free_share, load, machine_kind
from benchmarks.curves.measures import life, limit
from benchmarks.publish import publish_aims, publish_budget
from benchmarks.runs import append
from benchmarks.setup import Setup
from servers import KINDS, Server, available

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.scenarios import Sample


def alone(setup: Setup) -> Sample:
    """Taking and settling, by a process of its own with the setup's core."""
    server = Server(setup.server)
    env = {name: text for name, text in os.environ.items() if "BANANAS" not in name}
    if setup.core == "pure":
        env["BANANAS_PURE"] = "1"
    try:
        server.start()
        argv = [sys.executable, "-m", "benchmarks.budget.pieces", server.url, str(setup.jobs)]
        done = subprocess.run(
            argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, timeout=120, check=True
        )
    finally:
        server.discard()
    sample: Sample = json.loads(done.stdout)
    return sample


def _parts(setup: Setup) -> dict[str, Callable[[], Sample]]:
    parts: dict[str, Callable[[], Sample]] = {
        "native": lambda: limit(setup, BATCH, native=True),
        "scripts": lambda: limit(setup, BATCH, native=False),
    }
    pure = replace(setup, core="pure")
    if speedups.COMPILED:
        parts |= {"life-compiled": lambda: life(setup), "pieces-compiled": lambda: alone(setup)}
    return parts | {"life-pure": lambda: life(pure), "pieces-pure": lambda: alone(pure)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--jobs", type=click.IntRange(BATCH), default=50_000, show_default=True)
@click.option("--quick", is_flag=True, help="Small and once, to see that all works; not kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON.")
@click.option("--no-history", is_flag=True, help="Do not keep the figures.")
@click.option("--docs", is_flag=True, help="Put table and picture into docs/performance.md.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Where to draw.")
def main(  # noqa: PLR0913 - one a flag
    *,
    repeats: int,
    jobs: int,
    quick: bool,
    as_json: bool,
    no_history: bool,
    docs: bool,
    picture: Path | None,
) -> None:
    """Measure what enqueue, dequeue, run and settle cost server, client and worker.

    Beside it what the same commands cost when a bare client sends them ready-made, and what
    the fewest native commands for the same data cost. All parts in turn, repeat after repeat.
    """
    setup = Setup(jobs=5_000 if quick else jobs // BATCH * BATCH, server=available(KINDS)[0])
    head, dirty = commit()
    run: dict[str, Any] = {
        "what": "budget",
        "commit": head,
        "dirty": dirty,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "conditions": conditions(),
        "parameters": setup.as_json() | {"batch": BATCH},
        "repeats": 1 if quick else repeats,
        "samples": {},
        "free_shares": [],
        "failures": [],
    }
    parts = _parts(setup)
    for repeat in range(run["repeats"]):
        for name, measure in parts.items():
            free = free_share()
            run["free_shares"].append(free)
            sample = {figure: round(value, 3) for figure, value in measure().items()}
            run["samples"].setdefault(name, []).append(sample)
            told = ", ".join(f"{figure} {value:,.4g}" for figure, value in sample.items())
            print(f"{repeat + 1}/{run['repeats']} {name}: {told}; {free:.0%} free", file=sys.stderr)
    run["load_at_end"] = load()
    print(json.dumps(run) if as_json else f"\n{said_budget(run)}")
    if picture is not None:
        plot(run["samples"], picture)
    if not quick and not no_history:
        append("budget", run)
    if docs and not quick:
        publish_budget(run)
        publish_aims(machine_kind(run["conditions"]))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.budget")
