"""`python -m benchmarks.peers`: the same work by every peer in turn, a table, a plot, a history."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

import click

from benchmarks.conditions import commit, conditions, free_share, load, machine_kind
from benchmarks.peers.homes import HomeError, home
from benchmarks.peers.measures import MEASURES
from benchmarks.peers.peers import PEERS
from benchmarks.peers.stage import Stage, StageError
from benchmarks.peers.table import plot, said
from benchmarks.publish import publish_aims, publish_peers
from benchmarks.runs import append

if TYPE_CHECKING:
    from benchmarks.peers.measures import Measure
    from benchmarks.peers.peers import Peer
    from benchmarks.peers.stage import Figures
    from benchmarks.peers.table import Samples


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
    default=3_000,
    show_default=True,
    help="Times the scale of a peer: the fast ones get more, so that all drain for about as long.",
)
@click.option("--probes", type=click.IntRange(10), default=200, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--limit-s", type=float, default=1_500.0, show_default=True, help="When to stop.")
@click.option("--no-history", is_flag=True, help="Do not keep the figures.")
@click.option("--readme", is_flag=True, help="Put table and plot into benchmarks/peers too.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Where to draw.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON.")
def main(  # noqa: PLR0913 - one a flag
    *,
    only: str | None,
    measure: str | None,
    jobs: int,
    probes: int,
    repeats: int,
    limit_s: float,
    no_history: bool,
    readme: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Measure the peers side by side; the first run installs them, below build/peers."""
    if readme and (only or measure):
        raise click.UsageError("--readme wants a whole run")
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
    began_s = time.monotonic()
    # Interleaved, so that a busy neighbour is shared by all peers, and so that what is left out
    # when the time is up is left out for all.
    for repeat, measured in product(range(repeats), measures):
        spent_s = time.monotonic() - began_s
        if spent_s > limit_s:
            click.echo(f"{repeat + 1}/{repeats} {measured.title}: the time is up", err=True)
            continue
        for peer in peers:
            free.append(free_share())
            turn = f"{time.monotonic() - began_s:4.0f} s  {repeat + 1}/{repeats}"
            figures = _take(peer, measured, jobs, probes, turn)
            if figures is not None:
                samples.setdefault(measured.name, {}).setdefault(peer.name, []).append(figures)
    run |= {"samples": samples, "load_at_end": load(), "free_shares": free}
    run["seconds"] = round(time.monotonic() - began_s, 1)
    if not no_history:
        append("peers", run)
    if readme:
        publish_peers(run)
        publish_aims(machine_kind(run["conditions"]))
    if picture is not None:
        plot(samples, measures, peers, picture)
    click.echo(json.dumps(run, indent=2) if as_json else said(run))


def _is_installed(peer: Peer) -> bool:
    try:
        home(peer)
    except HomeError as error:
        click.echo(f"{peer.name} is left out: {error}", err=True)
        return False
    return True


def _take(peer: Peer, measured: Measure, jobs: int, probes: int, turn: str) -> Figures | None:
    """Measure a peer in each of its ways, and return the figures of the best."""
    if not measured.applies(peer):
        return None
    taken: list[Figures] = []
    for way in measured.ways(peer):
        try:
            with Stage(peer) as stage:
                figures = measured.take(stage, peer, way, int(jobs * peer.scale), probes)
        except (StageError, OSError, TimeoutExpired) as error:
            click.echo(f"{turn} {measured.title}, {peer.name}: failed: {error}", err=True)
            continue
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
        click.echo(f"{turn} {measured.title}, {peer.name}: {shown}", err=True)
        taken.append(figures)
    if not taken:
        return None
    best = max if measured.better == "more" else min
    return best(taken, key=lambda figures: figures[measured.figure])


if __name__ == "__main__":
    sys.exit(main())
