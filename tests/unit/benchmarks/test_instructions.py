"""The guard of the hot path: its cases do what they say, and each has a budget over either core."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks.instructions import __main__ as counter
from benchmarks.instructions import server
from benchmarks.instructions.cases import CASES


@pytest.mark.parametrize("name", CASES)
async def test_a_case_does_its_batches(name: str) -> None:
    """The pieces themselves, without a counter: an API that changed shows here at once."""
    await CASES[name]()(2)


def test_every_case_has_a_budget() -> None:
    """Else a case could grow unseen."""
    budget = json.loads(counter.BUDGET.read_text())
    cases = [f"{case}.{core}" for case in CASES for core in ("compiled", "pure")]
    assert sorted(budget) == sorted([*cases, *(f"{case}.server" for case in server.CASES)])


@pytest.mark.parametrize(("grown", "status"), [(1.0, 0), (1.09, 0), (1.11, 1), (0.5, 0)])
def test_more_than_the_slack_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, grown: float, status: int
) -> None:
    """A tenth more is over; less is no failure."""
    budget = json.loads(counter.BUDGET.read_text())
    monkeypatch.setattr(counter, "count_case", lambda case, core: budget[f"{case}.{core}"] * grown)
    assert CliRunner().invoke(counter.main, []).exit_code == status
