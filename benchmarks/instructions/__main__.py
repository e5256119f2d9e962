"""`python -m benchmarks.instructions`: count, and compare with what the budget allows.

Each case is done few and many times under valgrind; the difference, by job, is free of
imports and preparation. A job may take `SLACK` more instructions than the budget says. Who
makes it cheaper lowers the budget (`--write`), so that the gain is kept.

A budget is of one Python, one kind of machine and one Redis: where these are others, or not
there, the cases are left out and the last lines say so (`--gaps` says it without counting).
Where a library that is counted too has another version, its cases do not fail, but are told of.
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

from bananas.errors import BananasError
from bananas.speedups import COMPILED
from benchmarks.instructions import budget, server, valgrind
from benchmarks.instructions.budget import WRITE
from benchmarks.instructions.cases import CASES, REFERENCE
from benchmarks.instructions.reference import TAKES
from benchmarks.instructions.size import BATCH, FEW, MANY
from servers import ServerStartError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.instructions.budget import Budget

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
    if kind[1] != _PYTHON[1]:
        yield "server", f"the budget is of {_PYTHON[1]}, this is {kind[1]}"
    elif not server.here():
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
        click.ClickException: The server did not start, answer or stop in order.
    """
    counts: list[int] = []
    for jobs in (server.FEW, server.MANY):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            try:
                server.drive(name, jobs, log)
            except (ServerStartError, BananasError) as error:
                raise click.ClickException(f"{name}: the server failed: {error}") from error
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
    """Count the instructions a job takes; status 1 when one is far from its budget.

    Far is 10 % more.
    """
    kept, known = budget.read(), every()
    missing = dict(gaps())
    names = [name for name in known if name.split(".")[1] not in missing]
    left_out = [f"not counted: *.{core or '*'}: {why}" for core, why in missing.items()]
    if "" not in missing:
        left_out += [
            f"not guarded: {', '.join(pieces)}: {doubt} ({WRITE} renews it)"
            for doubt, pieces in kept.doubts(names).items()
        ]
    if only_gaps:
        click.echo("\n".join(left_out), nl=bool(left_out))
        return
    if "" in missing:
        raise click.ClickException(missing[""])
    if only is not None:
        names = [name for name in names if any(word in name for word in only.split(","))]
        if not names:
            raise click.ClickException(f'no case that can be counted here has "{only}" in its name')
    if write:
        _refuse_half(kept, [name for name in known if name not in names])
    else:
        _compare(known, kept.instructions)
    counts = count_all(names)
    if as_json:
        click.echo(json.dumps(counts))
    else:
        _show(counts, kept.instructions)
        click.echo("\n".join(left_out), nl=bool(left_out))
    if write:
        sizes = kept.instructions | counts
        budget.write({name: size for name, size in sizes.items() if name in known})
    else:
        _judge(counts, kept)


def _refuse_half(kept: Budget, rest: Sequence[str]) -> None:
    """Refuse to write the versions that are here beside counts made with others."""
    for doubt, pieces in kept.doubts(rest).items():
        raise click.ClickException(f"not to be written without {', '.join(pieces)}: {doubt}")


def _judge(counts: dict[str, int], kept: Budget) -> None:
    """Fail for what is too far from its budget, if that can only be our doing."""
    allowed = kept.instructions
    far = {
        f"over budget by more than {SLACK:.0%}": [
            name for name in counts if _grew(counts[name], allowed[name])
        ],
    }
    failures: list[str] = []
    for what, names in far.items():
        for name in filter(kept.doubt, names):
            click.echo(f"NOT GUARDED: {name} is {what}: {kept.doubt(name)}", err=True)
        if ours := [name for name in names if not kept.doubt(name)]:
            failures.append(f"{what}: {', '.join(ours)}")
    if failures:
        raise click.ClickException("; ".join(failures))


def _compare(known: Sequence[str], allowed: dict[str, int]) -> None:
    """Refuse a budget that is not of exactly the cases there are: one could grow unseen."""
    new = [name for name in known if name not in allowed]
    gone = [name for name in allowed if name not in known]
    told = [f"{what}: {', '.join(names)}" for what, names in
            (("without a budget", new), ("in the budget, but no case", gone)) if names]  # fmt: skip
    if told:
        raise click.ClickException(f"{'; '.join(told)} ({WRITE} makes the budget anew)")


def _grew(found: int, allowed: int) -> bool:
    return found > allowed * (1 + SLACK)


def _show(counts: dict[str, int], budgeted: dict[str, int]) -> None:
    cheaper = False
    for name, found in counts.items():
        allowed = budgeted.get(name)
        change = f"{found / allowed - 1:+.1%} of {allowed:,}" if allowed else "new"
        mark = "  OVER" if allowed and _grew(found, allowed) else ""
        if allowed and found < allowed * (1 - SLACK / 2):
            mark, cheaper = "  cheaper", True
        click.echo(f"{name:20} {found:>9,} instructions a job  {change}{mark}")
    if cheaper:
        click.echo(f"To keep what became cheaper: {WRITE}")


if __name__ == "__main__":
    main()
