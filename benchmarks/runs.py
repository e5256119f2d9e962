"""Runs as the history keeps them: a file for each kind of machine and command, a line a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from benchmarks import ROOT
from benchmarks.conditions import machine_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HISTORY: Final = ROOT / "benchmarks" / "history"

Run = dict[str, Any]


def path(command: str, machine: str) -> Path:
    """Return the file of a command (`bench`, `budget`, `curves`, `peers`) on such machines."""
    return HISTORY / f"{'' if command == 'bench' else f'{command}-'}{machine}.jsonl"


def append(command: str, run: Run) -> Path:
    """Add a run to the history of its kind of machine; returns the file."""
    file = path(command, machine_kind(run["conditions"]))
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as history:
        history.write(json.dumps(run, separators=(",", ":"), ensure_ascii=False) + "\n")
    return file


def newest_first(command: str, machine: str) -> Iterator[Run]:
    """Yield the runs that were kept, the last one first."""
    file = path(command, machine)
    lines = file.read_text().splitlines() if file.exists() else []
    yield from map(json.loads, reversed(lines))


def newest(command: str, machine: str, whole: Callable[[Run], bool]) -> Run | None:
    """Return the last run that measured all there was to measure."""
    return next(filter(whole, newest_first(command, machine)), None)
