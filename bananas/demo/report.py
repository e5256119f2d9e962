"""What the demo found out: figures for people, for programs, and as a picture."""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CHECKED: Final = ("n", "carrier", "flight", "origin", "dest", "distance", "air_time")


@dataclass(slots=True)
class Summary:
    """The whole run in figures.

    Waits are from the moment a row was written to the socket until it was stored.
    """

    rows_in: int = 0
    rows_stored: int = 0
    dead_lettered: int = 0
    repaired: int = 0
    contents_equal: bool = False
    submit_s: float = 0.0
    total_s: float = 0.0
    wait_p50_ms: float = 0.0
    wait_p99_ms: float = 0.0
    wait_max_ms: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict[str, float])
    server: str = ""
    core: str = ""
    processes: int = 0
    plot: str = ""

    @property
    def jobs_per_s(self) -> float:
        """Rows from first byte to last row stored, a second."""
        return self.rows_in / self.total_s if self.total_s else 0.0

    @property
    def submitted_per_s(self) -> float:
        """Rows accepted by the API a second."""
        return self.rows_in / self.submit_s if self.submit_s else 0.0

    @property
    def complete(self) -> bool:
        """Whether every row went in once and came out once."""
        return self.rows_in == self.rows_stored and self.contents_equal

    def to_dict(self) -> dict[str, Any]:
        """Return everything, derived figures included."""
        return {
            **asdict(self),
            "jobs_per_s": round(self.jobs_per_s),
            "submitted_per_s": round(self.submitted_per_s),
            "complete": self.complete,
        }


def measure(summary: Summary, database: Path) -> None:
    """Fill in what the database tells: rows, distance, waits."""
    connection = sqlite3.connect(database)
    try:
        (count,) = connection.execute("SELECT count(*) FROM flights").fetchone()
        summary.rows_stored = count
        waits = [
            row[0] / 1000
            for row in connection.execute("SELECT stored_us - sent_us AS w FROM flights ORDER BY w")
        ]
    finally:
        connection.close()
    if waits:
        summary.wait_p50_ms = waits[len(waits) // 2]
        summary.wait_p99_ms = waits[int(len(waits) * 0.99)]
        summary.wait_max_ms = waits[-1]


def checksum(row: Mapping[str, Any]) -> int:
    """Return a number for what a row says; their sum tells whether all rows are the same."""
    said = "|".join(str(row[name]) for name in CHECKED)
    return zlib.crc32(said.encode())


def stored_checksum(database: Path) -> int:
    """Return the sum of the checksums of all rows stored."""
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    try:
        return sum(checksum(dict(row)) for row in connection.execute("SELECT * FROM flights"))
    finally:
        connection.close()


def plot(summary: Summary, database: Path, path: Path) -> bool:
    """Draw rows sent and stored over time, and the wait over time; False without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    connection = sqlite3.connect(database)
    try:
        rows = connection.execute(
            "SELECT sent_us, stored_us FROM flights ORDER BY sent_us"
        ).fetchall()
    finally:
        connection.close()
    if not rows:
        return False
    start = rows[0][0]
    sent = [(sent_us - start) / 1e6 for sent_us, _ in rows]
    stored = sorted((stored_us - start) / 1e6 for _, stored_us in rows)
    numbers = range(1, len(rows) + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    left.plot(sent, numbers, label="written to the API", color="#8a8a8a", linewidth=2)
    left.plot(stored, numbers, label="stored in SQLite", color="#e0a800", linewidth=2)
    left.set(
        xlabel="seconds",
        ylabel="rows",
        title=f"{len(rows):,} flights, {summary.jobs_per_s:,.0f} a second",
    )
    left.legend(frameon=False)
    step = max(1, len(rows) // 4000)
    right.plot(
        sent[::step],
        [(stored_us - sent_us) / 1e6 for sent_us, stored_us in rows[::step]],
        ".",
        markersize=2,
        color="#3b7a57",
    )
    right.set(xlabel="sent at, seconds", ylabel="seconds until stored", title="wait of each row")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(str(path), dpi=110)  # pyright: ignore[reportUnknownMemberType] - no stub
    plt.close(figure)
    return True
