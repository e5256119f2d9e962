"""The producers of a run, one process: submits jobs of all kinds, and sees how each ends.

`python -m chaos.feeder LEDGER PREFIX URL PROXIED_URL RATE SEED`; obeys lines on its standard input:
`go`, `burst`, `quiet`, `leave`. What a submission came to is written when it is known; one whose
outcome is unknown is repeated with the same id until it is.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from bananas.client import Client
from bananas.errors import (
    BrokerError,
    BrokerFullError,
    BrokerUnavailableError,
    DuplicateJobError,
    StateError,
)
from bananas.keys import Keys
from bananas.settings import Settings
from chaos.kinds import BURST, KINDS, Kind, draw
from chaos.ledger import Pen

AT_ONCE: Final = 64
"""Most submissions under way."""

MOST_OPEN: Final = 1500
"""Jobs accepted and not ended at which it waits: the fleets are not to drown."""

LOOK_S: Final = 0.5
ENDED: Final = frozenset({"completed", "failed", "cancelled"})


class Feeder:
    """Submits and watches."""

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of its command line
        self, ledger: str, prefix: str, url: str, proxied: str, rate: float, seed: int
    ) -> None:
        """Prepare; `run` connects."""
        self._pen = Pen(ledger)
        self._keys = Keys(prefix)
        self._chance = Random(seed)
        self._rate = rate
        self._clients = [
            Client(settings=Settings(redis_url=u, key_prefix=prefix, retention_completed_s=900.0))
            for u in (url, proxied)
        ]
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=5.0, protocol=2, retry=Retry(NoBackoff(), 0)
        )
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[str, None] = {}
        self._quiet = True
        self._leaving = False
        self._number = 0
        self._run = f"{seed:x}-{time.time_ns():x}"

    async def run(self) -> None:
        """Obey until told to leave."""
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        jobs = [loop.create_task(self._feed()), loop.create_task(self._watch())]
        while line := await commands.readline():
            match line.strip():
                case b"go":
                    self._quiet = False
                case b"burst":
                    for _ in range(BURST):
                        await self._spawn("patient")
                case b"quiet":
                    self._quiet = True
                    loop.create_task(self._tell_when_done())  # noqa: RUF006 - lives as long as we do
                case b"leave":
                    break
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        for client in self._clients:
            await client.aclose()
        await self._redis.aclose()

    async def _tell_when_done(self) -> None:
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        self._pen.note("quiet")

    # --- submitting ---------------------------------------------------------------------------

    async def _feed(self) -> None:
        due = {name: self._chance.uniform(0, k.every_s) for name, k in KINDS.items() if k.every_s}
        began = time.monotonic()
        while True:
            await asyncio.sleep(self._chance.expovariate(self._rate))
            if self._quiet or len(self._open) > MOST_OPEN:
                continue
            name = draw(self._chance)
            for rare, at_s in due.items():
                if time.monotonic() - began >= at_s:
                    name = rare
                    due[rare] += KINDS[rare].every_s * self._chance.uniform(0.7, 1.3)
                    break
            await self._spawn(name)

    async def _spawn(self, name: str) -> None:
        await self._room.acquire()
        task = asyncio.ensure_future(self._one(name, KINDS[name]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, name: str, kind: Kind) -> None:
        try:
            self._number += 1
            job_id = f"{name}.{self._run}.{self._number}"
            through = 0 if kind.foreign else self._chance.randrange(2)
            due = time.monotonic() + float(kind.options.get("delay_s", 0.0))
            fields = {"id": job_id, "kind": name, "due": due, "through": through}
            self._pen.note("offer", **fields)
            if kind.foreign:
                verdict = await self._push(job_id, kind)
            else:
                verdict = await self._submit(job_id, kind, self._clients[through])
            if verdict != "refused":
                self._open[job_id] = None
            self._pen.note(verdict, id=job_id)
            if kind.cancel and verdict == "accepted":
                await self._cancel(job_id, self._clients[through])
        except Exception as error:  # noqa: BLE001 - a defect to be told, not to end the run
            self._pen.note("trouble", who="feeder", error=f"{type(error).__name__}: {error}")
        finally:
            self._room.release()

    async def _submit(self, job_id: str, kind: Kind, client: Client) -> str:
        options = {**kind.options, "id": job_id}
        payload = dict(kind.payload)
        if kind.task == "bunch":
            payload["id"] = job_id
        if job_id.startswith("expiring."):
            options["expires_at"] = datetime.now(UTC) + timedelta(seconds=1)
        unknown = False
        while True:
            try:
                await client.submit(kind.task, payload, **options)
            except BrokerFullError:
                if not unknown:
                    return "refused"
                await asyncio.sleep(0.5)  # an earlier copy may have got in
            except BrokerUnavailableError:
                unknown = True
                self._pen.note("unknown", id=job_id)
            except DuplicateJobError:
                return "accepted" if unknown else "doubted"
            else:
                return "accepted"

    async def _push(self, job_id: str, kind: Kind) -> str:
        """Submit as another program would; what it cannot know it does not repeat."""
        record = {"payload": kind.payload, "name": kind.task, "id": job_id}
        key = self._keys.job(job_id)
        try:
            await self._redis.set(key, orjson.dumps(record))
        except ResponseError:
            return "refused"
        except (RedisError, OSError):
            return "perhaps"
        try:
            if delay_s := kind.options.get("delay_s"):
                await self._redis.zadd(self._keys.scheduled, {job_id: time.time() + delay_s})
            else:
                await self._redis.lpush(self._keys.waiting("queue:normal"), job_id)
        except ResponseError:
            await self._redis.delete(key)
            return "refused"
        except (RedisError, OSError):
            return "perhaps"
        return "accepted"

    async def _cancel(self, job_id: str, client: Client) -> None:
        try:
            await client.cancel(job_id)
        except (StateError, BrokerError):
            return  # it runs, has ended, or nobody knows
        self._pen.note("cancelled", id=job_id)

    # --- watching -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Write the end of every job when its record tells it."""
        while True:
            await asyncio.sleep(LOOK_S)
            ids = list(self._open)
            for begin in range(0, len(ids), 500):
                chunk = ids[begin : begin + 500]
                try:
                    records = await self._redis.mget([self._keys.job(i) for i in chunk])
                except (RedisError, OSError):
                    break
                for job_id, record in zip(chunk, records, strict=True):
                    self._look_at(job_id, record)

    def _look_at(self, job_id: str, data: bytes | None) -> None:
        if data is None:
            return
        record: dict[str, Any] = orjson.loads(data)
        if record.get("status") in ENDED:
            del self._open[job_id]
            self._pen.note(
                "finish",
                id=job_id,
                status=record["status"],
                updated=record.get("updated_at", ""),
                attempts=record.get("attempts", 0),
                error=record.get("error", "")[:200],
            )


if __name__ == "__main__":
    ledger, prefix, url, proxied, rate, seed = sys.argv[1:]
    asyncio.run(Feeder(ledger, prefix, url, proxied, float(rate), int(seed)).run())
