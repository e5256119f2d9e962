"""What commands print: tables, bars, JSON. Colours and boxes on a terminal, plain lines elsewhere.

Texts of jobs come from anywhere and may hold escape sequences: whatever is printed here was
made harmless first. Without rich, which is an extra, everything is plain.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import contextmanager
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from rich.console import Console

_PLAIN_PROGRESS_S: Final = 10.0


def harmless(text: str) -> str:
    """Return the text with every character that steers a terminal written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else json.dumps(char)[1:-1] for char in text
    )


def first_line(text: str, limit: int = 160) -> str:
    """Return the first line of a text, cut."""
    lines = text.splitlines()
    line = harmless(lines[0]) if lines else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"


def print_json(value: object) -> None:
    """Print a value as JSON: to be read by people on a terminal, on one line elsewhere."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    click.echo(
        "".join(
            char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
        )
    )


def note(text: str) -> None:
    """Say something that is not data."""
    click.echo(harmless(text), err=True)


def console(*, err: bool = False) -> Console | None:
    """Return rich's console where there is a terminal and rich, else None."""
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty():
        return None
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra, and 50 ms
    except ImportError:
        return None
    return Console(stderr=err, highlight=False)


def count(number: float) -> str:
    """Return a number as people read it: 336,776."""
    return f"{number:,.0f}"


def jobs(number: int, kind: str = "") -> str:
    """Return how many jobs: 1 failed job, 12,000 failed jobs."""
    return f"{count(number)} {kind}{' ' if kind else ''}{'job' if number == 1 else 'jobs'}"


def age(seconds: float | None) -> str:
    """Return how long ago, roughly: 350ms, 12s, 3m 20s, 5h 10m, 2d 3h."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f}s"
    minutes, left_s = divmod(int(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes}m {left_s}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:  # noqa: PLR2004 - a day
        return f"{hours}h {minutes}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table.

    Args:
        columns: Their names. One that begins with ">" is set to the right; the one named
            "error" is folded where there is no room, all others stay whole.
        rows: The cells.
    """
    names = [name.removeprefix(">") for name in columns]
    right = [name.startswith(">") for name in columns]
    cells = [[harmless(cell).replace("\n", " ") for cell in row] for row in rows]
    screen = console()
    if screen is not None:
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - see console()
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name, is_right in zip(names, right, strict=True):
            drawn.add_column(
                name,
                justify="right" if is_right else "left",
                overflow="fold",
                no_wrap=name != "error",
            )
        for row in cells:
            drawn.add_row(*map(Text, row))
        screen.print(drawn)
        return
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for row in (names, *cells):
        padded = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def members(pairs: Sequence[tuple[str, str]], *, indent: str = "") -> None:
    """Print names with their values, one a line; what has no room there stands below it."""
    width = max((len(name) for name, _ in pairs), default=0)
    room = 10_000
    if sys.stdout.isatty():
        room = max(20, shutil.get_terminal_size().columns - len(indent) - width - 2)
    for name, value in pairs:
        lines = [
            part
            for line in harmless(value).split("\n")
            for part in wrap(line, room, replace_whitespace=False, drop_whitespace=False) or [""]
        ]
        click.echo(f"{indent}{click.style(name.ljust(width), dim=True)}  {lines[0]}")
        for line in lines[1:]:
            click.echo(f"{indent}{' ' * width}  {line}")


# --- progress -------------------------------------------------------------------------------------


class Progress(Protocol):
    """Long work under way."""

    def to(self, done: float, **shown: str) -> None:
        """Say how much is done in all; `shown` are the extra columns."""
        ...


class _Silent:
    def to(self, done: float, **shown: str) -> None:
        pass


class _Lines:
    """A line now and then, for logs."""

    def __init__(self, what: str, total: float | None) -> None:
        self._what, self._total = what, total
        self._last_s = time.monotonic()

    def to(self, done: float, **shown: str) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s < _PLAIN_PROGRESS_S:
            return
        self._last_s = now_s
        share = f" {done / self._total:.0%}" if self._total else ""
        click.echo(" ".join([f"{self._what}:{share}", *shown.values()]), err=True)


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:  # noqa: ANN401 - rich's
        self._bar, self._task = bar, task

    def to(self, done: float, **shown: str) -> None:
        self._bar.update(self._task, completed=done, **shown)


@contextmanager
def progress(
    what: str, total: float | None, *columns: str, begun: float = 0, quiet: bool = False
) -> Generator[Progress]:
    """Show how long work goes on: a bar on a terminal, a line every 10 s elsewhere.

    Args:
        what: Is being done.
        total: Of what `to` counts; None = not known.
        *columns: Names of extra columns, given to each `to`.
        begun: How much was done before.
        quiet: Show nothing.
    """
    screen = None if quiet else console(err=True)
    if screen is None:
        yield _Silent() if quiet else _Lines(what, total)
        return
    import rich.progress  # noqa: PLC0415 - see console()
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if total is None:
        shape: list[Any] = [SpinnerColumn(), TextColumn("{task.description}")]
    else:
        shape = [TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn()]
    shape += [TextColumn(f"{{task.fields[{name}]}}") for name in columns]
    shape += [TimeElapsedColumn()]
    if total is not None:
        shape += [TextColumn("[dim]left"), TimeRemainingColumn(compact=True)]
    with rich.progress.Progress(*shape, console=screen, transient=False) as bar:
        fields: dict[str, Any] = dict.fromkeys(columns, "")
        yield _Bar(bar, bar.add_task(what, total=total, completed=int(begun), **fields))
