"""Explicit-state search, breadth first: what can happen at all, and the shortest way to harm.

The caller gives a start and a function that names every step from a state.  Two questions
are answered: does some step break a property, and is there a state from which no path free
of faults leads to an end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

S = TypeVar("S", bound="Hashable")

STUCK = "stuck"


class Step(NamedTuple, Generic[S]):
    """One transition: its name, where it leads, and what it breaks."""

    label: str
    state: S
    fault: bool = False  # something that must not be needed for the job to get on
    broken: str = ""  # the property, "" = none


@dataclass
class Finding(Generic[S]):
    """What a search saw; `broken` = "" when everything holds."""

    states: int = 0
    transitions: int = 0
    broken: str = ""
    trace: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    """First words of the labels: which kinds of steps were ever possible."""

    def __str__(self) -> str:
        """Tell it as a story."""
        size = f"{self.states} states, {self.transitions} transitions"
        if not self.broken:
            return f"{size}: everything holds"
        steps = "\n".join(f"  {number}. {label}" for number, label in enumerate(self.trace, 1))
        return f"{self.broken} ({size} looked at)\n{steps}"


def search(
    start: S,
    steps_of: Callable[[S], Iterable[Step[S]]],
    *,
    is_end: Callable[[S], bool],
    must_end: Callable[[S], bool],
    limit: int | None = None,
) -> Finding[S]:
    """Visit every state that can be reached, nearest first.

    Args:
        start: Where it begins.
        steps_of: Names every step from a state.
        is_end: States in which nothing is left to be done.
        must_end: States from which an end must be reachable without a further fault.
        limit: Most states to expand; None = all. A search cut short asks for no ends:
            the way to them may lie beyond.
    """
    found: Finding[S] = Finding()
    parents: dict[S, tuple[S, str] | None] = {start: None}
    back: dict[S, list[S]] = {}
    todo = deque([start])
    expanded = 0
    while todo and (limit is None or expanded < limit):
        state = todo.popleft()
        expanded += 1
        for step in steps_of(state):
            found.transitions += 1
            found.seen.add(step.label.split(":", 1)[0])
            if step.broken:
                found.states = len(parents)
                found.broken = step.broken
                found.trace = [*_way_to(state, parents), step.label]
                return found
            if not step.fault:
                back.setdefault(step.state, []).append(state)
            if step.state not in parents:
                parents[step.state] = (state, step.label)
                todo.append(step.state)
    found.states = len(parents)
    if not todo:
        ends = _leads_to([state for state in parents if is_end(state)], back)
        for state in parents:  # in the order found: the first is the nearest
            if must_end(state) and state not in ends:
                found.broken, found.trace = STUCK, _way_to(state, parents)
                break
    return found


def _way_to(state: S, parents: dict[S, tuple[S, str] | None]) -> list[str]:
    labels: list[str] = []
    while (parent := parents[state]) is not None:
        state, label = parent
        labels.append(label)
    return labels[::-1]


def _leads_to(ends: list[S], back: dict[S, list[S]]) -> set[S]:
    found = set(ends)
    todo = deque(ends)
    while todo:
        for before in back.get(todo.popleft(), ()):
            if before not in found:
                found.add(before)
                todo.append(before)
    return found
