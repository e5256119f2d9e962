"""The conservation check: jobs present plus jobs gone are jobs accepted, and if not, why.

The counts are taken in one instant; looking through the ids takes longer, so on a busy queue
it is repeated until nothing moved meanwhile, a few times.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bananas.broker import Audit, Broker
    from bananas.client import Client

_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.2
_READ: Final = 500  # ids looked at in one go
_TAIL_BYTES: Final = 320  # as the scripts: our mark stands within these


@dataclass(frozen=True, slots=True)
class Drift:
    """What the counters and the queues say of each other.

    Attributes:
        audit: The counts.
        foreign: Ids present whose records another program wrote and no worker has settled yet.
        missing: Ids present without a record.
        looked_at: Ids that were looked through.
        moving: Jobs moved at every attempt: the explanation is only roughly right.
    """

    audit: Audit
    foreign: int
    missing: int
    looked_at: int
    moving: bool

    @property
    def unexplained(self) -> int:
        """Jobs too many (> 0) or too few (< 0)."""
        if self.moving:
            return 0
        left = self.audit.drift - self.foreign
        # An id without a record may have been foreign or ours: either is its explanation.
        return left - min(self.missing, left) if left > 0 else left

    @property
    def direction(self) -> str:
        """More or fewer."""
        return "more" if self.unexplained > 0 else "fewer"

    @property
    def advice(self) -> str:
        """What it may come from."""
        if self.unexplained > 0:
            return (
                "the counters may have been deleted, or another program pushed ids twice or "
                "without a record; nothing is lost"
            )
        return (
            "keys were deleted by hand, evicted, or lost in a failover of the server: is "
            "maxmemory-policy noeviction, and the append-only file on?"
        )

    def facts(self) -> dict[str, Any]:
        """Return all that was counted, by name."""
        counters = self.audit.counters
        gone = {name: counters.get(name, 0) for name in ("completed", "cancelled", "expired")}
        return {
            "accepted": counters.get("accepted", 0),
            "waiting": self.audit.waiting - self.audit.cancelled_waiting,
            "scheduled": self.audit.scheduled,
            "held by workers": self.audit.leased,
            "dead": self.audit.dead,
            **gone,
            "deleted": counters.get("purged", 0),
            "drift": self.audit.drift,
            "of other programs": self.foreign,
            "without a record": self.missing,
            "unexplained": "jobs move too fast to tell" if self.moving else self.unexplained,
        }


async def explain_drift(client: Client) -> Drift:
    """Count all jobs and look through those present for what the counters cannot know."""
    broker = (await client.session()).broker
    audit = await broker.audit()
    foreign = missing = looked_at = 0
    for _ in range(_ATTEMPTS):
        foreign, missing, looked_at = await _look_through(broker, audit)
        before, audit = audit, await broker.audit()
        if before == audit:
            return Drift(audit, foreign, missing, looked_at, moving=False)
        await asyncio.sleep(_PAUSE_S)
    # Where the counters alone agree there is nothing to explain.
    return Drift(audit, foreign, missing, looked_at, moving=audit.drift != foreign)


async def _look_through(broker: Broker, audit: Audit) -> tuple[int, int, int]:
    """Return (foreign, missing, looked at) of the ids that wait, are scheduled or leased."""
    if audit.drift == 0:
        return 0, 0, 0
    foreign = missing = looked_at = 0
    command, keys = broker.transport.command, broker.keys
    cancelled = await cancelled_ids(broker)
    async for ids in present(broker, audit):
        asked = [job_id for job_id in ids if job_id not in cancelled]
        looked_at += len(asked)
        tails = await asyncio.gather(
            *(
                command(
                    "GETRANGE",
                    keys.job(job_id.decode("utf-8", "replace")),
                    -_TAIL_BYTES,
                    -1,
                    repeat=True,
                )
                for job_id in asked
            )
        )
        missing += sum(not tail for tail in tails)
        foreign += sum(bool(tail) and not is_ours(tail) for tail in tails)
    return foreign, missing, looked_at


async def cancelled_ids(broker: Broker) -> set[bytes]:
    """Return the ids that were cancelled and still lie in a list, read in pages."""
    found: set[bytes] = set()
    cursor: Any = b"0"
    while True:
        cursor, some = await broker.transport.command(
            "SSCAN", broker.keys.cancelled, cursor, "COUNT", _READ, repeat=True
        )
        found.update(some)
        if cursor == b"0":
            return found


def is_ours(tail: bytes) -> bool:
    """Tell whether the end of a record is one that we wrote: it names the job's place."""
    return tail.endswith(b'"}') and b',"list":"' in tail


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


async def present(broker: Broker, audit: Audit) -> AsyncIterator[list[bytes]]:
    """Give the ids of all places in lists."""
    command, keys = broker.transport.command, broker.keys
    for item in audit.places:
        for key in (keys.waiting(item.place), keys.sorted(item.place)):
            start = 0
            while ids := await command("LRANGE", key, start, start + _READ - 1, repeat=True):
                yield ids
                start += len(ids)
    start = 0
    while ids := await command("ZRANGE", keys.scheduled, start, start + _READ - 1, repeat=True):
        yield ids
        start += len(ids)
    for epoch in await command("ZRANGE", keys.epochs, 0, -1, repeat=True):
        for request in await command("SMEMBERS", keys.epoch_leases(_text(epoch)), repeat=True):
            ids = list(await command("SMEMBERS", keys.lease(_text(request)), repeat=True))
            for begin in range(0, len(ids), _READ):
                yield ids[begin : begin + _READ]
