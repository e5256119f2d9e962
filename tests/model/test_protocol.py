"""The protocol as such, checked: all that can happen to one job, and what each rule is for."""

from __future__ import annotations

import pytest

from breadth_first import STUCK, Finding, search
from protocol_model import (
    CANCELLED,
    EXPLAINED,
    FENCING,
    FINALITY,
    LOST,
    ONCE,
    ONE_PLACE,
    SAME_ANSWER,
    Bounds,
    Protocol,
    Rules,
    State,
    is_accepted,
    is_end,
    start,
)

CALM = Bounds(network=2, kills=0, lapses=0)
OPERATED = Bounds(network=2, kills=0, lapses=0, operator=("cancel", "revive"))
KILLED = Bounds(network=2, kills=1, lapses=0, retries=0)
LAPSED = Bounds(network=2, kills=0, lapses=1, retries=0)

#: What one rule less leads to. Found within seconds, or the bounds above hide it.
MUTANTS: dict[str, tuple[Rules, Bounds, str]] = {
    "enqueue is blind": (Rules(enqueue_remembers=False), CALM, ONE_PLACE),
    "dequeue is blind": (Rules(dequeue_remembers=False), CALM, FENCING),
    "requests are forgotten too soon": (Rules(memory_outlives_copies=False), CALM, FINALITY),
    "popped first, leased later": (Rules(lease_with_the_pop=False), CALM, LOST),
    "a dead epoch may lease": (Rules(dequeue_checks_epoch=False), KILLED, STUCK),
    "the epoch is the token": (Rules(settle_checks="epoch"), CALM, FENCING),
    "no token": (Rules(settle_checks=""), CALM, FENCING),
    "the deadline is not checked again": (Rules(reclaim_rechecks=False), LAPSED, EXPLAINED),
    "reclaim in two steps": (Rules(reclaim_in_one_step=False), LAPSED, ONE_PLACE),
    "nobody reclaims": (Rules(reclaims=False), KILLED, STUCK),
    "nobody reconciles": (Rules(reconciles=False), CALM, STUCK),
    "reconcile names what stays": (Rules(reconcile_names="known"), CALM, EXPLAINED),
    "what is under way is unknown": (Rules(in_flight_is_known=False), CALM, EXPLAINED),
    "promotion in two steps": (Rules(promote_in_one_step=False), CALM, ONE_PLACE),
    "cancel does not look at leases": (Rules(cancel_checks_leases=False), OPERATED, CANCELLED),
    "cancel is forgotten": (Rules(cancel_remembers=False), OPERATED, SAME_ANSWER),
    "revive is forgotten": (Rules(revive_remembers=False), OPERATED, ONCE),
    "the intake starts what it gets": (Rules(intake_looks_at_record=False), OPERATED, CANCELLED),
}

#: Kinds of steps, each of them taken; a model that cannot take one shows less than it says.
KINDS = {
    *("enqueue", "register", "dequeue", "settle", "reconcile", "reclaim", "cancel", "revive"),
    *("promote", "kill", "lapse", "beat", "send", "begin", "give up"),
}


def check(rules: Rules, bounds: Bounds) -> Finding[State]:
    """Visit everything within the bounds."""
    protocol = Protocol(rules, bounds)
    return search(start(bounds), protocol.steps, is_end=is_end, must_end=is_accepted)


@pytest.mark.slow
def test_everything_holds() -> None:
    """No order of calls, copies, losses, deaths and lapses breaks a promise or strands the job."""
    seen: set[str] = set()
    for bounds in (KILLED, LAPSED, OPERATED):
        found = check(Rules(), bounds)
        assert not found.broken, str(found)
        seen |= found.seen
    assert seen == KINDS


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(network=3, kills=1, lapses=0, retries=1),
        Bounds(network=3, kills=0, lapses=1, retries=0),
        Bounds(network=2, kills=1, lapses=1, retries=1),
        Bounds(network=3, kills=0, lapses=0, retries=1, operator=("cancel", "revive")),
        Bounds(network=2, kills=1, lapses=0, retries=1, operator=("cancel", "revive")),
    ],
    ids=str,
)
def test_everything_holds_in_wider_bounds(bounds: Bounds) -> None:
    """The same with more calls under way and several faults in one life."""
    found = check(Rules(), bounds)
    assert not found.broken, str(found)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_rule_is_needed(name: str) -> None:
    """Without any one rule the search finds the promise that it keeps broken."""
    rules, bounds, broken = MUTANTS[name]
    found = check(rules, bounds)
    assert found.broken == broken, str(found)
    assert found.trace
