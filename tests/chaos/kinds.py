"""The kinds of jobs that a run submits: how often, how, and how each has to end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

COMPLETED = frozenset({"completed"})
FAILED = frozenset({"failed"})

STEADY_KEY = "steady"
"""The routing key that only the fleet without faults of its own serves."""


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    Attributes:
        task: The handler's name.
        ends: The statuses that are right for it.
        share: Of a hundred jobs, about how many.
        every_s: Instead of a share: one about every so many seconds, for what costs a process.
        payload: Arguments beside the id.
        options: Options of the submission.
        foreign: Whether it is submitted as another program would: by plain commands.
        cancel: Whether the producer cancels it at once.
        reason: How the error of its failure may begin, where that matters.
    """

    task: str
    ends: frozenset[str] = COMPLETED
    share: float = 0.0
    every_s: float = 0.0
    payload: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    foreign: bool = False
    cancel: bool = False
    reason: tuple[str, ...] = ("",)

    @property
    def harmful(self) -> bool:
        """Whether it takes a process down."""
        return self.every_s > 0


KINDS: dict[str, Kind] = {
    "quick": Kind("quick", share=20),
    "valued": Kind("quick", share=10, options={"result": True}),
    "slow": Kind("slow", share=10, payload={"seconds": 0.3}, options={"result": True}),
    "long": Kind("slow", share=0.7, payload={"seconds": 4.0}),
    # submitted by the handful before an outage, to be at work until after it
    "patient": Kind("slow", payload={"seconds": 13.0}, options={"result": True}),
    "threaded": Kind("threaded", share=8, payload={"seconds": 0.05}, options={"result": True}),
    "inline": Kind("inline", share=6),
    "item": Kind("bunch", share=8, payload={"say": "ok"}),
    "dead_item": Kind("bunch", FAILED, share=1, payload={"say": "dead"}),
    "again_item": Kind("bunch", share=2, payload={"say": "retry"}, options={"max_retries": 30}),
    "flaky": Kind("flaky", share=5, payload={"times": 2}, options={"max_retries": 6}),
    "hopeless": Kind(
        "hopeless", FAILED, share=2, options={"max_retries": 2}, reason=("RuntimeError", "poison")
    ),
    "snoozer": Kind("snoozer", share=3),
    "discarder": Kind("discarder", FAILED, share=2),
    "later": Kind("quick", share=6, options={"delay_s": 1.5, "result": True}),
    "urgent": Kind("quick", share=3, options={"priority": "high"}),
    "cancelled": Kind(
        "quick",
        frozenset({"completed", "cancelled"}),
        share=3,
        options={"delay_s": 4.0},
        cancel=True,
    ),
    "expiring": Kind("quick", frozenset({"completed", "cancelled"}), share=2),
    "late": Kind(
        "sleeper",
        FAILED,
        share=0.5,
        options={"timeout_s": 0.4, "max_retries": 2},
        reason=("timed out", "JobTimedOutError", "poison"),
    ),
    "foreign": Kind("quick", share=4, foreign=True),
    "foreign_later": Kind("quick", share=2, foreign=True, options={"delay_s": 1.0}),
    "steady": Kind(
        "slow",
        share=8,
        payload={"seconds": 0.1},
        options={"routing_key": STEADY_KEY, "result": True},
    ),
    "blocker": Kind(
        "blocker",
        FAILED,
        every_s=20.0,
        options={"timeout_s": 0.5, "max_retries": 1},
        reason=("timed out", "poison"),
    ),
    "poison": Kind("poison", FAILED, every_s=40.0, reason=("poison",)),
}

_SHARED = [name for name, kind in KINDS.items() if kind.share]
_SHARES = [KINDS[name].share for name in _SHARED]


BURST = 5
"""How many patient jobs a handful is."""


def draw(chance: Random) -> str:
    """Return a kind by its share."""
    return chance.choices(_SHARED, _SHARES)[0]
