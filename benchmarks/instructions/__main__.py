"""`python -m benchmarks.instructions`: count, and compare with what the budget allows.

Each case is run under valgrind with few and with many batches; the difference, by job, is
free of imports and preparation. A job may take `SLACK` more instructions than the budget
says; who makes it cheaper lowers the budget (`--write`), so that the gain is kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from bananas.speedups import COMPILED
from benchmarks import ROOT
from benchmarks.instructions import server
from benchmarks.instructions.cases import BATCH, CASES

HERE: Final = Path(__file__).parent
BUDGET: Final = HERE / "budget.json"
SLACK: Final = 0.10
FEW: Final = 4
MANY: Final = 20
_RUN_S: Final = 300


def counted(words: list[str], environment: dict[str, str] | None = None) -> int:
    """Return how many instructions a program takes, as valgrind counts.

    Raises:
        click.ClickException: There is no valgrind, or the program failed.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise click.ClickException("valgrind is not installed (apt-get install valgrind)")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        done = subprocess.run(
            [valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
             f"--log-file={log}", *words],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0", **(environment or {})},
            capture_output=True, text=True, timeout=_RUN_S, check=False,
        )  # fmt: skip
        count = read(log)
    if done.returncode or count is None:
        raise click.ClickException(f"{' '.join(words)} failed: {done.stderr[-1000:]}")
    return count


def read(log: Path) -> int | None:
    """Return the count in valgrind's log, None when there is none."""
    found = re.search(r"I\s+refs:\s+([\d,]+)", log.read_text(errors="replace"))
    return int(found[1].replace(",", "")) if found else None


def count_server(name: str) -> float:
    """Return the server's instructions a job of one case.

    Raises:
        click.ClickException: The server did not stop in order.
    """
    counts: list[int] = []
    for jobs in (server.FEW, server.MANY):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            server.drive(name, jobs, log)
            count = read(log)
        if count is None:
            raise click.ClickException(f"{name}: the server was not counted to its end")
        counts.append(count)
    return (counts[1] - counts[0]) / (server.MANY - server.FEW)


def count_case(name: str, core: str) -> float:
    """Return the instructions a job of one case, over one core or in the server."""
    if core == "server":
        return count_server(name)
    environment = {"BANANAS_PURE": "1"} if core == "pure" else {}
    run = [sys.executable, "-m", "benchmarks.instructions.cases", name]
    few, many = (counted([*run, str(batches)], environment) for batches in (FEW, MANY))
    return (many - few) / (MANY - FEW) / BATCH


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="NAMES", help="Some of those that the budget has.")
@click.option("--write", is_flag=True, help="Make what was counted the budget.")
@click.option("--json", "as_json", is_flag=True)
def main(*, only: str | None, write: bool, as_json: bool) -> None:
    """Count the instructions a job takes; status 1 when one takes over 10 % more than budgeted."""
    cores = ("compiled", "pure") if COMPILED else ("pure",)
    names = [f"{case}.{core}" for case in CASES for core in cores]
    names += [f"{case}.server" for case in server.CASES if server.here()]
    if only is not None:
        names = [name for name in names if any(word in name for word in only.split(","))]
    budget: dict[str, int] = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    counts = {name: round(count_case(*name.split("."))) for name in names}
    if write:
        BUDGET.write_text(json.dumps(dict(sorted((budget | counts).items())), indent=2) + "\n")
    if as_json:
        click.echo(json.dumps(counts))
    over = [name for name in names if counts[name] > budget.get(name, counts[name]) * (1 + SLACK)]
    if not as_json:
        for name in names:
            allowed = budget.get(name)
            change = f"{counts[name] / allowed - 1:+.1%} of {allowed:,}" if allowed else "new"
            mark = "  OVER" if name in over else ""
            click.echo(f"{name:20} {counts[name]:>9,} instructions a job  {change}{mark}")
    if over and not write:
        raise click.ClickException(f"over budget by more than {SLACK:.0%}: {', '.join(over)}")


if __name__ == "__main__":
    main()
