"""Looks through all keys of a queue that stands still, and tells what breaks its invariants.

The product's own audit counts; this looks at every id and every record, and trusts no counter.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis import Redis

    from bananas.keys import Keys

_LIVE = ("pending", "scheduled", "processing")


@dataclass(slots=True)
class Whereabouts:
    """Where every id is, every record, and the counters."""

    places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    records: dict[str, tuple[dict[str, Any], int]] = field(default_factory=dict)
    """By id: the record and its TTL in ms, -1 = none."""
    cancelled: set[str] = field(default_factory=set)
    counters: dict[str, int] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    """Leases that no living or fenced epoch names: nobody would ever give them back."""

    def problems(self) -> list[str]:
        """Return what breaks I1 or I2, in words; empty when all is well."""
        return [*self._placement(), *self._conservation(), *self.strays]

    def _placement(self) -> list[str]:
        found = []
        for job_id, where in self.places.items():
            if len(where) > 1:
                found.append(f"{job_id} is in {len(where)} places: {where}")
            if job_id not in self.records:
                found.append(f"{job_id} is in {where} and has no record")
        for job_id, (record, ttl_ms) in self.records.items():
            where = self.places.get(job_id, [])
            status = record["status"]
            if status == "failed":
                right = where == ["dead"]
            elif status == "cancelled":
                right = not where or (job_id in self.cancelled and len(where) == 1)
            elif status in _LIVE:
                right = len(where) == 1 and where != ["dead"] and ttl_ms == -1
            else:
                right = not where
            if not right:
                found.append(f"{job_id} is {status} (ttl {ttl_ms} ms) and in {where}")
        return found

    def _conservation(self) -> list[str]:
        c = self.counters
        present = sum(map(len, self.places.values())) - len(self.cancelled & self.places.keys())
        gone = sum(c.get(name, 0) for name in ("completed", "cancelled", "expired", "purged"))
        accepted = c.get("accepted", 0)
        if present + gone == accepted:
            return []
        return [f"accepted {accepted}, but present {present} and gone {gone}: {c}"]


def look(redis: Redis, keys: Keys) -> Whereabouts:
    """Look through everything; nothing may move meanwhile."""
    client = cast("Any", redis)
    seen = Whereabouts()
    for name in client.smembers(keys.places()):
        for key in (keys.waiting(name.decode()), keys.sorted(name.decode())):
            _note(seen, key, client.lrange(key, 0, -1))
    _note(seen, "scheduled", client.zrange(keys.scheduled, 0, -1))
    _note(seen, "dead", client.zrange(keys.dead, 0, -1))
    named = set()
    for epoch in client.zrange(keys.epochs, 0, -1):
        for request in client.smembers(keys.epoch_leases(epoch.decode())):
            lease = keys.lease(request.decode())
            named.add(lease)
            _note(seen, lease, client.smembers(lease))
    leases = [key.decode() for key in client.scan_iter(keys.lease("*"), count=1000)]
    seen.strays = [f"{key} belongs to no epoch" for key in leases if key not in named]
    seen.records = _records(client, keys.job_prefix)
    seen.cancelled = {job_id.decode() for job_id in client.smembers(keys.cancelled)}
    pairs = client.hgetall(keys.counters)
    seen.counters = {name.decode(): int(count) for name, count in pairs.items()}
    return seen


def _note(seen: Whereabouts, where: str, ids: Iterable[bytes]) -> None:
    for job_id in ids:
        seen.places[job_id.decode()].append(where)


def _records(client: Any, prefix: str) -> dict[str, tuple[dict[str, Any], int]]:  # noqa: ANN401
    ids = [key.decode()[len(prefix) :] for key in client.scan_iter(f"{prefix}*", count=1000)]
    pipeline = client.pipeline(transaction=False)
    for job_id in ids:
        pipeline.get(prefix + job_id)
        pipeline.pttl(prefix + job_id)
    answers = pipeline.execute()
    return {
        job_id: (json.loads(record), ttl_ms)
        for job_id, record, ttl_ms in zip(ids, answers[::2], answers[1::2], strict=True)
    }
