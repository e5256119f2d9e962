"""The demo's application: one batch task that validates, joins and stores flights.

Nothing in it is special to the demo: it is what a user's own ingestion looks like. A row
may come twice (a job may run twice), so its number is the key of the table.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bananas.app import Bananas
from bananas.demo.dataset import table
from bananas.registry import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

app = Bananas()

DATABASE: Final = "DEMO_DATABASE"
"""Variable that names the SQLite file."""

DATA: Final = "DEMO_DATA"
"""Variable that names the folder of the data files."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS flights (
    n INTEGER PRIMARY KEY, flown_at TEXT NOT NULL, carrier TEXT NOT NULL, airline TEXT NOT NULL,
    flight INTEGER NOT NULL, tailnum TEXT, model TEXT, seats INTEGER,
    origin TEXT NOT NULL, origin_name TEXT NOT NULL, dest TEXT NOT NULL, dest_name TEXT,
    distance INTEGER NOT NULL, dep_delay INTEGER, arr_delay INTEGER, air_time INTEGER,
    temp_f REAL, wind_mph REAL, visib_miles REAL,
    sent_us INTEGER NOT NULL, stored_us INTEGER NOT NULL
) WITHOUT ROWID
"""

_COLUMNS: Final = 21
_INSERT: Final = f"INSERT OR IGNORE INTO flights VALUES ({','.join('?' * _COLUMNS)})"  # noqa: S608 - marks

_MONTHS: Final = 12
_LAST_HOUR: Final = 23


class Lookups:
    """The four small tables, read once a process."""

    def __init__(self, data: Path) -> None:
        """Read them."""
        self.airlines = {row["carrier"]: row["name"] for row in table(data, "airlines")}
        self.airports = {row["faa"]: row["name"] for row in table(data, "airports")}
        self.planes = {
            row["tailnum"]: (row["model"], _integer(row["seats"])) for row in table(data, "planes")
        }
        self.weather = {
            (row["origin"], row["time_hour"]): (
                _real(row["temp"]),
                _real(row["wind_speed"]),
                _real(row["visib"]),
            )
            for row in table(data, "weather")
        }


class Store:
    """One process's connection to the database and its look-up tables."""

    def __init__(self) -> None:
        """Open the files that the environment names."""
        self.lookups = Lookups(Path(os.environ[DATA]))
        self.connection = open_database(Path(os.environ[DATABASE]))

    def insert(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Store rows in one transaction."""
        with self.connection:
            self.connection.executemany(_INSERT, rows)


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database; several processes write to it, one at a time."""
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(SCHEMA)
    return connection


_store: Store | None = None
_lock = threading.Lock()


def _opened() -> Store:
    global _store  # noqa: PLW0603 - one connection a process, made after the fork
    if _store is None:
        _store = Store()
    return _store


@app.batch_task(max_size=500, linger_s=0.05, retention_s=0, max_retries=3)
def load_flights(rows: list[dict[str, Any]]) -> list[Outcome]:
    """Validate flights, join them with the other tables, store them; a verdict a row."""
    outcomes: list[Outcome] = []
    stored: list[tuple[Any, ...]] = []
    with _lock:
        store = _opened()
        stored_us = time.time_ns() // 1000
        for row in rows:
            wrong = problem(row, store.lookups)
            if wrong is None:
                stored.append((*joined(row, store.lookups), stored_us))
                outcomes.append(Outcome.ok())
            else:
                outcomes.append(Outcome.dead(wrong))
        store.insert(stored)
    return outcomes


def problem(row: dict[str, Any], lookups: Lookups) -> str | None:  # noqa: PLR0911 - one a rule
    """Return the field and the rule that a row breaks, or None."""
    month, hour, distance = row.get("month"), row.get("hour"), row.get("distance")
    if not isinstance(month, int) or not 1 <= month <= _MONTHS:
        return f"month: must be 1..12, not {month!r}"
    if not isinstance(hour, int) or not 0 <= hour <= _LAST_HOUR:
        return f"hour: must be 0..23, not {hour!r}"
    if not isinstance(distance, int) or distance <= 0:
        return f"distance: must be a number of miles > 0, not {distance!r}"
    if not isinstance(row.get("flight"), int):
        return f"flight: must be a number, not {row.get('flight')!r}"
    if row.get("carrier") not in lookups.airlines:
        return f"carrier: no airline has the code {row.get('carrier')!r}"
    if row.get("origin") not in lookups.airports:
        return f"origin: no airport has the code {row.get('origin')!r}"
    if not isinstance(row.get("dest"), str):
        return f"dest: must be an airport's code, not {row.get('dest')!r}"
    return None


def joined(row: dict[str, Any], lookups: Lookups) -> tuple[Any, ...]:
    """Return a valid row with what the other tables know of it, `stored_us` left to the caller."""
    model, seats = lookups.planes.get(row["tailnum"], (None, None))
    temp, wind, visib = lookups.weather.get((row["origin"], row["time_hour"]), (None, None, None))
    return (
        row["n"],
        row["time_hour"],
        row["carrier"],
        lookups.airlines[row["carrier"]],
        row["flight"],
        row["tailnum"],
        model,
        seats,
        row["origin"],
        lookups.airports[row["origin"]],
        row["dest"],
        lookups.airports.get(row["dest"]),
        row["distance"],
        row["dep_delay"],
        row["arr_delay"],
        row["air_time"],
        temp,
        wind,
        visib,
        row["sent_us"],
    )


def _integer(text: str) -> int | None:
    return None if text in ("", "NA") else int(text)


def _real(text: str) -> float | None:
    return None if text in ("", "NA") else float(text)
