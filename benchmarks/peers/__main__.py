"""`python -m benchmarks.peers`: the same work by every peer in turn, a table, a plot, a history."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from benchmarks import ROOT
from benchmarks.conditions import commit, conditions, free_share, load, machine_kind
from benchmarks.peers.homes import HomeError, home
from benchmarks.peers.measures import MEASURES
from benchmarks.peers.peers import PEERS
from benchmarks.peers.stage import Stage, StageError
from benchmarks.peers.table import plot, table
from benchmarks.report import append_history, put_in

if TYPE_CHECKING:
    from benchmarks.peers.measures import Measure
    from benchmarks.peers.peers import Peer
    from benchmarks.peers.stage import Figures
    from benchmarks.peers.table import Samples

HERE: Final = Path(__file__).parent
README: Final = HERE / "README.md"
HISTORY: Final = ROOT / "benchmarks" / "history"


def _picked(text: str | None, known: dict[str, Any], what: str) -> list[Any]:
    if text is None:
        return list(known.values())
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise click.UsageError(f'{what} "{name}": is none of {", ".join(known)}')
    return [known[name] for name in names]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="NAMES", help=f"Some peers of: {', '.join(p.key for p in PEERS)}.")
@click.option("--measure", metavar="NAMES", help=f"Some of: {', '.join(MEASURES)}.")
@click.option(
    "--jobs",
    type=click.IntRange(100),
    default=10_000,
    show_default=True,
    help="Of peers; bananas gets ten times as many, or its run would be over at once.",
)
@click.option("--probes", type=click.IntRange(10), default=200, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--no-history", is_flag=True, help="Do not keep the figures.")
@click.option("--readme", is_flag=True, help="Put table and plot into benchmarks/peers too.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON.")
def main(  # noqa: PLR0913 - one a flag
    *,
    only: str | None,
    measure: str | None,
    jobs: int,
    probes: int,
    repeats: int,
    no_history: bool,
    readme: bool,
    as_json: bool,
) -> None:
    """Measure the peers side by side; the first run installs them, below build/peers."""
    peers: list[Peer] = _picked(only, {peer.key: peer for peer in PEERS}, "--only")
    measures: list[Measure] = _picked(measure, MEASURES, "--measure")
    peers = [peer for peer in peers if _is_installed(peer)]
    run: dict[str, Any] = {
        "what": "peers",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit()[0],
        "conditions": conditions(),
        "parameters": {"jobs": jobs, "probes": probes, "repeats": repeats},
        "versions": {peer.name: peer.version or "this" for peer in peers},
    }
    samples: Samples = {}
    free: list[float] = []
    for repeat in range(repeats):
        for measured in measures:  # interleaved: a busy neighbour is shared by all peers
            for peer in peers:
                free.append(free_share())
                figures = _take(peer, measured, jobs, probes, f"{repeat + 1}/{repeats}")
                if figures is not None:
                    samples.setdefault(measured.name, {}).setdefault(peer.name, []).append(figures)
    run |= {"samples": samples, "load_at_end": load(), "free_shares": free}
    figures = f"{table(samples, measures, peers)}\n\n{_said(run)}"
    kind = f"peers-{machine_kind(run['conditions'])}"
    if not no_history:
        append_history(HISTORY, kind, run)
    if readme:
        README.write_text(put_in(README.read_text(), figures))
        plot(samples, measures, peers, HERE / "peers.svg")
    click.echo(json.dumps(run, indent=2) if as_json else figures)


def _is_installed(peer: Peer) -> bool:
    try:
        home(peer)
    except HomeError as error:
        click.echo(f"{peer.name} is left out: {error}", err=True)
        return False
    return True


def _take(peer: Peer, measured: Measure, jobs: int, probes: int, turn: str) -> Figures | None:
    if not measured.applies(peer):
        return None
    try:
        with Stage(peer) as stage:
            figures = measured.take(stage, peer, jobs * (1 if peer.version else 10), probes)
    except (StageError, OSError) as error:
        click.echo(f"{turn} {measured.title}, {peer.name}: failed: {error}", err=True)
        return None
    shown = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
    click.echo(f"{turn} {measured.title}, {peer.name}: {shown}", err=True)
    return figures


def _said(run: dict[str, Any]) -> str:
    known = run["conditions"]
    free = sorted(run["free_shares"])
    return (
        f"{run['date']}, commit {run['commit'] or 'unknown'}. {known['cpu']}, {known['cores']} "
        f"cores, {known['system']}; before each sample {free[len(free) // 2]:.0%} "
        f"({free[0]:.0%} to {free[-1]:.0%}) of the cores were free. Python {known['python']}; "
        f"{known['servers'][0]}, TCP loopback, no persistence.\n"
        f"{run['parameters']['jobs']:,} jobs of 200 bytes (bananas ten times as many), "
        f"{run['parameters']['repeats']} repeats, interleaved: median (min to max)."
    )


if __name__ == "__main__":
    sys.exit(main())
