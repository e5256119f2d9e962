"""`bananas demo` end to end: rows in over HTTP, bad ones repaired, every row stored once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bananas import embedded
from bananas.cli import exits
from command_line import plain_environ
from flights import write_package

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a data package of 400 flights."""
    pytest.importorskip("uvicorn")
    try:
        embedded.find_server()
    except embedded.EmbeddedServerError:
        pytest.skip("no server on this machine")
    write_package(tmp_path, 400)
    return tmp_path


def demo(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end on the folder's data."""
    environ = plain_environ(TMPDIR=str(folder), COLUMNS="120")
    environ["PYTHONPATH"] = os.pathsep.join((str(folder), environ["PYTHONPATH"]))
    return subprocess.run(
        [sys.executable, "-m", "bananas", "demo", *args],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def test_every_row_is_stored_once_and_the_planted_ones_are_repaired(folder: Path) -> None:
    """Input and output are equal, figures come as JSON, a picture is drawn, no trace is left."""
    outcome = demo(folder, "--rows", "300", "--json")
    assert outcome.returncode == exits.OK, outcome.stderr
    told = json.loads(outcome.stdout)
    assert (told["rows_in"], told["rows_stored"], told["complete"]) == (300, 300, True)
    assert (told["dead_lettered"], told["repaired"]) == (7, 7)
    assert told["wait_p50_ms"] > 0
    assert "month: must be 1..12, not 13" in outcome.stderr
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert list(folder.glob("bananas-demo-*")) == []


def test_the_figures_come_as_a_table_and_the_folder_can_be_kept(folder: Path) -> None:
    """Seven rows or fewer are too few to plant bad ones; a kept folder holds the database."""
    (folder / "out").mkdir()
    outcome = demo(folder, "--rows", "5", "--keep", "--out", "out")
    assert outcome.returncode == exits.OK, outcome.stderr
    for words in ("5  (equal)", "0, 0", "CPU of worker", "out/demo.png"):
        assert words in outcome.stdout
    (kept,) = folder.glob("bananas-demo-*")
    assert (kept / "flights.sqlite").exists()
