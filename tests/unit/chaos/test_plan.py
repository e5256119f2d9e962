"""The plan of faults: a seed repeats it, a whole cycle holds every fault."""

from __future__ import annotations

from itertools import pairwise

import pytest

from chaos.judge import SOMETIMES
from chaos.plan import POINTS, SECONDS, cycle_s, make_plan


def test_a_seed_repeats_its_plan() -> None:
    """The same seed and length, the same plan; another seed, another."""
    assert make_plan(7, 200) == make_plan(7, 200)
    assert make_plan(7, 200) != make_plan(8, 200)


@pytest.mark.parametrize("seed", range(20))
def test_a_long_plan_holds_every_fault(seed: int) -> None:
    """And with it all that brings about what must have happened; none overlaps another."""
    plan = make_plan(seed, 1.3 * cycle_s())
    assert {step.kind for step in plan} == SECONDS.keys()
    happened = {step.kind for step in plan} | {step.detail.partition("=")[0] for step in plan}
    needed = {need for needs in SOMETIMES.values() for need in needs} - {"blocker", "poison"}
    assert needed <= happened
    assert all(a.at_s + a.seconds < b.at_s for a, b in pairwise(plan))


def test_a_plan_ends_in_time() -> None:
    """The last fault is over when the time is."""
    for seconds in (20, 60, 175, 1000):
        last = make_plan(3, seconds)[-1]
        assert last.at_s + last.seconds <= seconds


def test_a_soak_comes_by_every_fail_point() -> None:
    """Each has its turn."""
    details = {step.detail for step in make_plan(5, 20_000)}
    assert {d.partition("=")[2].partition(":")[0] for d in details if "fail" in d} == {*POINTS}
