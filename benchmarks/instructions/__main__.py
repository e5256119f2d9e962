"""`python -m benchmarks.instructions`: count, and compare with what the budget allows.

Each case is done few and many times under valgrind; the difference, by job, is free of
imports and preparation. A job may take `SLACK` more instructions than the budget says; who
makes it cheaper lowers the budget (`--write`), so that the gain is kept.

A budget is of one Python, one kind of machine and one Redis: where these are others, or not
there, the cases are left out and the last lines say so (`--gaps` says it without counting).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bananas.speedups import COMPILED
from benchmarks.instructions import server, valgrind
from benchmarks.instructions.cases import CASES, REFERENCE
from benchmarks.instructions.reference import TAKES
from benchmarks.instructions.size import BATCH, FEW, MANY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BUDGET: Final = Path(__file__).parent / "budget.json"
WRITE: Final = "make bench-instructions ARGS=--write"
SLACK: Final = 0.10
CORES: Final = ("compiled", "pure")

_PYTHON: Final[tuple[tuple[int, ...], str]] = ((3, 11), "x86_64")


def every() -> list[str]:
    """Return the names of all cases, whether or not they can be counted here."""
    own = [f"{case}.{core}" for core in CORES for case in CASES]
    return [*own, *(f"{case}.server" for case in server.CASES)]


def gaps() -> Iterator[tuple[str, str]]:
    """Give the endings of what cannot be counted here, each with the reason.

    Raises:
        click.ClickException: The core should have been built here, and was not.
    """
    kind = _here()
    if not valgrind.here():
        yield "", "valgrind is not installed (apt-get install valgrind)"
        return
    if kind != _PYTHON:
        yield from (
            (core, f"the budget is of {_said(_PYTHON)}, this is {_said(kind)}") for core in CORES
        )
    elif not COMPILED:
        if _can_build() and not os.environ.get("BANANAS_PURE"):
            raise click.ClickException("there is a compiler here, but the core was not built")
        yield "compiled", "the core is not built: there is no compiler, or BANANAS_PURE is set"
    if not server.here():
        yield "server", "the budget is of Redis 7.0, and this machine has another, or none"


def _here() -> tuple[tuple[int, ...], str]:
    return sys.version_info[:2], platform.machine()


def _said(kind: tuple[tuple[int, ...], str]) -> str:
    return f"Python {'.'.join(map(str, kind[0]))} on {kind[1]}"


def _can_build() -> bool:
    compiler = shutil.which("cc") or shutil.which("gcc")
    return bool(compiler) and Path(sysconfig.get_path("include"), "Python.h").exists()


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
            found = valgrind.read(log)
        if len(found) != 1:
            raise click.ClickException(f"{name}: the server was not counted to its end")
        counts += found.values()
    return (counts[1] - counts[0]) / (server.MANY - server.FEW)


def count(core: str, names: Sequence[str]) -> dict[str, float]:
    """Return the instructions a job of some cases, over one core or in the server."""
    if core == "server":
        return {name: count_server(name) for name in names}
    environment = {"BANANAS_PURE": "1"} if core == "pure" else {}
    words = [sys.executable, "-m", "benchmarks.instructions.cases", REFERENCE, *names]
    wrote, counts = valgrind.counted(words, environment)
    found: dict[str, float] = {}
    for name, few, many in map(str.split, wrote.splitlines()):
        found[name] = (counts[int(many)] - counts[int(few)]) / (MANY - FEW) / BATCH
    slowness = found.pop(REFERENCE) / TAKES
    return {name: size / slowness for name, size in found.items()}


def count_all(names: Sequence[str]) -> dict[str, int]:
    """Return the instructions a job of all these."""
    counts: dict[str, int] = {}
    for core in (*CORES, "server"):
        wanted = [case for case, of in (name.split(".") for name in names) if of == core]
        if wanted:
            found = count(core, wanted)
            counts |= {f"{case}.{core}": round(found[case]) for case in wanted}
    return counts


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="WORDS", help="Cases with one of these in their names.")
@click.option("--write", is_flag=True, help="Make what was counted the budget.")
@click.option("--gaps", "only_gaps", is_flag=True, help="Say what cannot be counted here, and why.")
@click.option("--json", "as_json", is_flag=True)
def main(*, only: str | None, write: bool, only_gaps: bool, as_json: bool) -> None:
    """Count the instructions a job takes; status 1 when one takes over 10 % more than budgeted."""
    missing = dict(gaps())
    left_out = [f"not counted: *.{core or '*'}: {why}" for core, why in missing.items()]
    if only_gaps:
        click.echo("\n".join(left_out), nl=bool(left_out))
        return
    if "" in missing:
        raise click.ClickException(missing[""])
    known = every()
    names = [name for name in known if name.split(".")[1] not in missing]
    if only is not None:
        names = [name for name in names if any(word in name for word in only.split(","))]
        if not names:
            raise click.ClickException(f'no case that can be counted here has "{only}" in its name')
    budget: dict[str, int] = json.loads(BUDGET.read_text())
    if not write:
        _compare(known, budget)
    counts = count_all(names)
    if as_json:
        click.echo(json.dumps(counts))
    else:
        _show(counts, budget)
        click.echo("\n".join(left_out), nl=bool(left_out))
    if write:
        kept = {name: size for name, size in (budget | counts).items() if name in known}
        BUDGET.write_text(json.dumps(dict(sorted(kept.items())), indent=2) + "\n")
        return
    over = [name for name in names if _grew(counts[name], budget[name])]
    if over:
        raise click.ClickException(f"over budget by more than {SLACK:.0%}: {', '.join(over)}")


def _compare(known: Sequence[str], budget: dict[str, int]) -> None:
    """Refuse a budget that is not of exactly the cases there are: one could grow unseen."""
    new = [name for name in known if name not in budget]
    gone = [name for name in budget if name not in known]
    told = [f"{what}: {', '.join(names)}" for what, names in
            (("without a budget", new), ("in the budget, but no case", gone)) if names]  # fmt: skip
    if told:
        raise click.ClickException(f"{'; '.join(told)} ({WRITE} makes the budget anew)")


def _grew(found: int, allowed: int) -> bool:
    return found > allowed * (1 + SLACK)


def _show(counts: dict[str, int], budget: dict[str, int]) -> None:
    cheaper = False
    for name, found in counts.items():
        allowed = budget.get(name)
        change = f"{found / allowed - 1:+.1%} of {allowed:,}" if allowed else "new"
        mark = "  OVER" if allowed and _grew(found, allowed) else ""
        if allowed and found < allowed * (1 - SLACK / 2):
            mark, cheaper = "  cheaper", True
        click.echo(f"{name:20} {found:>9,} instructions a job  {change}{mark}")
    if cheaper:
        click.echo(f"To keep what became cheaper: {WRITE}")


if __name__ == "__main__":
    main()
