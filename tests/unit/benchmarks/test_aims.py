"""The table of what is to be reached: what counts as reached, and which run is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks import aims, runs
from benchmarks.__main__ import main as bench_command
from benchmarks.budget.__main__ import main as budget_command
from benchmarks.conditions import machine_kind
from benchmarks.curves.__main__ import main as curves_command
from benchmarks.peers.__main__ import main as peers_command
from benchmarks.peers.measures import MEASURES
from benchmarks.peers.peers import PEERS
from benchmarks.setup import Setup

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from benchmarks.peers.stage import Figures

CONDITIONS = {"system": "Linux", "cpu": "some", "cores": 2}
MACHINE = machine_kind(CONDITIONS)


@pytest.fixture(autouse=True)
def _history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "HISTORY", tmp_path)


def keep(command: str, date: str = "2026-11-24T03:00:00Z", **parts: object) -> None:
    """Keep a run with these parts."""
    run = {"date": date, "conditions": CONDITIONS, "parameters": aims.USUAL[command], "cases": {}}
    runs.append(command, run | {"samples": {}} | parts)


def of_peers(measure: str, **rates: float) -> dict[str, dict[str, list[Figures]]]:
    """Return samples of a measure from all who can do it, 1 a second where nothing else is said."""
    able = [peer.name for peer in PEERS if MEASURES[measure].applies(peer)]
    return {measure: {name: [{"per_s": rates.get(name, 1.0)}] for name in able}}


def lines() -> dict[str, list[str]]:
    """Return the cells of each line by what it is of."""
    rows = [line.split(" | ") for line in aims.table(MACHINE).splitlines() if line.startswith("|")]
    return {row[1].strip("| "): [cell.strip("| ") for cell in row[2:]] for row in rows[2:]}


def test_nothing_is_claimed_that_was_not_measured() -> None:
    """Without a history each line says so, and none is reached."""
    assert {cells[2] for cells in lines().values()} == {"not measured"}
    assert aims.table(MACHINE).endswith(
        "0 of 12 are reached in every line, 22 lines are not measured."
    )


def test_the_median_of_the_last_run_decides() -> None:
    """An older run, one with other knobs, and a lucky sample do not count."""
    worse = [{"per_s": rate, "worker_us": 4.0} for rate in (90_000.0, 99_000.0, 300_000.0)]
    keep("bench", samples={"drain": [{"per_s": 200_000.0, "worker_us": 4.0}]})
    keep("bench", "2026-11-24T04:00:00Z", samples={"drain": worse})
    other = Setup(persistence="aof").as_json()
    keep("bench", samples={"drain": [{"per_s": 1.0, "worker_us": 9.0}]}, parameters=other)
    drain = lines()["drain of no-op async jobs"]
    assert drain == ["≥ 100,000/s", "99,000/s", "**missed**", "bench, 2026-11-24 04:00"]
    assert lines()["worker CPU a job, compiled"][2] == "reached"


def test_peers_are_compared_in_one_run() -> None:
    """The best of those in Python counts, and BullMQ for itself."""
    rates = {"bananas": 100.0, "bananas pure": 90.0, "taskiq": 6.0, "SAQ": 4.0, "BullMQ": 10.0}
    keep("peers", samples=of_peers("async", **rates))
    found = lines()
    assert found["… against the best Python peer, async handlers in both"][1:3] == [
        "16.7 × (taskiq 6/s)",  # noqa: RUF001 - times
        "**missed**",
    ]
    assert found["… against BullMQ"][2] == "reached"


@pytest.mark.parametrize(
    ("absent", "of_async", "of_sync"),
    [("taskiq", "03:00", "03:00"), ("RQ", "04:00", "03:00"), ("BullMQ", "03:00", "04:00")],
)
def test_a_measure_that_lacks_a_peer_does_not_count(
    absent: str, of_async: str, of_sync: str
) -> None:
    """Who failed or was not asked might have been the best, where it can do that at all."""
    samples = of_peers("async", bananas=100.0) | of_peers("sync", bananas=100.0)
    keep("peers", samples=samples)
    for found in samples.values():
        found.pop(absent, None)
    keep("peers", "2026-11-24T04:00:00Z", samples=samples)
    line = "… against the best Python peer, {} handlers in both"
    assert lines()[line.format("async")][3] == f"peers, 2026-11-24 {of_async}"
    assert lines()[line.format("blocking")][3] == f"peers, 2026-11-24 {of_sync}"


@pytest.mark.parametrize(
    ("command", "knobs"),
    [
        ("bench", {"durability": "fsync"}),
        ("bench", {"jobs": 300_000}),
        ("bench", {"procs": "1"}),
        ("bench", {"concurrency": 100}),
        ("budget", {"jobs": 100_000}),
        ("curves", {"jobs": 100_000}),
        ("peers", {"jobs": 100_000}),
    ],
)
def test_a_run_with_another_knob_does_not_count(command: str, knobs: dict[str, object]) -> None:
    """Whichever it is; with the usual ones the same run does."""
    samples: dict[str, object] = {
        "drain": [{"per_s": 1.0, "worker_us": 1.0}],
        "life-compiled": [{"enqueue_server_us": 1.0, "server_us": 1.0}],
        **of_peers("async"),
    }
    curves = {"backlog": {"drain": {"50000": [{"per_s": 1.0}], "5000000": [{"per_s": 1.0}]}}}
    other = aims.USUAL[command] | knobs
    keep(command, samples=samples, curves=curves, parameters=other)
    assert {cells[2] for cells in lines().values()} == {"not measured"}
    keep(command, samples=samples, curves=curves)
    assert {cells[2] for cells in lines().values()} != {"not measured"}


@pytest.mark.parametrize(
    ("command", "main"),
    [
        ("bench", bench_command),
        ("budget", budget_command),
        ("curves", curves_command),
        ("peers", peers_command),
    ],
)
def test_the_usual_knobs_are_the_defaults_of_the_command(command: str, main: click.Command) -> None:
    """What a command runs with when nothing is said is what counts here."""
    given = main.make_context(command, []).params
    known = {knob: given[knob] for knob in aims.USUAL[command] if given.get(knob) is not None}
    assert known == {knob: aims.USUAL[command][knob] for knob in known}
    assert "jobs" in known or aims.USUAL[command] == Setup().as_json()


def test_only_half_load_is_half_load() -> None:
    """A latency beside some fixed load says nothing of the aim."""
    fixed = {"p99_ms": 1.0, "asked_per_s": 20_000.0, "load_per_s": 20_000.0}
    keep("bench", samples={"loaded": [fixed]})
    assert lines()["the same at half load: p99"][2] == "not measured"
    keep("bench", samples={"loaded": [fixed | {"drained_per_s": 40_000.0}]})
    assert lines()["the same at half load: p99"][1:3] == [
        "1.00 ms (at 20,000 of 20,000 jobs/s)",
        "reached",
    ]


def test_a_load_that_did_not_come_about_measures_nothing() -> None:
    """The latency beside 94 % of the load is not the one that is to be reached; of 95 % it is."""
    half = {"p99_ms": 1.0, "asked_per_s": 20_000.0, "drained_per_s": 40_000.0}
    keep("bench", samples={"loaded": [half | {"load_per_s": 18_800.0}]})
    assert lines()["the same at half load: p99"][2] == "not measured"
    keep("bench", samples={"loaded": [half | {"load_per_s": 19_000.0}]})
    assert lines()["the same at half load: p99"][2] == "reached"


def test_scripts_are_held_against_native_commands_at_their_worst() -> None:
    """Of the batches that count, the one with the greater ratio."""
    costs = {"scripts-250": 3.0, "scripts-500": 3.0, "pipelined-250": 2.0, "pipelined-500": 1.5}
    cases = {
        f"bench_scripts.py::bench_life[{name}]": {"server_us_per_job": cost}
        for name, cost in costs.items()
    }
    keep("bench", cases=cases)
    assert lines()["… against native commands, pipelined"][1:3] == ["2.0 ×", "**missed**"]  # noqa: RUF001 - times


def test_five_millions_are_held_against_fifty_thousand() -> None:
    """The ratio of the rates, of medians."""
    drains = {"50000": [{"per_s": 100.0}], "5000000": [{"per_s": 96.0}]}
    keep("curves", curves={"backlog": {"drain": drains}})
    found = lines()["5,000,000 waiting against 50,000: of the drain's rate"]
    assert found[1:3] == ["0.96", "reached"]
