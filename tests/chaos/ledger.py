"""The ledger: what producers, handlers and the run itself say, in a file outside Redis.

Every entry is one line written by one call to a file opened with O_APPEND, so no process
can write half of one, and what was written outlives whoever wrote it. Times are seconds of
CLOCK_MONOTONIC: one clock for all processes of a host, whatever their calendars say.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

if TYPE_CHECKING:
    from pathlib import Path

Entry: TypeAlias = dict[str, Any]
"""One line: `what` happened, `at` which second, and the fields of its kind."""


class Pen:
    """Writes entries."""

    def __init__(self, path: str | Path) -> None:
        """Open the ledger, which may be there already."""
        self._file = os.open(path, os.O_APPEND | os.O_WRONLY | os.O_CREAT, 0o600)

    def note(self, what: str, **fields: object) -> None:
        """Write an entry of this instant."""
        line = {"what": what, "at": round(time.monotonic(), 6), **fields}
        os.write(self._file, orjson.dumps(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Reader:
    """Reads a ledger as it grows."""

    def __init__(self, path: Path) -> None:
        """Start at its beginning."""
        self._path = path
        self._at = 0

    def more(self) -> list[Entry]:
        """Return the whole lines that have come since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._at += end
        return [orjson.loads(line) for line in data[:end].splitlines()]
