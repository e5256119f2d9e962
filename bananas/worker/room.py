"""How many jobs to ask for: what fits, lane by lane, beside those that are here.

The lanes share no capacity: a full one takes nothing from another's room. What a fetch
brings for a lane that cannot run it soon is given back at once, for a worker that can.
"""

from __future__ import annotations

import inspect
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from bananas.worker.bunches import Gatherer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bananas.registry import Definition
    from bananas.settings import Settings
    from bananas.worker.attempt import Attempt, Bunch
    from bananas.worker.lane import Lane

AHEAD_S: Final = 0.1
"""Work to hold ahead, seconds."""

_CALLS_AHEAD: Final = 4
"""Most of it, in calls: with 3, less room for a second one, a process drains 0.85 as fast."""

_SMOOTHING_S: Final = 0.5
_MOMENT_S: Final = 0.001
_LOOK_S: Final = 0.1
_STUCK_S: Final = 1.0
"""How long a full lane may begin nothing before what waits in it is given back."""
_SLOW_S: Final = 1.0
"""Work that is given back when it is so for as long: what was fetched when jobs were short."""


class Pace:
    """How many jobs end here a second, smoothed over half a second."""

    def __init__(self, now_s: float) -> None:
        """Start at 0."""
        self.per_s = 0.0
        self._count = 0
        self._at_s = now_s

    def saw(self, count: int, now_s: float, busy: int = 0, runners: int = 0) -> None:
        """Take over how many have ended in all by now, and how many of `runners` are at work."""
        elapsed_s = now_s - self._at_s
        if elapsed_s < _MOMENT_S:
            return
        ended = max(0, count - self._count)
        if busy and (not ended or (ended < runners and elapsed_s < _SMOOTHING_S)):
            # Until each runner has ended one, the time is not over: jobs that began together and
            # end together within a moment are no short ones.
            self.per_s = min(self.per_s, (ended + busy) / elapsed_s)
            return
        current = ended / elapsed_s
        weight = min(1.0, elapsed_s / _SMOOTHING_S) if current < self.per_s else 0.5
        self.per_s += (current - self.per_s) * weight
        self._count = count
        self._at_s = now_s


class Side:
    """One lane, what may come to it, and how fast it works that off."""

    def __init__(self, lane: Lane, tasks: Sequence[Definition], *, most: int) -> None:
        """Hold at most `most` single jobs ahead, and two bunches of each batch task."""
        self.lane = lane
        self.gatherers = {
            task.name: Gatherer(task, self._send) for task in tasks if task.batching is not None
        }
        self.singles = len(self.gatherers) < len(tasks)
        """Whether tasks of single jobs run here."""
        self._most = most
        self._items = 2 * sum(task.batching.max_size for task in tasks if task.batching is not None)
        self._pace = Pace(monotonic())
        self._started: int = 0
        self._since_s = monotonic()
        self._stuck = False
        self._slow_since_s = self._since_s
        self.share_singles = 1.0
        """Of the jobs that came lately, single ones for this lane; nothing is known at first."""
        self.share_items = 1.0

    def _send(self, bunch: Bunch) -> None:
        self.lane.waiting.put(bunch)
        self.lane.nudge()

    def saw_pace(self, now_s: float) -> None:
        """Take over how many single jobs have ended."""
        lane = self.lane
        ended = lane.started - lane.bunched - lane.busy
        self._pace.saw(ended, now_s, lane.busy, lane.runners)

    def is_stuck(self, now_s: float) -> bool:
        """Whether all runners have been at the same jobs for so long that none may wait here."""
        lane = self.lane
        if lane.started != self._started or lane.busy < lane.runners:
            self._started, self._since_s, self._stuck = lane.started, now_s, False
        elif now_s - self._since_s > _STUCK_S:
            self._pace.per_s = 0.0
            self._stuck = True
        return self._stuck

    def ahead(self) -> int:
        """Return how many single jobs may wait here beside those that run."""
        return int(min(self._pace.per_s * AHEAD_S, self._most))

    def _free(self) -> int:
        return max(0, self.lane.runners - self.lane.busy)

    def gathered(self) -> int:
        """Return how many items wait for company."""
        return sum(map(len, self.gatherers.values()))

    def room(self) -> int:
        """Return how many single jobs fit, 0 while it is not worth a call."""
        if not self.singles or self._stuck:
            return 0
        waiting, free = len(self.lane.waiting), self._free()
        target = free + self.ahead()
        room = target - waiting
        return 0 if waiting > free and room < target / 2 else max(0, room)

    def item_room(self) -> int:
        """Return how many items of batch tasks fit."""
        if not self._items or self._stuck:
            return 0
        return max(0, self._items - self.gathered() - self.lane.waiting.items())

    def take_hoard(self) -> list[Attempt]:
        """Take out single jobs that could not begin here soon."""
        ahead = self.ahead()
        if ahead >= self.lane.runners and len(self.lane.waiting) <= 3 * ahead:
            return []  # it is short work: none of it waits for 0.3 s
        return self.lane.waiting.take_hoard(self._free() + ahead)

    def take_slow(self, now_s: float) -> list[Attempt]:
        """Take out single jobs that wait for long since jobs last longer than they did."""
        if len(self.lane.waiting) <= self.lane.runners + self._pace.per_s * _SLOW_S:
            self._slow_since_s = now_s
        if now_s - self._slow_since_s < _SLOW_S:  # a moment in which all are at long ones
            return []
        return self.lane.waiting.take_hoard(self._free() + self.ahead())

    def take_items(self) -> list[Attempt]:
        """Take out items far beyond what the next calls will take, and all where nothing moves."""
        if self._stuck:
            return self._take_gathered()
        return self.lane.waiting.take_bunches(2 * self._items)

    def take_waiting(self) -> list[Attempt]:
        """Take out everything that has not begun."""
        return self._take_gathered() + self.lane.waiting.take_all()

    def _take_gathered(self) -> list[Attempt]:
        return [run for gatherer in self.gatherers.values() for run in gatherer.take()]

    def take_out(self, attempt: Attempt) -> bool:
        """Take out a job that has not begun; False when it has, or is not here."""
        gatherer = self.gatherers.get(attempt.definition.name)
        if gatherer is not None and gatherer.take_out(attempt):
            return True
        return self.lane.waiting.take_out(attempt)


class Way(NamedTuple):
    """Where the jobs of one task go."""

    put: Callable[[Attempt], None]
    side: Side
    gathers: bool


class Room:
    """The room of all lanes together, and the way to each."""

    def __init__(
        self,
        registry: Mapping[str, Definition],
        loop_lane: Lane,
        thread_lane: Lane,
        settings: Settings,
    ) -> None:
        """Ask for the lanes that some task uses."""
        self._batch = settings.dequeue_batch
        self._poll_s = settings.poll_interval_s
        threaded = {name for name, task in registry.items() if _needs_thread(task)}
        self.sides: list[Side] = []
        for lane, names in ((loop_lane, registry.keys() - threaded), (thread_lane, threaded)):
            if names:
                tasks = [registry[name] for name in sorted(names)]
                self.sides.append(Side(lane, tasks, most=_CALLS_AHEAD * self._batch))
        self.ways = {
            name: _way(side, name)
            for side in self.sides
            for name in registry
            if (name in threaded) is (side.lane is thread_lane)
        }
        self.mixed = sum(side.singles + bool(side.gatherers) for side in self.sides) > 1
        """Whether what a fetch brings may be for another lane than the one that has room."""
        self._look_s = _LOOK_S
        self._wait_until_s = 0.0
        self._full: Callable[[], int] | None = None

    def wanted(self) -> int:
        """Return how many jobs to ask for."""
        if not self.mixed:
            return sum(side.room() + side.item_room() for side in self.sides)
        if self._waits():
            return 0
        wanted = 0
        for side in self.sides:
            # a kind that came seldom lately is looked for, but not by the hundred
            wanted += min(side.room(), self._likely(side.share_singles))
            wanted += min(side.item_room(), self._likely(side.share_items))
        return wanted

    def _likely(self, share: float) -> int:
        return max(1, int(4 * self._batch * share))

    def _waits(self) -> bool:
        """Whether what was full when we looked last still is, a little while after."""
        if self._full is None:
            return False
        if self._full():
            self._look_s = _LOOK_S
        elif monotonic() < self._wait_until_s:
            return True
        self._full = None
        return False

    def came(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Learn the mix of what has come, and take out what full lanes would hoard.

        When all that came is for a full lane, the next ones in the queue are most likely alike: ask
        for no more until it has room again, but for a look now and then.
        """
        if not attempts:
            return []
        counts: Counter[tuple[Side, bool]] = Counter()
        for name, count in Counter(run.definition.name for run in attempts).items():
            counts[self.ways[name][1:]] += count
        hoard: list[Attempt] = []
        full, has_room = None, False
        for side in self.sides:
            for gathers, take, room in (
                (False, side.take_hoard, side.room),
                (True, side.take_items, side.item_room),
            ):
                share = counts[side, gathers] / len(attempts)
                if gathers:
                    side.share_items += (share - side.share_items) * 0.5
                else:
                    side.share_singles += (share - side.share_singles) * 0.5
                hoard += take()
                if share > 0 and room() > 0:
                    has_room = True
                elif share > 0:
                    full = room
        if full is not None and not has_room:
            self._full, self._wait_until_s = full, monotonic() + self._look_s
            self._look_s = min(2 * self._look_s, self._poll_s)
        return hoard

    def saw_pace(self, now_s: float) -> None:
        """Take over how many jobs have ended."""
        for side in self.sides:
            side.saw_pace(now_s)

    def take_stuck(self, now_s: float) -> list[Attempt]:
        """Take out what waits where nothing moves, or little; called a few times a second."""
        stuck: list[Attempt] = []
        for side in self.sides:
            side.saw_pace(now_s)
            stuck += side.take_waiting() if side.is_stuck(now_s) else side.take_slow(now_s)
        return stuck

    def take_waiting(self) -> list[Attempt]:
        """Take out everything that has not begun."""
        return [attempt for side in self.sides for attempt in side.take_waiting()]


def _needs_thread(task: Definition) -> bool:
    if task.kind == "batch":
        return not inspect.iscoroutinefunction(task.function)
    return task.kind == "sync"


def _way(side: Side, name: str) -> Way:
    gatherer = side.gatherers.get(name)
    if gatherer is not None:
        return Way(gatherer.put, side, gathers=True)
    return Way(side.lane.waiting.put, side, gathers=False)
