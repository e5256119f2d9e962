"""The ledger: what it remembers survives, and what does not fit is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bananas.cli.ledger import Ledger, LedgerError
from bananas.cli.rows import Row

if TYPE_CHECKING:
    from pathlib import Path

DATA = b'{"a":1}\n' * 1000


def opened(folder: Path, **changes: Any) -> Ledger:  # noqa: ANN401 - as `Ledger.open` takes them
    """Open the ledger of `rows.ndjson` in a folder."""
    said: dict[str, Any] = {"target": "here", "task": None, "id_from": None}
    said |= {"resume": False, "restart": False} | changes
    with (folder / "rows.ndjson").open("rb") as file:
        return Ledger.open(file, folder / "progress", folder / "rejected", **said)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file of rows."""
    (tmp_path / "rows.ndjson").write_bytes(DATA)
    return tmp_path


def half_way(folder: Path) -> Ledger:
    """Leave a ledger with two lines acknowledged, one of them rejected."""
    ledger = opened(folder)
    ledger.reject(Row(2, 16, b"\xffbad"), "name", "is required")
    ledger.progress.accepted = 1
    ledger.acknowledge(16, 2)
    ledger.close()
    return ledger


def test_what_was_acknowledged_is_remembered(folder: Path) -> None:
    """Another process goes on at the byte after, under the same run."""
    before = half_way(folder).progress
    after = opened(folder, resume=True).progress
    assert after == before
    assert (after.offset, after.line, after.rows) == (16, 2, 2)


def test_the_rejected_row_is_told_with_its_text(folder: Path) -> None:
    """Line, field, rule and the row itself, whatever its bytes."""
    half_way(folder)
    told = json.loads((folder / "rejected").read_text("utf-8"))
    assert told == {"line": 2, "field": "name", "rule": "is required", "row": "\ufffdbad"}


def test_rows_rejected_after_the_last_acknowledgement_are_not_told_twice(folder: Path) -> None:
    """They will be read again, so the file of rejected rows is cut to what was acknowledged."""
    ledger = half_way(folder)
    with (folder / "rejected").open("ab") as file:
        file.write(b'{"line": 3}\n')
    opened(folder, resume=True)
    assert (folder / "rejected").stat().st_size == ledger.progress.rejected_bytes


def test_a_shorter_progress_covers_a_longer_one(folder: Path) -> None:
    """Written in place, the file is JSON at every time."""
    ledger = opened(folder)
    ledger.acknowledge(10**15, 10**14)
    ledger.acknowledge(8, 1)
    assert json.loads((folder / "progress").read_text())["offset"] == 8
    ledger.close()


def test_an_earlier_run_is_not_overwritten_by_chance(folder: Path) -> None:
    """Without --resume or --restart a second run is an error that names both."""
    half_way(folder)
    with pytest.raises(LedgerError, match="up to line 2") as caught:
        opened(folder)
    assert "--resume" in (caught.value.hint or "")


def test_restart_forgets(folder: Path) -> None:
    """It begins at the first row, under another run, without the old rejected rows."""
    before = half_way(folder).progress
    after = opened(folder, restart=True).progress
    assert (after.offset, after.rejected) == (0, 0)
    assert after.run != before.run
    assert not (folder / "rejected").exists()


@pytest.mark.parametrize("changes", [{"target": "there"}, {"task": "a"}, {"id_from": "k"}])
def test_resume_goes_on_as_begun(folder: Path, changes: dict[str, str]) -> None:
    """Other options than those of the earlier run are refused."""
    half_way(folder)
    with pytest.raises(LedgerError, match="goes on as begun"):
        opened(folder, resume=True, **changes)


@pytest.mark.parametrize("data", [b"{}\n" + DATA, DATA[:10]])
def test_another_file_is_refused(folder: Path, data: bytes) -> None:
    """Its beginning or its size tell."""
    half_way(folder)
    (folder / "rows.ndjson").write_bytes(data)
    with pytest.raises(LedgerError, match="not the file"):
        opened(folder, resume=True)


def test_a_file_that_grew_is_the_same_file(folder: Path) -> None:
    """Rows appended later are taken by --resume, though the end was reached before."""
    ledger = half_way(folder)
    ledger.finish(len(DATA))
    ledger.close()
    with (folder / "rows.ndjson").open("ab") as file:
        file.write(DATA)
    assert opened(folder, resume=True).progress.offset == len(DATA)


@pytest.mark.parametrize("text", ["", "nope", "[]", '{"offset": 1}'])
def test_a_broken_progress_file_is_told(folder: Path, text: str) -> None:
    """It is not taken for a beginning."""
    (folder / "progress").write_text(text)
    with pytest.raises(LedgerError, match="no progress file"):
        opened(folder, resume=True)


def test_resume_without_an_earlier_run_begins(folder: Path) -> None:
    """A script may always say --resume."""
    assert opened(folder, resume=True).progress.offset == 0
