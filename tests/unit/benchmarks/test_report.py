"""What the harness says of its figures; how fast anything is, no test says."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import runs
from benchmarks.__main__ import main
from benchmarks.conditions import conditions, machine_kind
from benchmarks.publish import put_in
from benchmarks.report import notes, plot, said_conditions, spread, table
from benchmarks.scenarios import SCENARIOS
from benchmarks.setup import Setup

SAMPLES = {
    "drain": [
        {"per_s": 90_000.0, "worker_us": 6.0, "server_us": 4.0},
        {"per_s": 50_000.0, "worker_us": 9.0, "server_us": 5.0},
        {"per_s": 60_000.0, "worker_us": 7.0, "server_us": 4.5},
    ],
    "idle": [{"p50_ms": 0.5, "p99_ms": 2.5}],
}


@pytest.fixture(scope="module")
def run() -> dict[str, Any]:
    """Return a run as the harness keeps it."""
    return {
        "commit": "0123456789ab",
        "dirty": True,
        "date": "2026-11-24T03:00:00Z",
        "conditions": conditions(),
        "parameters": Setup().as_json(),
        "repeats": 3,
        "samples": SAMPLES,
        "cases": {},
        "load_at_end": [0.5, 0.5, 0.5],
    }


def test_spread_is_minimum_median_maximum() -> None:
    """A figure is told by its least, middle and greatest sample; one that was not taken is none."""
    assert spread(SAMPLES["drain"], "per_s") == (50_000.0, 60_000.0, 90_000.0)
    assert spread(SAMPLES["drain"], "p50_ms") is None


def test_table_shows_every_scenario_with_its_target() -> None:
    """A line a scenario: median, spread, and how far from what is to be reached."""
    head, _, drain, idle = table(SAMPLES).splitlines()
    assert len({line.count("|") for line in (head, drain, idle)}) == 1
    assert "**60,000**" in drain
    assert "100,000 (60%)" in drain
    assert "p50 ≤ 0.6 ms (yes), p99 ≤ 2 ms (no)" in idle


def test_a_load_is_told_with_what_was_reached_of_it() -> None:
    """Beside a latency under load stand the rate asked for and the one that came about."""
    fixed = {"p50_ms": 0.5, "p99_ms": 3.0, "asked_per_s": 60_000.0, "load_per_s": 58_000.0}
    assert "under load: 58,000 jobs/s of 60,000 asked for |" in table({"loaded": [fixed]})
    half = fixed | {"drained_per_s": 120_000.0}
    of_half = table({"loaded": [half]})
    assert "under load: half of a drain, 58,000 jobs/s of 60,000" in of_half
    assert "p99 ≤ 10 ms (yes)" in of_half
    short = table({"loaded": [half | {"load_per_s": 56_000.0}]})
    assert "56,000 jobs/s of 60,000" in short
    assert "≤" not in short
    of_any = table({"loaded": [{"p50_ms": 0.5, "p99_ms": 3.0}]})
    assert "the same under load |" in of_any
    assert "≤" not in of_any


def test_what_has_no_column_is_told_beneath() -> None:
    """An idle fleet and a waiting job are no lines of the table, but sentences."""
    samples = {
        "drain": [{"per_s": 1.0, "other_us": 0.1}],
        "fleet": [
            {"sent_per_s": 4.0, "commands_per_s": 90.0}
            | {f"{role}_cpu_ms": 2.0 for role in ("worker", "warden", "supervisor", "server")}
        ],
        "memory": [{"bytes": 670.0, "beside_bytes": 198.0, "at_once_bytes": 700.0}],
    }
    assert len(table(samples).splitlines()) == 3
    fleet, job, others = notes(samples).splitlines()
    assert "**4.0** (4.0–4.0) times a second" in fleet  # noqa: RUF001 - a range
    assert "**198.0** (198.0–198.0) beside its record of 472" in job  # noqa: RUF001 - a range
    assert "0.1 to 0.1 µs" in others
    assert not notes({"idle": SAMPLES["idle"]})


def test_history_keeps_a_line_a_run(
    tmp_path: Path, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs are added to what is there, each one line that reads back as it was."""
    monkeypatch.setattr(runs, "HISTORY", tmp_path / "history")
    later = run | {"date": "2026-11-24T04:00:00Z"}
    path = runs.append("bench", run)
    assert runs.append("bench", later) == path
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [run, later]
    kind = machine_kind(run["conditions"])
    assert list(runs.newest_first("bench", kind)) == [later, run]
    assert runs.newest("bench", kind, lambda kept: kept["date"] < later["date"]) == run
    assert list(runs.newest_first("curves", kind)) == []


def test_history_names_no_host_and_no_path(run: dict[str, Any]) -> None:
    """Conditions tell the kind of machine, not which one it is, nor where things lie on it."""
    text = json.dumps(run["conditions"])
    assert socket.gethostname() not in text
    assert "/" not in text.replace("redis/", "").replace("valkey/", "")
    kind = machine_kind(run["conditions"])
    assert kind == Path(kind).name
    assert f"{run['conditions']['cores']}-cores" in kind


def test_conditions_are_told_with_their_figures(run: dict[str, Any]) -> None:
    """Load, cores, versions and commit stand beside every table."""
    said = said_conditions(run)
    for part in (
        "0123456789ab and changes",
        "load at start",
        "uvloop",
        "100,000 jobs",
        "3 repeats",
    ):
        assert part in said


def test_figures_go_between_their_marks() -> None:
    """A document keeps all but what stands between the marks; one without them is refused."""
    begin, end = "<!-- figures: begin -->", "<!-- figures: end -->"
    assert put_in(f"a {begin} old {end} b", "new") == f"a {begin}\nnew\n{end} b"
    with pytest.raises(ValueError, match="no place"):
        put_in("nothing", "new")


def test_every_scenario_changes_what_a_setup_has() -> None:
    """A scenario's changes name knobs that exist."""
    for scenario in SCENARIOS.values():
        assert scenario.setup(Setup()).jobs == Setup().jobs


def test_unknown_scenario_is_refused_by_name() -> None:
    """A name that is none is said, with those that are."""
    outcome = CliRunner().invoke(main, ["--only", "drain,brain"])
    assert outcome.exit_code == 2
    assert '"brain" is none of drain' in outcome.output.replace("\n", " ")


def test_plot_is_drawn(tmp_path: Path) -> None:
    """Rates and CPU become a picture; equal figures make an equal one."""
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    plot(SAMPLES, first)
    plot(SAMPLES, second)
    assert first.read_bytes() == second.read_bytes()
    assert b"<svg" in first.read_bytes()
