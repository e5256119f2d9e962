"""`python -m benchmarks.publish`: puts tables and pictures of the last runs into the documents.

Nothing is measured: all comes from the history. Each command does its own part when it is told
to (`--readme`, `--docs`); this does all of them, as after a change of a table or a picture.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import click

from benchmarks import ROOT, aims
from benchmarks.budget import sheet
from benchmarks.cases import said_cases
from benchmarks.conditions import conditions, machine_kind, said
from benchmarks.curves import picture
from benchmarks.curves.curve import CURVES
from benchmarks.peers import table as peers
from benchmarks.peers.measures import MEASURES
from benchmarks.report import plot
from benchmarks.report import said as said_bench
from benchmarks.runs import newest, path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.runs import Run

README: Final = ROOT / "benchmarks" / "README.md"
PEERS: Final = ROOT / "benchmarks" / "peers"
PAGE: Final = ROOT / "docs" / "performance.md"
PICTURES: Final = ROOT / "docs" / "images"


def put_in(text: str, figures: str, name: str = "figures") -> str:
    """Return a document with what stands between its two marks of that name renewed.

    Raises:
        ValueError: It has no such marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the document has no place for {name}")
    return pattern.sub(lambda _: f"{begin}\n{figures}\n{end}", text)


def _put(document: Path, figures: str, name: str = "figures") -> None:
    document.write_text(put_in(document.read_text(), figures, name))


def picture_of_bench(run: Run) -> Path:
    """Return where the harness's picture of such machines is."""
    return path("bench", machine_kind(run["conditions"])).with_suffix(".svg")


def publish_bench(run: Run) -> None:
    """Figures, cases and picture of the harness."""
    plot(run["samples"], picture_of_bench(run))
    _put(README, said_bench(run))
    _put(README, said_cases(run["cases"]), "cases")


def publish_budget(run: Run) -> None:
    """Where the time of a job goes."""
    sheet.plot(run["samples"], PICTURES / "performance-budget.svg")
    shown = "![CPU a job by step](images/performance-budget.svg)"
    _put(PAGE, f"{shown}\n\n{sheet.said_budget(run)}", "budget")


def publish_curves(run: Run) -> None:
    """How figures grow with size."""
    picture.plot(run["curves"], PICTURES / "performance-curves.svg")
    shown = "![Rates and CPU a job by size](images/performance-curves.svg)"
    _put(PAGE, f"{shown}\n\n{picture.tables(run['curves'])}\n\n{said(run)}", "curves")


def publish_peers(run: Run) -> None:
    """Other task queues."""
    peers.plot(run["samples"], *peers.chosen(run), PEERS / "peers.svg")
    _put(PEERS / "README.md", f"![Each measure by peer](peers.svg)\n\n{peers.said(run)}")


def publish_aims(machine: str) -> None:
    """What is to be reached, and what was."""
    _put(README, aims.table(machine), "aims")


_PARTS: Final[dict[str, tuple[Callable[[Run], bool], Callable[[Run], None]]]] = {
    "bench": (lambda run: bool(run["cases"]) and "drain" in run["samples"], publish_bench),
    "budget": (lambda _run: True, publish_budget),
    "curves": (lambda run: len(run["curves"]) > len(CURVES) // 2, publish_curves),
    "peers": (lambda run: all(aims.all_peers(run, name) for name in MEASURES), publish_peers),
}
"""By command: which runs are whole (a line may be newer than a run), and what is done with one."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--machine", help="A file of benchmarks/history, without ending.  [default: this]")
def main(machine: str | None) -> None:
    """Put the last runs on a kind of machine into the documents, without measuring anything."""
    machine = machine or machine_kind(conditions())
    for command, (whole, publish) in _PARTS.items():
        run = newest(command, machine, whole)
        click.echo(f"{command}: {run['date'] if run else 'no whole run'}")
        if run is not None:
            publish(run)
    publish_aims(machine)
    click.echo(aims.table(machine))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.publish")
