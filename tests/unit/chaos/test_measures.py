"""What a chaos run measures: recovery after a fault, and growth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from chaos.growth import LEAST, Series
from chaos.judge import quantiles
from chaos.ledger import Pen, Reader
from chaos.recovery import of, table

if TYPE_CHECKING:
    from pathlib import Path


def start(job_id: str, at: float, pid: int) -> dict[str, Any]:
    """Return the entry of a start."""
    return {"what": "start", "id": job_id, "at": at, "pid": pid}


def over(at: float, began: float, *victims: int, **fields: object) -> dict[str, Any]:
    """Return the entry of a fault that is over."""
    entry = {"what": "over", "kind": "worker-killed", "at": at, "began": began}
    return {**entry, "victims": [*victims], "served": [], **fields}


def test_recovery_is_from_the_fault_to_the_runs_of_what_its_victims_held() -> None:
    """The first and the last of them; what others held, or what was done, does not count."""
    entries = [
        start("held", 1.0, 7),
        start("held too", 1.1, 7),
        start("done", 1.2, 7),
        start("elsewhere", 1.3, 8),
        start("asked", 1.4, 7),
        {"what": "end", "id": "asked", "at": 1.5, "pid": 7, "how": "retry"},
        over(2.5, 2.0, 7),
        start("held", 2.75, 8),
        start("elsewhere", 2.8, 7),
        start("held too", 4.0, 8),
        start("asked", 9.0, 8),
    ]
    (one,) = of(entries)
    assert (one.held, one.first, one.last, one.service) == (2, 0.75, 2.0, 0.25)
    assert table([one]) == {
        "worker-killed": {
            "faults": 1,
            "held": 2,
            "overtaken": 0,
            "service": [0.25, 0.25, 0.25],
            "first": [0.75, 0.75, 0.75],
            "last": [2.0, 2.0, 2.0],
        }
    }


def test_a_fault_of_one_fleets_connections_is_over_when_that_fleet_goes_on() -> None:
    """The others never stopped."""
    entries = [over(2.0, 1.0, served=[7]), start("a", 2.1, 8), start("b", 3.5, 7)]
    assert of(entries)[0].service == 1.5


def test_a_fault_after_which_nothing_runs_has_no_recovery() -> None:
    """None is not a figure."""
    (one,) = of([start("a", 1.0, 7), over(2.0, 1.5, 7)])
    assert (one.service, one.first, one.last, one.held) == (None, None, None, 0)
    assert table([one])["worker-killed"]["first"] is None


def test_the_next_fault_is_no_recovery_of_the_last() -> None:
    """Where another fault comes first, it is that one which is waited for."""
    entries = [over(2.0, 1.0), {"what": "fault", "at": 3.0}, start("a", 9.0, 8)]
    assert of(entries)[0].service is None
    assert table(of(entries))["worker-killed"]["overtaken"] == 1


def test_quantiles_are_values_that_occurred() -> None:
    """The median, the 99th percentile, the largest."""
    assert quantiles([3.0]) == (3.0, 3.0, 3.0)
    assert quantiles([float(n) for n in range(1, 1001)]) == (500.0, 990.0, 1000.0)


@pytest.mark.parametrize(
    ("values", "grows"),
    [
        ([100.0] * 40, False),
        ([100.0 + n for n in range(40)], True),
        ([300.0] + [100.0] * 39, False),
        ([100.0 + n for n in range(LEAST - 1)], False),  # too few to say
    ],
)
def test_growth_is_a_last_third_above_the_first(values: list[float], *, grows: bool) -> None:
    """Beyond the slack; a peak is no growth."""
    assert bool(Series("fds", values, slack=2.0, share=0.0).grows()) is grows


def test_a_ledger_is_read_as_it_grows_and_by_whole_lines(tmp_path: Path) -> None:
    """Half a line waits for its other half."""
    path = tmp_path / "ledger"
    pen, reader = Pen(path), Reader(path)
    pen.note("start", id="a")
    assert [entry["id"] for entry in reader.more()] == ["a"]
    pen.note("start", id="b")
    with path.open("ab") as file:
        file.write(b'{"what":"st')
    assert [entry["id"] for entry in reader.more()] == ["b"]
    with path.open("ab") as file:
        file.write(b'art","id":"c"}\n')
    assert [entry["id"] for entry in reader.more()] == ["c"]
    pen.close()
