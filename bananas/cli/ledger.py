"""What an ingestion remembers beside its file: how far it got, and the rows it left out.

Progress is written after each acknowledged chunk, in one write of one padded block: replacing
the file would be tidier, and costs 3 ms of waiting for the disk a time. What was sent and not
acknowledged before a crash is sent again, under the same ids: a duplicate, not a second job.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from bananas.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from bananas.cli.rows import Row

_HEAD_BYTES: Final = 4096
_ROW_BYTES: Final = 64 * 1024


class LedgerError(UsageError):
    """What is remembered does not fit what was asked for."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far an ingestion got; a `.progress` file holds it as JSON.

    Attributes:
        target: Where the jobs go, without secrets.
        task: As asked for.
        id_from: As asked for.
        run: Names this ingestion; the ids of its rows follow from it.
        started_ms: When it began, Unix milliseconds.
        head: Hash of the file's beginning, to know it again.
        head_bytes: How much of the beginning.
        offset: Of the first byte that is not acknowledged.
        line: Of the last line that is.
        accepted: New jobs.
        duplicates: Rows whose job existed.
        rejected: Rows that broke a rule.
        rejected_bytes: Size of the file of rejected rows.
        done: The end of the file was reached.
    """

    target: str
    task: str | None
    id_from: str | None
    run: str
    started_ms: int
    head: str
    head_bytes: int
    offset: int = 0
    line: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    rejected_bytes: int = 0
    done: bool = False

    @property
    def rows(self) -> int:
        """Rows judged."""
        return self.accepted + self.duplicates + self.rejected


class Ledger:
    """One ingestion's memory; without a path for its progress it has none."""

    def __init__(self, progress: Progress, path: Path | None, rejected_path: Path) -> None:
        """Write to these files; the one of rejected rows only when there is one."""
        self.progress = progress
        self.rejected_path = rejected_path
        self._path = path
        self._rejected: BinaryIO | None = None
        self._fd: int | None = None
        self._length = 0

    @classmethod
    def open(  # noqa: PLR0913 - each a line of the command
        cls,
        file: BinaryIO,
        path: Path,
        rejected_path: Path,
        *,
        target: str,
        task: str | None,
        id_from: str | None,
        resume: bool,
        restart: bool,
    ) -> Ledger:
        """Return the ledger of a file: a new one, or that of an earlier run to go on with.

        Raises:
            LedgerError: There is an earlier one and nobody said what to do with it, or it does
                not fit.
        """
        earlier = None if restart else _read(path)
        if earlier is None:
            head = file.read(_HEAD_BYTES)
            rejected_path.unlink(missing_ok=True)
            progress = begin(target, task, id_from, head=head)
            ledger = cls(progress, path, rejected_path)
            ledger.save()
            return ledger
        if not resume:
            state = "to its end" if earlier.done else f"up to line {earlier.line:,}"
            error = LedgerError(f"this file was ingested {state} before ({path.name})")
            error.hint = "--resume goes on from there; --restart submits every row anew"
            raise error
        _check(earlier, file, target=target, task=task, id_from=id_from)
        if earlier.rejected_bytes:
            with rejected_path.open("ab") as rejected:
                rejected.truncate(earlier.rejected_bytes)
        else:
            rejected_path.unlink(missing_ok=True)
        earlier.done = False
        return cls(earlier, path, rejected_path)

    def reject(self, row: Row, field: str | None, rule: str | None) -> None:
        """Put a row aside, with the field and the rule that it broke."""
        if self._rejected is None:
            self._rejected = self.rejected_path.open("ab")
        text = None if row.line is None else row.line[:_ROW_BYTES].decode("utf-8", "replace")
        told = {"line": row.number, "field": field, "rule": rule, "row": text}
        self._rejected.write(json.dumps(told, ensure_ascii=False).encode("utf-8") + b"\n")
        self.progress.rejected += 1

    def acknowledge(self, offset: int, line: int) -> None:
        """Remember that everything up to here has its verdict."""
        self.progress.offset, self.progress.line = offset, line
        if self._rejected is not None:
            self._rejected.flush()
            self.progress.rejected_bytes = self._rejected.tell()
        self.save()

    def finish(self, offset: int) -> None:
        """Remember that the end of the file was reached."""
        self.progress.done = True
        self.acknowledge(offset, self.progress.line)

    def save(self) -> None:
        """Write the progress."""
        if self._path is None:
            return
        if self._fd is None:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        block = json.dumps(asdict(self.progress)).encode() + b"\n"
        # Blanks at the end are good JSON, and what the last block had beyond this one is covered.
        self._length = max(self._length, len(block), os.fstat(self._fd).st_size)
        os.pwrite(self._fd, block.ljust(self._length), 0)

    def close(self) -> None:
        """Close both files."""
        if self._rejected is not None:
            self._rejected.close()
            self._rejected = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def begin(target: str, task: str | None, id_from: str | None, *, head: bytes = b"") -> Progress:
    """Return the progress of a new ingestion."""
    return Progress(
        target=target,
        task=task,
        id_from=id_from,
        run=os.urandom(16).hex(),
        started_ms=time.time_ns() // 1_000_000,
        head=sha256(head).hexdigest(),
        head_bytes=len(head),
    )


def _read(path: Path) -> Progress | None:
    """Return what an earlier run left; None = nothing.

    Raises:
        LedgerError: The file is not one of ours.
    """
    try:
        members: Any = json.loads(path.read_text("utf-8"))
        return Progress(**{item.name: members[item.name] for item in fields(Progress)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as problem:
        error = LedgerError(f"{path}: is no progress file ({problem})")
        error.hint = "--restart begins anew and overwrites it"
        raise error from None


def _check(
    earlier: Progress, file: BinaryIO, *, target: str, task: str | None, id_from: str | None
) -> None:
    """Check that an earlier run was of the same file, to the same place, in the same way.

    Raises:
        LedgerError: It was not.
    """
    for name, before, now in (
        ("the target", earlier.target, target),
        ("--task", earlier.task, task),
        ("--id-from", earlier.id_from, id_from),
    ):
        if before != now:
            raise LedgerError(f"{name} was {before}, and is {now}: --resume goes on as begun")
    size = os.fstat(file.fileno()).st_size
    head = file.read(earlier.head_bytes)
    if size < earlier.offset or sha256(head).hexdigest() != earlier.head:
        error = LedgerError("this is not the file that was begun: its beginning or size differs")
        error.hint = "--restart submits every row anew"
        raise error
