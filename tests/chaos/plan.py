"""The plan of faults: a pure function of a seed and a length, so that a seed repeats a run.

What a plan cannot fix is timing: the same faults meet the same fleets in the same order,
and which of their instructions they hit is up to the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

FLEETS = ("left", "right")
"""The two that are harmed; `right` reaches the server through the proxy."""

LEASE_S = 8.0
"""Longer than the transport's patience with a lost answer (5 s), as the default (15 s) is."""

LONG_S = LEASE_S + 2.5

CUT_OFF_S = 27.0
"""Longer than a call is repeated (25 s): what a lost answer had brought is known to nobody then."""

POINTS = (
    "before_dequeue",
    "after_dequeue_sent",
    "after_dequeue_reply",
    "before_start",
    "mid_job",
    "before_settle",
    "after_settle_sent",
    "after_settle_reply",
    "before_reconcile",
    "before_promote",
    "after_promote_sent",
    "after_beat_sent",
    "after_lapsed_reply",
    "before_reclaim",
    "after_reclaim_sent",
)
"""Where a process may be told to end itself; see `bananas.failpoints`."""

_RARE = {
    "before_reconcile": (2, 4),
    "after_beat_sent": (2, 5),
    "after_lapsed_reply": (3, 9),
    "before_reclaim": (2, 2),
    "after_reclaim_sent": (2, 2),
}
"""Which passage, for points that are not passed with each job."""

_CLOCKS = ("+3600s", "-3600s")


@dataclass(frozen=True)
class Step:
    """One fault.

    Attributes:
        at_s: When, from the start.
        kind: Which, as in `SECONDS`.
        fleet: Whom it meets, if it is not the server.
        chance: From [0, 1): picks the victim among those that live then.
        seconds: How long it lasts.
        detail: What a fleet is started again with: "fail=point:n", "clock=+3600s" or "".
    """

    at_s: float
    kind: str
    fleet: str
    chance: float
    seconds: float
    detail: str = ""


SECONDS: dict[str, float] = {
    "worker-killed": 0.0,
    "worker-stopped": 2.0,
    "worker-stopped-long": LONG_S,
    "warden-killed": 0.0,
    "warden-stopped-long": LONG_S,
    "fleet-stopped-long": LONG_S,
    "supervisor-killed": 1.0,
    "host-killed": 1.0,
    "fleet-restarted": 4.0,
    "fleet-rolled": 3.0,
    "redis-killed": 1.0,
    "redis-down-long": LONG_S,
    "redis-stopped": 1.0,
    "redis-stopped-long": LONG_S,
    "redis-paused": 1.5,
    "redis-busy": 1.5,
    "redis-full": 4.0,
    "scripts-flushed": 2.0,
    "clients-killed": 0.0,
    "answers-lost": 6.0,
    "link-silent": 6.0,
    "link-refused": 2.0,
    "workers-cut-off": CUT_OFF_S,
}
"""Every fault and how long it lasts."""

RESTARTS = ("supervisor-killed", "host-killed", "fleet-restarted")
"""Those after which a fleet is started anew, perhaps in another condition."""

_OFTEN = {
    "worker-killed": 4,
    "clients-killed": 2,
    "fleet-restarted": 2,
}
ONLY_RIGHT = ("answers-lost", "link-silent", "link-refused", "workers-cut-off")

_SLOW_TO_RETURN = ("redis-killed", "redis-down-long", "redis-stopped-long", "link-refused")
"""After these it may take a connection 2 s to be tried again."""

OUTLASTED = (
    *("redis-killed", "redis-down-long", "redis-stopped-long"),
    *("worker-stopped-long", "workers-cut-off"),
)
"""Those that jobs at work are to outlast: live workers keep what they hold."""


def cycle_s() -> float:
    """Return about how long a plan must be to hold every fault."""
    steps = _cycle()
    return sum(SECONDS[kind] for kind in steps) + 1.75 * len(steps)


def _cycle() -> list[str]:
    return [kind for kind in SECONDS for _ in range(_OFTEN.get(kind, 1))]


def make_plan(seed: int, seconds: float) -> list[Step]:
    """Return the faults of a run of this length, in their order.

    A whole cycle holds every fault at least once; a shorter plan holds some, a longer one
    goes on with another cycle in another order.
    """
    chance = Random(seed)
    points = list(POINTS)
    chance.shuffle(points)
    plan: list[Step] = []
    at_s = 2.0
    conditions = 0
    while at_s < seconds:
        kinds = _cycle()
        chance.shuffle(kinds)
        for kind in kinds:
            length_s = SECONDS[kind]
            if length_s < LEASE_S:
                length_s *= chance.uniform(0.8, 1.2)
            fleet = "right" if kind in ONLY_RIGHT else chance.choice(FLEETS)
            detail = ""
            if kind in RESTARTS:
                # a point, a clock, a point, nothing, in turn: all are met in a few cycles
                conditions += 1
                if conditions % 4 == 2:
                    detail = f"clock={chance.choice(_CLOCKS)}"
                elif conditions % 2 == 1:
                    point = points.pop()
                    points.insert(0, point)
                    low, high = _RARE.get(point, (10, 40))
                    detail = f"fail={point}:{chance.randint(low, high)}"
            if at_s + length_s > seconds:
                return plan
            step = Step(round(at_s, 2), kind, fleet, chance.random(), round(length_s, 2), detail)
            plan.append(step)
            rest = (2.5, 3.5) if kind in _SLOW_TO_RETURN else (1.0, 2.5)
            at_s += length_s + chance.uniform(*rest)
    return plan
