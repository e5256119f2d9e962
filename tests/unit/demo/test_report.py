"""The demo's judgement of itself: what came out is compared with what went in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bananas.demo.dataset import flights
from bananas.demo.report import Summary, checksum, measure, plot, stored_checksum
from bananas.demo.tasks import Lookups, joined, open_database, problem
from flights import write_package

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with 20 flights."""
    return write_package(tmp_path, 20)


@pytest.fixture
def database(data: Path, tmp_path: Path) -> Path:
    """Return a database in which they are stored, each two seconds after it was sent."""
    path = tmp_path / "flights.sqlite"
    lookups = Lookups(data)
    with open_database(path) as connection:
        for row in flights(data):
            sent_us = row["n"] * 1_000_000
            values = (*joined(row | {"sent_us": sent_us}, lookups), sent_us + 2_000_000)
            marks = ",".join("?" * len(values))
            connection.execute(f"INSERT INTO flights VALUES ({marks})", values)  # noqa: S608 - marks
    connection.close()
    return path


def judged(data: Path, database: Path) -> Summary:
    """Return what the demo would say of these."""
    summary = Summary(rows_in=20, submit_s=2, total_s=4)
    measure(summary, database)
    summary.contents_equal = stored_checksum(database) == sum(map(checksum, flights(data)))
    return summary


def test_equal_contents_are_complete(data: Path, database: Path) -> None:
    """Counts, speed and waits are those of the rows."""
    summary = judged(data, database)
    assert summary.complete
    assert (summary.rows_stored, summary.jobs_per_s, summary.submitted_per_s) == (20, 5, 10)
    assert (summary.wait_p50_ms, summary.wait_p99_ms, summary.wait_max_ms) == (2000, 2000, 2000)
    assert summary.to_dict()["complete"] is True


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM flights WHERE n = 7",
        "UPDATE flights SET distance = 1 WHERE n = 7",
        "UPDATE flights SET n = 21 WHERE n = 7",
    ],
)
def test_a_row_lost_or_changed_is_not_complete(data: Path, database: Path, damage: str) -> None:
    """One row of all is enough, even where the count is right."""
    connection = open_database(database)
    with connection:
        connection.execute(damage)
    connection.close()
    assert not judged(data, database).complete


def test_nothing_stored_is_nothing_drawn(tmp_path: Path) -> None:
    """An empty table has no waits and no picture."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "empty.sqlite"
    open_database(path).close()
    summary = Summary(rows_in=1)
    measure(summary, path)
    assert (summary.rows_stored, summary.wait_max_ms, summary.jobs_per_s) == (0, 0, 0)
    assert not plot(summary, path, tmp_path / "demo.png")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("month", 0),
        ("hour", None),
        ("distance", "far"),
        ("flight", "1"),
        ("carrier", "ZZ"),
        ("origin", "???"),
        ("dest", 7),
    ],
)
def test_a_broken_rule_is_told_with_its_field(data: Path, field: str, value: Any) -> None:  # noqa: ANN401
    """The sound row passes; the spoiled one is refused for that field."""
    lookups = Lookups(data)
    (row,) = flights(data, 1)
    assert problem(row, lookups) is None
    told = problem(row | {field: value}, lookups)
    assert told is not None
    assert told.startswith(f"{field}: ")
