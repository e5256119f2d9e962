"""Which lists a worker serves, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bananas.keys import DEFAULT_ROUTING_KEY, place

if TYPE_CHECKING:
    from collections.abc import Collection

    from bananas.broker import Specials
    from bananas.keys import Priority
    from bananas.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """What one worker is there for.

    Attributes:
        routing_keys: In the order of service.
        priorities: In the order of service.
        only_tasks: The tasks it serves alone; empty = all it knows.
        by_priority: With several keys: high of all keys before normal of any.
    """

    routing_keys: tuple[str, ...]
    priorities: tuple[Priority, ...]
    only_tasks: tuple[str, ...] = ()
    by_priority: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Service:
        """Return the service that settings ask for."""
        return cls(
            routing_keys=settings.worker_routing_keys,
            priorities=settings.priorities,
            only_tasks=settings.worker_job_types,
            by_priority=settings.routing_order == "priority",
        )

    def _pairs(self) -> list[tuple[str, Priority]]:
        if self.by_priority:
            return [(key, pri) for pri in self.priorities for key in self.routing_keys]
        return [(key, pri) for key in self.routing_keys for pri in self.priorities]

    def places(self, known: Collection[str], specials: Specials) -> list[str]:
        """Return the places to lease from, in order.

        Args:
            known: Tasks registered here.
            specials: Tasks that have lists of their own; a worker that serves everything
                serves them too.
        """
        if self.only_tasks:
            tasks = sorted(self.only_tasks)
            return [place(pri, key, task) for key, pri in self._pairs() for task in tasks]
        own = sorted(task for task in specials.tasks if task in known)
        found: list[str] = []
        for key, pri in self._pairs():
            found.append(place(pri, key))
            found += [place(pri, key, task) for task in own]
        return found

    def sources(self) -> list[str]:
        """Return common places where jobs for this worker may lie among others.

        Empty for a worker that leases from them anyway. Foreign producers push to the default
        lists whatever a record's routing key or task says.
        """
        if not self.only_tasks and DEFAULT_ROUTING_KEY in self.routing_keys:
            return []
        keys = dict.fromkeys((*self.routing_keys, DEFAULT_ROUTING_KEY))
        if not self.only_tasks:
            keys = {DEFAULT_ROUTING_KEY: None}
        return [place(pri, key) for key in keys for pri in ("high", "normal", "low")]
