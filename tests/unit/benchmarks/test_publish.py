"""The documents are made again from the history that is kept, by the code of today."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from benchmarks import publish, runs

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = "linux-x86-64-amd-epyc-2-cores"


def test_documents_are_made_from_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part finds a whole run, fills its place, and leaves the words around it alone."""
    pytest.importorskip("matplotlib")
    (tmp_path / "history").mkdir()
    for file in runs.HISTORY.glob("*.jsonl"):
        shutil.copy(file, tmp_path / "history")
    monkeypatch.setattr(runs, "HISTORY", tmp_path / "history")
    _keep_a_run_of_two_peers("later")
    documents = {"README": publish.README, "PAGE": publish.PAGE}
    for name, document in documents.items():
        monkeypatch.setattr(publish, name, shutil.copy(document, tmp_path / name))
    for name in ("PEERS", "PICTURES"):
        (tmp_path / name).mkdir()
    shutil.copy(publish.PEERS / "README.md", tmp_path / "PEERS")
    monkeypatch.setattr(publish, "PEERS", tmp_path / "PEERS")
    monkeypatch.setattr(publish, "PICTURES", tmp_path / "PICTURES")
    monkeypatch.setattr(publish, "picture_of_bench", lambda _run: tmp_path / "bench.svg")
    outcome = CliRunner().invoke(publish.main, ["--machine", MACHINE], catch_exceptions=False)
    assert outcome.exit_code == 0
    assert "no whole run" not in outcome.output
    assert "peers: later" not in outcome.output
    for name, document in documents.items():
        made, kept = (tmp_path / name).read_text(), document.read_text()
        assert _around(made) == _around(kept)
        assert made.count("|---") == kept.count("|---")
    assert {path.name for path in tmp_path.rglob("*.svg")} == {
        "bench.svg", "peers.svg", "performance-budget.svg", "performance-curves.svg",
    }  # fmt: skip


def _keep_a_run_of_two_peers(date: str) -> None:
    run = next(runs.newest_first("peers", MACHINE))
    samples = {
        measure: {peer: taken for peer, taken in found.items() if peer in {"bananas", "huey"}}
        for measure, found in run["samples"].items()
    }
    with runs.path("peers", MACHINE).open("a") as history:
        history.write(json.dumps(run | {"date": date, "samples": samples}) + "\n")


def _around(text: str) -> str:
    return re.sub(r"(<!-- \w+: begin -->).*?(<!-- \w+: end -->)", r"\1\2", text, flags=re.DOTALL)
