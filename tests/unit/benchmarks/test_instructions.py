"""The guard of the hot path: its cases do what they say, and each has a budget over either core."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from benchmarks import ROOT
from benchmarks.instructions import __main__ as counter
from benchmarks.instructions import budget, server, valgrind
from benchmarks.instructions.budget import WRITE
from benchmarks.instructions.cases import CASES
from benchmarks.instructions.reference import TAKES
from benchmarks.instructions.size import BATCH, FEW, MANY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def test_each_case_does_its_batches() -> None:
    """All pieces as they are counted, but without a counter: an API that changed shows here."""
    done = children(CASES)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(CASES)


def test_every_case_has_a_budget_and_every_budget_a_case() -> None:
    """Else a case could grow unseen."""
    assert sorted(budget.read().instructions) == sorted(counter.every())


def children(names: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Let a process of its own do some pieces."""
    words = [sys.executable, "-m", "benchmarks.instructions.cases", *names]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


class Counts:
    """A counter that finds what the budget says, but for some; nothing is run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        """Have a budget of our own, and nothing that cannot be counted."""
        self.budget: dict[str, int] = dict.fromkeys(counter.every(), 1000)
        self.versions: dict[str, str] = {}
        """Of the budget, where others than those that are here."""
        self.found: dict[str, int] = {}
        self.missing: list[tuple[str, str]] = []
        self.path = path
        monkeypatch.setattr(budget, "PATH", path)
        monkeypatch.setattr(counter, "gaps", lambda: iter(self.missing))
        monkeypatch.setattr(counter, "count", self._count)

    def _count(self, core: str, names: Sequence[str]) -> dict[str, float]:
        return {name: float(self.found.get(f"{name}.{core}", 1000)) for name in names}

    def run(self, *words: str) -> Any:  # noqa: ANN401 - click's Result, of which there are two types
        """Compare as the command does."""
        budget.write(self.budget)
        of_here = budget.read().versions
        kept = {"instructions": self.budget, "versions": of_here | self.versions}
        self.path.write_text(json.dumps(kept))
        return CliRunner().invoke(counter.main, words)

    def written(self) -> dict[str, int]:
        """Return the budget as it stands now."""
        return budget.read().instructions


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counts:
    """A counter that runs nothing."""
    return Counts(monkeypatch, tmp_path / "budget.json")


@pytest.mark.parametrize(("found", "status"), [(500, 0), (1000, 0), (1099, 0), (1101, 1)])
@pytest.mark.parametrize("name", ["work.compiled", "work.pure", "enqueue.server"])
def test_more_than_the_slack_is_a_failure(
    counts: Counts, name: str, found: int, status: int
) -> None:
    """A tenth more is over, wherever it is; a little less is no failure."""
    counts.found[name] = found
    result = counts.run()
    assert result.exit_code == status
    assert (f"more than 10%: {name}\n" in result.output) == bool(status)


def test_a_gain_is_pointed_out_with_how_to_keep_it(counts: Counts) -> None:
    """Else the next loss would use it up."""
    counts.found["work.pure"] = 900
    assert WRITE in counts.run().output
    counts.run("--write")
    assert counts.written() == counts.budget | {"work.pure": 900}


@pytest.mark.parametrize("found", [1101])
@pytest.mark.parametrize(
    ("library", "name", "doubtful"),
    [
        ("uvicorn", "post.pure", True),
        ("uvicorn", "work.pure", False),
        ("orjson", "post.compiled", True),
        ("orjson", "work.compiled", True),
        ("orjson", "enqueue.server", False),
    ],
)
def test_with_another_version_of_what_is_counted_too_a_piece_is_told_of(
    counts: Counts, library: str, name: str, found: int, *, doubtful: bool
) -> None:
    """A release of others must not fail an unchanged commit; what it cannot be is a failure."""
    counts.versions[library] = "0.0.1"
    counts.found[name] = found
    result = counts.run()
    assert result.exit_code == (0 if doubtful else 1)
    assert (f"NOT GUARDED: {name} is" in result.output) == doubtful
    (gap,) = counts.run("--gaps").output.splitlines()
    assert gap.startswith("not guarded: ")
    assert f"{library} {version(library)} here, 0.0.1 in the budget" in gap


def test_versions_are_not_written_beside_counts_made_with_others(counts: Counts) -> None:
    """A piece that was not counted anew would seem to be of the versions that are here."""
    counts.versions["uvicorn"] = "0.0.1"
    result = counts.run("--write", "--only", "work")
    assert result.exit_code == 1
    assert "not to be written without request, post, ndjson: uvicorn" in result.output
    assert budget.read().versions["uvicorn"] == "0.0.1"
    assert counts.run("--write", "--only", "request,post,ndjson").exit_code == 0
    assert budget.read().versions["uvicorn"] == version("uvicorn")


def test_a_case_without_a_budget_is_a_failure(counts: Counts) -> None:
    """New is not the same as within: it says how the budget is written, which then passes."""
    del counts.budget["work.pure"]
    result = counts.run()
    assert result.exit_code == 1
    assert "without a budget: work.pure" in result.output
    assert WRITE in result.output
    assert counts.run("--write").exit_code == 0
    assert counts.written()["work.pure"] == 1000


@pytest.mark.parametrize("words", [(), ("--only", "work")])
def test_a_budget_without_its_case_is_a_failure(counts: Counts, words: tuple[str, ...]) -> None:
    """A case that was renamed or lost is counted no more, whatever part of them is asked for."""
    counts.budget["lost.compiled"] = 7
    result = counts.run(*words)
    assert result.exit_code == 1
    assert "in the budget, but no case: lost.compiled" in result.output
    assert counts.run("--write", *words).exit_code == 0
    assert "lost.compiled" not in counts.written()


def test_what_cannot_be_counted_here_is_said_and_keeps_its_budget(counts: Counts) -> None:
    """Another Redis than the budget's: the rest is compared, and who writes, writes the rest."""
    counts.missing.append(("server", "no such Redis"))
    counts.found["work.pure"] = 990
    assert "not counted: *.server: no such Redis" in counts.run().output
    assert "not counted: *.server: no such Redis" in counts.run("--gaps").output
    counts.run("--write")
    assert counts.written() == counts.budget | {"work.pure": 990}


def test_without_valgrind_nothing_passes(counts: Counts) -> None:
    """It is a failure, except when asked what is missing."""
    counts.missing.append(("", "valgrind is not installed"))
    assert counts.run().exit_code == 1
    assert counts.run("--write").exit_code == 1
    assert counts.run("--gaps").exit_code == 0


def test_a_core_that_was_not_built_although_it_could_be_is_no_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broken build would otherwise look like a machine without a compiler."""
    monkeypatch.setattr(valgrind, "here", lambda: True)
    monkeypatch.setattr(counter, "_here", lambda: counter._PYTHON)
    monkeypatch.setattr(counter, "COMPILED", False)
    monkeypatch.setattr(counter, "_can_build", lambda: True)
    monkeypatch.delenv("BANANAS_PURE", raising=False)
    assert CliRunner().invoke(counter.main, ["--gaps"]).exit_code == 1
    monkeypatch.setattr(counter, "_can_build", lambda: False)
    result = CliRunner().invoke(counter.main, ["--gaps"])
    assert result.exit_code == 0
    assert "*.compiled" in result.output


def test_another_architecture_has_no_counts_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the cores nor of the server, whose counts nothing scales."""
    monkeypatch.setattr(valgrind, "here", lambda: True)
    monkeypatch.setattr(server, "here", lambda: True)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert dict(counter.gaps()).keys() == {"compiled", "pure", "server"}


def test_the_counts_of_a_core_are_of_its_two_children_and_relative_to_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The names and processes are what the pieces tell; only who counts them is replaced."""
    asked: list[str] = []

    def counted(words: Sequence[str], environment: dict[str, str]) -> tuple[str, dict[int, int]]:
        asked.append(environment.get("BANANAS_PURE", ""))
        done = children(words[3:])
        processes = [int(word) for line in done.stdout.splitlines() for word in line.split()[1:]]
        jobs = (MANY - FEW) * BATCH
        first, again = 2 * TAKES * jobs, 500 * jobs  # a Python that takes twice as many
        return done.stdout, dict(zip(processes, (7, 7 + first, 9, 9 + again), strict=True))

    monkeypatch.setattr(valgrind, "counted", counted)
    assert counter.count("pure", ["ids"]) == {"ids": 250.0}
    assert counter.count("compiled", ["ids"]) == {"ids": 250.0}
    assert asked == ["1", ""]


def test_a_piece_that_fails_is_told() -> None:
    """A child's error must not pass for a small count."""
    assert children(["none"]).returncode == 1


def test_a_piece_that_takes_too_long_is_named() -> None:
    """Its child is ended, and does not outlive its parent."""
    words = """
import asyncio
from benchmarks.instructions import cases
async def hang(_): await asyncio.Event().wait()
cases._ALL_S = 1
cases.CASES["ids"] = lambda: hang
cases.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", words, "ids"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "ids: not done 1 s after the first began\n"


def test_a_core_that_takes_too_long_is_told_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may be slower than any that was thought of."""
    forever = "import signal; signal.pause()"
    monkeypatch.setattr(valgrind, "COMMAND", (sys.executable, "-c", forever))
    monkeypatch.setattr(valgrind, "_RUN_S", 0.1)
    with pytest.raises(click.ClickException, match=r"^cases ids: not done after 0\.1 s$"):
        valgrind.counted(["cases", "ids"], {})


def test_a_log_has_a_count_for_each_process(tmp_path: Path) -> None:
    """As valgrind writes it when a process forks, in the order in which they end."""
    log = tmp_path / "log"
    log.write_text(
        "==11== Command: python\n==12== \n==12== I   refs:      1,234,567\n"
        "==11== \n==11== I refs:  89\n"
    )
    assert valgrind.read(log) == {12: 1_234_567, 11: 89}
