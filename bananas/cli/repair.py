"""The repair of a queue whose keys were deleted or overwritten by hand, by what its records tell.

Keys of the wrong type are set aside, leases that no process can settle are given back, jobs
that have a record and are nowhere are put back, and the counters are set right. Nothing is
deleted. All that takes looking through every key, and nothing may move meanwhile.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from bananas.broker import MAX_JOBS
from bananas.cli.conservation import cancelled_ids, explain_drift, present
from bananas.cli.screen import count, jobs
from bananas.errors import BananasError, DecodeError
from bananas.job import Job
from bananas.keys import is_place
from bananas.placement import FALLBACK, belongs, find_places
from bananas.speedups import parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bananas.broker import Broker
    from bananas.client import Client

_SCAN: Final = 400
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.5
_WHOLE: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_FULL: Final = 2**62
"""From here on a counter has been written by hand, and may have no room left."""
_WAITING: Final = frozenset({"pending", "scheduled", "processing"})


class JobsMoveError(BananasError):
    """The repair has to wait until nothing moves."""

    hint = "stop the workers, or pause what they serve; then call the repair again"


async def repair(client: Client) -> list[str]:
    """Mend what can be mended; returns what was done, in words.

    Raises:
        JobsMoveError: All the time: what is nowhere cannot be told from what moves.
        BrokerError: Redis did not answer.
    """
    broker = (await client.session()).broker
    done = [*await _set_aside(broker), *await _drop_counters(broker)]
    done += [*await _find_lists(broker), *await _give_back(broker)]
    restored = await _restore(broker)
    if restored:
        done.append(f"{jobs(restored)} put back that had a record and were nowhere")
    drift = await explain_drift(client)
    if drift.unexplained:
        by = drift.unexplained
        await broker.transport.command("HINCRBY", broker.keys.counters, "accepted", by)
        done.append(f"the counter of accepted jobs corrected by {by:+,}")
    return done


# --- keys of the wrong type -----------------------------------------------------------------------


async def wrong_types(broker: Broker) -> dict[str, tuple[str, str]]:
    """Return fixed keys, and lists of known places, of another type than ours: (is, should be)."""
    command, keys = broker.transport.command, broker.keys
    expected = {
        keys.scheduled: "zset",
        keys.dead: "zset",
        keys.epochs: "zset",
        keys.specials: "zset",
        keys.counters: "hash",
        keys.crashes: "hash",
        keys.workers: "hash",
        keys.cancelled: "set",
        keys.places(): "set",
        keys.specials_version: "string",
    }
    wrong = await _mistyped(broker, expected)
    if keys.places() not in wrong:
        lists: dict[str, str] = {}
        for name in await command("SMEMBERS", keys.places(), repeat=True):
            lists |= dict.fromkeys(keys.served(name.decode("utf-8", "backslashreplace")), "list")
        wrong |= await _mistyped(broker, lists)
    if keys.epochs not in wrong:
        wrong |= await _wrong_leases(broker)
    return wrong


async def _wrong_leases(broker: Broker) -> dict[str, tuple[str, str]]:
    """Return what holds the leases of epochs that Redis knows, as far as it is no set."""
    command, keys = broker.transport.command, broker.keys
    known = await command("ZRANGE", keys.epochs, 0, -1, repeat=True)
    epochs = [name.decode("utf-8", "backslashreplace") for name in known]
    wrong = await _mistyped(broker, {keys.epoch_leases(epoch): "set" for epoch in epochs})
    leases: dict[str, str] = {}
    for epoch in epochs:
        if keys.epoch_leases(epoch) not in wrong:
            leases |= {keys.lease(request): "set" for request in await broker.requests_of(epoch)}
    return wrong | await _mistyped(broker, leases)


async def _mistyped(broker: Broker, expected: dict[str, str]) -> dict[str, tuple[str, str]]:
    command = broker.transport.command
    types = await asyncio.gather(*(command("TYPE", key, repeat=True) for key in expected))
    pairs = zip(expected.items(), types, strict=True)
    return {
        key: (_word(found), want)
        for (key, want), found in pairs
        if _word(found) not in ("none", want)
    }


def _word(found: bytes | str) -> str:
    return found.decode() if isinstance(found, bytes) else found


async def _set_aside(broker: Broker) -> list[str]:
    """Rename keys of the wrong type, so that right ones can take their place."""
    done: list[str] = []
    expected: dict[str, str] = {}
    async for key in _scan(broker, "queue:processing:*"):
        if key != broker.keys.epochs:
            expected[key] = "set"
    for place_key in await _list_keys(broker):
        expected[place_key] = "list"
    wrong = await wrong_types(broker) | await _mistyped(broker, expected)
    stamp = (await broker.transport.command("TIME", repeat=True))[0].decode()
    for key, (found, want) in wrong.items():
        tail = key.removeprefix(f"{broker.keys.prefix}:")
        aside = f"{broker.keys.prefix}:aside:{stamp}:{tail}"
        await broker.transport.command("RENAME", key, aside)
        done.append(f"{key} was a {found} and must be a {want}: it is {aside} now")
    return done


async def odd_counters(broker: Broker) -> dict[bytes, bytes]:
    """Return the counters that Redis cannot add to."""
    pairs: list[bytes] = await broker.transport.command(
        "HGETALL", broker.keys.counters, repeat=True
    )
    return {
        name: value
        for name, value in zip(pairs[::2], pairs[1::2], strict=True)
        if _WHOLE.fullmatch(value) is None or abs(int(value)) >= _FULL
    }


async def _drop_counters(broker: Broker) -> list[str]:
    odd = await odd_counters(broker)
    if odd:
        await broker.transport.command("HDEL", broker.keys.counters, *odd)
    return [f"the counter {name!r} dropped, which was no number: {odd[name]!r}" for name in odd]


# --- lists and leases that nobody names -----------------------------------------------------------


async def _list_keys(broker: Broker) -> list[str]:
    found: list[str] = []
    async for key in _scan(broker, "*queue:*"):
        name = key.removeprefix(f"{broker.keys.prefix}:").removeprefix("sorted:")
        if is_place(name.removesuffix(":wake")):
            found.append(key)
    return found


async def _find_lists(broker: Broker) -> list[str]:
    """Make the set of places whole again."""
    names = {
        key.removeprefix(f"{broker.keys.prefix}:").removeprefix("sorted:").removesuffix(":wake")
        for key in await _list_keys(broker)
    }
    if not names:
        return []
    new = int(await broker.transport.command("SADD", broker.keys.places(), *sorted(names)))
    return [f"{new} lists found again that the set of places did not name"] if new else []


async def _give_back(broker: Broker) -> list[str]:
    """Give back what epochs hold that are not known, and drop leases that no epoch names."""
    command, keys = broker.transport.command, broker.keys
    epochs = keys.epoch_leases("")
    moved = 0
    named: set[str] = set()
    async for key in _scan(broker, "queue:processing:epoch:*"):
        epoch = key.removeprefix(epochs)
        if await command("ZSCORE", keys.epochs, epoch, repeat=True) is None:
            moved += await _reclaim(broker, epoch)
        named |= set(await broker.requests_of(epoch))
    stray = [
        key
        async for key in _scan(broker, "queue:processing:lease:*")
        if key.removeprefix(keys.lease("")) not in named
    ]
    done = [f"{jobs(moved)} given back by processes that Redis no longer knows"] if moved else []
    if stray:
        # their ids have records, and are nowhere from now on
        await command("UNLINK", *stray)
        done.append(f"{count(len(stray))} leases dropped that no process names")
    return done


async def _reclaim(broker: Broker, epoch: str) -> int:
    moved, state = 0, "more"
    placed: dict[bytes, str] = {}
    while state == "more":
        step = await broker.reclaim(epoch, proven=True, placed=placed)
        state, moved = step.state, moved + step.moved
        placed = await find_places(broker, step.unplaced)
    return moved


# --- jobs that are nowhere ------------------------------------------------------------------------


async def _restore(broker: Broker) -> int:
    """Put back jobs whose records say that they have not ended, and whose ids are nowhere."""
    restored = 0
    for _ in range(_ATTEMPTS):
        before = await broker.audit()
        lost = await _lost(broker)
        if not lost:
            return restored
        await asyncio.sleep(_PAUSE_S)
        # seen twice: a foreign producer may stand between its SET and its LPUSH
        again = await _lost(broker)
        lost = {job_id: lost[job_id] for job_id in lost if lost[job_id] == again.get(job_id)}
        if before != await broker.audit():
            continue
        groups: dict[str, list[tuple[str, str]]] = {}
        for job_id, (where, way) in sorted(lost.items(), reverse=True):
            groups.setdefault(where, []).append((job_id, way))
        counters, moved = dict(before.counters), 0
        for where, group in groups.items():
            for begin in range(0, len(group), MAX_JOBS):
                moved = await broker.restore(where, group[begin : begin + MAX_JOBS], counters)
                if moved < 0:
                    break
                restored += moved
                if moved:
                    counters["restored"] = counters.get("restored", 0) + moved
        if moved >= 0:
            return restored
    raise JobsMoveError("jobs move while those that are nowhere are looked for")


async def _lost(broker: Broker) -> dict[str, tuple[str, str]]:
    """Return (place, way) of each job that has a living or failed record and is nowhere."""
    command, keys = broker.transport.command, broker.keys
    there: set[bytes] = set()
    async for ids in present(broker, await broker.audit()):
        there.update(ids)
    there.update(await _members(broker, keys.dead))
    cancelled = await cancelled_ids(broker)
    lost: dict[str, tuple[str, str]] = {}
    chunk: list[bytes] = []

    async def look() -> None:
        names = [keys.job_prefix.encode() + job_id for job_id in chunk]
        records = await command("MGET", *names, repeat=True)
        for job_id, record in zip(chunk, records, strict=True):
            if record is None:
                continue
            found = _way(broker, record, cancelled=job_id in cancelled)
            if found is not None:
                lost[job_id.decode("utf-8", "surrogateescape")] = found
        chunk.clear()

    async for key in _scan(broker, "job:*"):
        job_id = key.removeprefix(keys.job_prefix).encode("utf-8", "surrogateescape")
        if job_id not in there:
            chunk.append(job_id)
        if len(chunk) == MAX_JOBS:
            await look()
    if chunk:
        await look()
    return lost


def _way(broker: Broker, record: bytes, *, cancelled: bool) -> tuple[str, str] | None:
    """Return where a job goes by its record, None when it has ended."""
    try:
        job = Job.decode(record)
    except DecodeError:
        return FALLBACK, "w"  # whoever meets it buries it
    where = belongs(job, broker.specials)
    if job.status == "failed":
        return where, f"d{_seconds(job.updated_at)}"
    if job.status not in _WAITING and not cancelled:
        return None  # one that was cancelled where it waited is forgotten by whoever meets it
    if job.status == "scheduled" and job.scheduled_for:
        return where, f"s{_seconds(job.scheduled_for)}"
    return where, "w"


def _seconds(text: str) -> str:
    try:
        return f"{parse_time(text) / 1e6:.6f}"
    except ValueError:
        return "0"


# --- reading --------------------------------------------------------------------------------------


async def _members(broker: Broker, key: str) -> list[bytes]:
    found: list[bytes] = []
    cursor: Any = b"0"
    while True:
        cursor, pairs = await broker.transport.command(
            "ZSCAN", key, cursor, "COUNT", _SCAN, repeat=True
        )
        found += pairs[::2]
        if cursor == b"0":
            return found


async def _scan(broker: Broker, pattern: str) -> AsyncIterator[str]:
    """Give the names of keys under the prefix, none twice."""
    prefix = re.sub(r"([\\*?\[\]])", r"\\\1", broker.keys.prefix)
    seen: set[bytes] = set()
    cursor: Any = b"0"
    while True:
        words = ("SCAN", cursor, "MATCH", f"{prefix}:{pattern}", "COUNT", _SCAN)
        cursor, names = await broker.transport.command(*words, repeat=True)
        for name in names:
            if name not in seen:
                seen.add(name)
                yield name.decode("utf-8", "surrogateescape")
        if cursor == b"0":
            return
