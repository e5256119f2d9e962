"""A queue without a loop: each transition runs at once on a real server, by a movable clock.

`BareQueue.broker` is the real `Broker` with the real scripts; only the way to the
server is a plain client instead of the pipelining transport, and `lib/now.lua` reads
a key instead of asking the server, and `slot_guard` stands before each script.
Everything a script left is seen by `snapshot`.
"""

# ruff: noqa: ANN401 - what a script answers has as many shapes as there are scripts

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from bananas.broker import Batch, Broker, Entry, Retention, Settlement
from bananas.keys import Keys
from bananas.scripts import Script, Scripts, load_all
from slot_guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from redis import Redis

START_MS = 1_800_000_000_000
CLOCK_KEY = "clock-of-tests-ms"
NORMAL = "queue:normal"

CLOCK = f"local function now_ms() return tonumber(redis.call('GET', '{CLOCK_KEY}')) end\n"


@functools.cache
def plain_scripts() -> Scripts:
    """Return the scripts as they are, but for their clock."""
    return load_all(instead={"lib/now.lua": CLOCK})


@functools.cache
def _scripts() -> Scripts:
    return guarded_scripts(plain_scripts())


def guarded_scripts(scripts: Scripts) -> Scripts:
    """Return the scripts with `slot_guard` before each."""
    return Scripts(**{name: _guarded(getattr(scripts, name)) for name in Scripts.__slots__})


def _guarded(script: Script) -> Script:
    source = guarded(script.source, CLOCK_KEY, lone=script.lone)
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return dataclasses.replace(script, source=source, sha=sha)


def record(job_id: str, place: str | None = NORMAL, *, size: int = 0, **fields: object) -> bytes:
    """Return a record, padded to `size` bytes; without a place it is a foreign one."""
    members: dict[str, object] = {"id": job_id, "name": "t", "payload": None, **fields}
    text = json.dumps(members)[:-1]
    end = "}" if place is None else f',"list":"{place}"}}'
    padding = size - len(text) - len(end) - len(',"pad":""')
    if padding >= 0:
        text += f',"pad":"{"x" * padding}"'
    return (text + end).encode()


class Call(NamedTuple):
    """One script call as it went over the wire."""

    script: Script
    keys: list[Any]
    args: list[Any]


class _PlainTransport:
    """Runs each call when it is made, and remembers it so that a test can send it again."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.last: Call | None = None

    async def call(self, script: Script, keys: Sequence[Any] = (), args: Sequence[Any] = ()) -> Any:
        self.last = Call(script, list(keys), list(args))
        return self.send(self.last)

    def send(self, call: Call) -> Any:
        words = (len(call.keys), *call.keys, *call.args)
        try:
            return self.client.evalsha(call.script.sha, *words)
        except NoScriptError:
            return self.client.eval(call.script.source, *words)


class BareQueue:
    """One prefix on one server, an epoch `e1`, and short words for what tests do most."""

    def __init__(self, client: Redis, prefix: str, scripts: Scripts | None = None) -> None:
        """Set the clock; nothing under the prefix is touched."""
        self._scripts = scripts or _scripts()
        self.client = client
        self.keys = Keys(prefix)
        self.transport = _PlainTransport(client)
        self.broker = self.new_broker()
        self.now_ms = START_MS
        self._requests = itertools.count(1)

    def new_broker(self) -> Broker:
        """Return a broker with a knowledge of specials of its own."""
        return Broker(self.transport, self.keys, self._scripts)  # type: ignore[arg-type]

    # --- the clock ------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """What the scripts take for now."""
        return self._now_ms

    @now_ms.setter
    def now_ms(self, value: int) -> None:
        self._now_ms = value
        self.client.set(CLOCK_KEY, value)

    # --- transitions ----------------------------------------------------------------------------

    @staticmethod
    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what a broker method gives; it never waits, so no loop is needed."""
        try:
            coroutine.send(None)
        except StopIteration as ended:
            return ended.value
        raise AssertionError("a plain call waited")

    def again(self, call: Call | None = None) -> Any:
        """Send the last call, or an earlier one, once more with the same bytes; the raw answer."""
        chosen = call or self.transport.last
        assert chosen is not None
        return self.transport.send(chosen)

    @property
    def last(self) -> Call:
        """The last call, to be sent again later."""
        assert self.transport.last is not None
        return self.transport.last

    def request(self) -> str:
        """Return a fresh request id."""
        return f"r{next(self._requests):05}"

    def enqueue(self, *ids: str, place: str = NORMAL, due: str | None = None, size: int = 0) -> Any:
        """Enqueue jobs of our own under a fresh request."""
        entries = [Entry(job_id, place, record(job_id, place, size=size), due) for job_id in ids]
        return self.run(self.broker.enqueue(self.request(), entries))

    def push_foreign(self, job_id: str, place: str = NORMAL) -> None:
        """Do what a foreign client does: write a record, push its id."""
        self.client.set(self.keys.job(job_id), record(job_id, None))
        self.client.lpush(self.keys.waiting(place), job_id)

    def register(
        self, epoch: str = "e1", ttl_s: float = 15, places: Sequence[str] = (NORMAL,)
    ) -> Any:
        """Register an epoch."""
        return self.run(self.broker.register(epoch, ttl_s, {"pid": 1}, places))

    def dequeue(
        self,
        *places: str,
        epoch: str = "e1",
        limit: int = 100,
        room: int = 1 << 20,
        request: str | None = None,
    ) -> Any:
        """Dequeue under a fresh request unless one is given."""
        return self.run(
            self.broker.dequeue(
                request or self.request(), epoch, places or (NORMAL,), limit=limit, room_bytes=room
            )
        )

    def leased(self, *ids: str, place: str = NORMAL, epoch: str = "e1") -> str:
        """Enqueue jobs and lease them; returns the token."""
        self.register(epoch, places=(place,))
        self.enqueue(*ids, place=place)
        batch = self.dequeue(place, epoch=epoch)
        assert sorted(ids_of(batch)) == sorted(ids)
        return str(batch.request)

    def settle(
        self, token: str, *, epoch: str = "e1", retention: Retention | None = None, **outcomes: Any
    ) -> list[str]:
        """Settle; returns the stale ids."""
        settlement = Settlement(token, **outcomes)
        stale = self.run(self.broker.settle(epoch, settlement, retention or Retention()))
        return [job_id.decode() for job_id in stale]

    def die(self, *ids: str, place: str = NORMAL) -> None:
        """Enqueue jobs and let them fail for good."""
        token = self.leased(*ids, place=place, epoch="dying")
        failed = [(job_id.encode(), record(job_id, place, status="failed")) for job_id in ids]
        assert self.settle(token, epoch="dying", failed=failed) == []

    # --- looking --------------------------------------------------------------------------------

    def waiting(self, place: str = NORMAL) -> list[str]:
        """Return the ids of a place's list, the one to be taken next first."""
        return texts(self.client.lrange(self.keys.waiting(place), 0, -1))[::-1]

    def looked_through(self, place: str = NORMAL) -> list[str]:
        """Return the ids of a place's sorted list, the one to be taken next first."""
        return texts(self.client.lrange(self.keys.sorted(place), 0, -1))[::-1]

    def markers(self, place: str = NORMAL) -> int:
        """Return how many wake markers a place has."""
        return int(self.client.llen(self.keys.wake(place)))

    def counters(self) -> dict[str, int]:
        """Return the counters."""
        found = self.client.hgetall(self.keys.counters)
        return {name.decode(): int(count) for name, count in found.items()}

    def scheduled(self) -> dict[str, float]:
        """Return due times by id, in their order."""
        found = self.client.zrange(self.keys.scheduled, 0, -1, withscores=True)
        return {job_id.decode(): due for job_id, due in found}

    @contextlib.contextmanager
    def bell(self) -> Iterator[Callable[[], int]]:
        """Listen to what promoters listen to; gives how often it rang since the last look."""
        channel = self.keys.scheduled
        with self.client.pubsub(ignore_subscribe_messages=True) as listener:
            listener.subscribe(channel)
            listener.get_message(timeout=5)

            def rang() -> int:
                self.client.publish(channel, "end")
                told = 0
                while (message := listener.get_message(timeout=5))["data"] != b"end":
                    assert message["data"] == b""
                    told += 1
                return told

            yield rang

    def dead(self) -> dict[str, float]:
        """Return times of failure by id, in their order."""
        found = self.client.zrange(self.keys.dead, 0, -1, withscores=True)
        return {job_id.decode(): at for job_id, at in found}

    def lease(self, token: str) -> set[str]:
        """Return the ids a token holds."""
        return set(texts(self.client.smembers(self.keys.lease(token))))

    def tokens(self, epoch: str = "e1") -> set[str]:
        """Return the requests whose leases an epoch holds."""
        return set(texts(self.client.smembers(self.keys.epoch_leases(epoch))))

    def record(self, job_id: str) -> bytes | None:
        """Return a job's record."""
        found: bytes | None = self.client.get(self.keys.job(job_id))
        return found

    def ttl_s(self, key: str) -> int:
        """Return a key's TTL in whole seconds; -1 = none, -2 = no key."""
        return int(self.client.ttl(key))

    def drift(self) -> int:
        """Return what the audit finds missing or in excess."""
        return int(self.run(self.broker.audit()).drift)

    def snapshot(self, *, answers: bool = False) -> dict[str, tuple[str, Any, int]]:
        """Return all under the prefix: type, content, when it expires (ms, -1 = never).

        Without what `revive`, `purge` and `register` remember of a call (it begins with "="): it
        changes no other call; `answers` has it, too.
        """
        names = sorted(self.client.scan_iter(f"{self.keys.prefix}:*", count=1000))
        with self.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.type(name)
                pipe.pexpiretime(name)
            facts = pipe.execute()
            for name, kind in zip(names, facts[::2], strict=True):
                _read(pipe, name, kind)
            contents = pipe.execute()
        return {
            name.decode().removeprefix(f"{self.keys.prefix}:"): (
                kind.decode(),
                _plain(content),
                ends,
            )
            for name, kind, ends, content in zip(
                names, facts[::2], facts[1::2], contents, strict=True
            )
            if answers or kind != b"string" or not content.startswith(b"=")
        }

    def clear(self) -> None:
        """Remove everything under the prefix; the clock stands."""
        for name in self.client.scan_iter(f"{self.keys.prefix}:*", count=1000):
            self.client.delete(name)

    # --- harm -----------------------------------------------------------------------------------

    def refuses_wrong_types(self, act: Callable[[], object], *keys: str) -> None:
        """Assert that a wrong type in any of the keys is an error before any effect of `act`."""
        for key in keys:
            kept = self.client.dump(key)
            was_string = self.client.type(key) == b"string" or key in _string_keys(self.keys)
            self.client.delete(key)
            if was_string:
                self.client.rpush(key, "wrong")
            else:
                self.client.set(key, "wrong")
            before = self.snapshot()
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                act()
            assert self.snapshot() == before, f"an effect in spite of the wrong type of {key}"
            self.client.delete(key)
            if kept is not None:
                self.client.restore(key, 0, kept)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Put the server, which must be the test's own, at maxmemory; checked by a plain SET."""
        self.client.config_set("maxmemory", 1)
        try:
            with pytest.raises(OutOfMemoryError):
                self.client.set("more", "memory")
            yield
        finally:
            self.client.config_set("maxmemory", 0)


def ids_of(batch: Batch) -> list[str]:
    """Return the ids of a batch in the order to start them."""
    return [job.job_id.decode() for job in batch.jobs]


def texts(values: Sequence[bytes] | set[bytes]) -> list[str]:
    """Decode many."""
    return [value.decode() for value in values]


def _string_keys(keys: Keys) -> set[str]:
    return {keys.specials_version}


def _read(pipe: Any, name: bytes, kind: bytes) -> None:
    if kind == b"string":
        pipe.get(name)
    elif kind == b"list":
        pipe.lrange(name, 0, -1)
    elif kind == b"set":
        pipe.smembers(name)
    elif kind == b"hash":
        pipe.hgetall(name)
    else:
        pipe.zrange(name, 0, -1, withscores=True)


def _plain(content: Any) -> Any:
    if isinstance(content, bytes):
        return content
    if isinstance(content, dict):
        return {name.decode(): value for name, value in content.items()}
    if isinstance(content, set):
        return {value.decode() for value in content}
    if content and isinstance(content[0], tuple):
        return {value.decode(): score for value, score in content}
    return [value.decode() for value in content]
