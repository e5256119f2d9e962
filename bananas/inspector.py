"""The whole at a glance: queues with their age, counters, processes. Reads only, scans nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from bananas.clock import SYSTEM_CLOCK
from bananas.errors import DecodeError
from bananas.job import Job, validate_priority
from bananas.keys import DEFAULT_ROUTING_KEY, PRIORITIES, Priority, place

if TYPE_CHECKING:
    from bananas.broker import Broker
    from bananas.clock import Clock

_match_place: Final = re.compile(
    r"(?:route:([A-Za-z0-9_-]+):)?(?:task:(.+):)?queue:(high|normal|low)"
).fullmatch
_match_uuid7: Final = re.compile(
    r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
).fullmatch


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One list of waiting jobs.

    Attributes:
        routing_key: Whose.
        priority: Of its jobs.
        task: For the own list of a task that workers serve alone; None = the common one.
        waiting: How many; cancelled ones that no worker met yet included.
        oldest_age_s: How long ago the next one was made; None when empty or not to be told.
    """

    routing_key: str
    priority: Priority
    task: str | None
    waiting: int
    oldest_age_s: float | None


def _members(text: bytes) -> dict[str, Any]:
    """Return what a process says of itself; nothing, where that is no object of JSON."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


class Inspector:
    """Reads through one broker."""

    def __init__(self, broker: Broker, clock: Clock = SYSTEM_CLOCK) -> None:
        """Ages are told by `clock`."""
        self._broker = broker
        self._keys = broker.keys
        self._clock = clock

    async def _command(self, *words: str | int) -> Any:  # noqa: ANN401 - as Redis has shapes
        return await self._broker.transport.command(*words, repeat=True)

    async def queues(self) -> list[QueueInfo]:
        """Return every list, by routing key, high before normal before low."""
        waiting = {item.place: item.count for item in (await self._broker.audit()).places}
        for where in map(place, PRIORITIES):
            if where not in waiting:  # none of ours was ever there, but a foreign one may be
                waiting[where] = await self._command("LLEN", self._keys.waiting(where))
        queues: list[QueueInfo] = []
        for where, count in waiting.items():
            match = _match_place(where)
            if match is None:
                continue
            routing_key, task, priority = match.groups()
            queues.append(
                QueueInfo(
                    routing_key or DEFAULT_ROUTING_KEY,
                    validate_priority(priority),
                    task,
                    count,
                    await self._oldest_age_s(where) if count else None,
                )
            )
        order = {priority: number for number, priority in enumerate(PRIORITIES)}
        return sorted(queues, key=lambda q: (q.routing_key, order[q.priority], q.task or ""))

    async def _oldest_age_s(self, where: str) -> float | None:
        """Read the id at the tail, and its record only when the id does not tell its time."""
        found = await self._command("LINDEX", self._keys.sorted(where), -1)
        if found is None:
            found = await self._command("LINDEX", self._keys.waiting(where), -1)
        if found is None:
            return None
        job_id = found.decode("utf-8", "replace")
        made_us: int | None
        match = _match_uuid7(job_id)
        if match is not None:
            made_us = int(match[1] + match[2], 16) * 1000
        else:
            record = await self._command("GET", self._keys.job(job_id))
            try:
                made_us = Job.decode(record or b"").created_us
            except DecodeError:
                made_us = None
        if made_us is None:
            return None
        return max(0, self._clock.real_us() - made_us) / 1e6

    async def stats(self) -> dict[str, int]:
        """Return the counters; waiting, scheduled, leased, dead; and drift, which should be 0."""
        audit = await self._broker.audit()
        return audit.counters | {
            "waiting": audit.waiting - audit.cancelled_waiting,
            "scheduled": audit.scheduled,
            "leased": audit.leased,
            "dead": audit.dead,
            "drift": audit.drift,
        }

    async def workers(self) -> list[dict[str, Any]]:
        """Return the processes that may hold jobs.

        Each with `epoch`, `alive` (its lease has not lapsed), `lease_left_s`, and what it said
        of itself.
        """
        now_s, now_us = map(int, await self._command("TIME"))
        pairs = await self._command("ZRANGE", self._keys.epochs, 0, -1, "WITHSCORES")
        infos = await self._command("HGETALL", self._keys.workers)
        said = dict(zip(infos[::2], infos[1::2], strict=True))
        workers: list[dict[str, Any]] = []
        for epoch, deadline_ms in zip(pairs[::2], pairs[1::2], strict=True):
            left_s = float(deadline_ms) / 1e3 - (now_s + now_us / 1e6)
            about = _members(said.get(epoch, b"{}"))
            workers.append(
                {
                    **about,
                    "epoch": epoch.decode("utf-8", "backslashreplace"),
                    "alive": left_s > 0,
                    "lease_left_s": round(max(0.0, left_s), 3),
                }
            )
        return workers
