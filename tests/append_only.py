"""The append-only file of a server: its commands, its units, and what a cut leaves of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FOLDER = "appendonlydir"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the file, and where it ends."""

    words: tuple[bytes, ...]
    begin: int
    end: int

    @property
    def name(self) -> bytes:
        """The command itself, in capitals."""
        return self.words[0].upper()


def increments(folder: Path) -> Path:
    """Return the file that a server with `--dir folder` appends to."""
    (found,) = (folder / _FOLDER).glob("*.incr.aof")
    return found


def commands(data: bytes) -> Iterator[Command]:
    """Give every command that the file holds whole."""
    at = 0
    while at < len(data):
        begin = at
        count, at = _number(data, at, b"*")
        words = []
        for _ in range(count):
            size, at = _number(data, at, b"$")
            words.append(data[at : at + size])
            at += size + 2
        if at > len(data):
            return
        yield Command(tuple(words), begin, at)


def _number(data: bytes, at: int, mark: bytes) -> tuple[int, int]:
    assert data[at : at + 1] == mark, data[at : at + 40]
    end = data.index(b"\r\n", at)
    return int(data[at + 1 : end]), end + 2


def whole(found: list[Command], cut: int) -> list[Command]:
    """Return the commands that count when the file ends at `cut`: an unfinished unit does not."""
    kept: list[Command] = []
    unit: list[Command] | None = None
    for command in found:
        if command.end > cut:
            break
        if command.name == b"MULTI":
            unit = []
        elif command.name == b"EXEC":
            kept += unit or []
            unit = None
        elif unit is None:
            kept.append(command)
        else:
            unit.append(command)
    return kept


def copy_with(source: Path, target: Path, data: bytes) -> None:
    """Copy a server's files, with other contents in the one that was appended to."""
    shutil.copytree(source / _FOLDER, target / _FOLDER)
    increments(target).write_bytes(data)
