"""The scenario of the exhaustive cut: jobs that live every kind of life, through real parts.

A client, a worker and a warden's services each speak through a transport of their own to the
proxy. Time is the test's: the scripts read it from a key. Steps follow each other, so that an
undisturbed run sends the same commands in the same order every time, and "the n-th command"
means something.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from bananas.app import Bananas
from bananas.broker import Broker
from bananas.client import Client
from bananas.clock import SYSTEM_CLOCK
from bananas.context import current_job
from bananas.errors import Discard, DuplicateJobError, Retry, Snooze
from bananas.ids import request_id
from bananas.keys import Keys
from bananas.settings import Settings
from bananas.table import SlotState, Table
from bananas.transport import Transport
from bananas.warden.beat import Beat
from bananas.warden.culprits import Culprits
from bananas.warden.promoter import Promoter
from bananas.warden.pruner import Pruner
from bananas.warden.reclaimer import Reclaimer
from bananas.worker.worker import Worker
from bare_queue import BareQueue, plain_scripts, record
from workbench import until

if TYPE_CHECKING:
    from redis import Redis

    from bananas.broker import Batch
    from bananas.scripts import Scripts

HIGH, NORMAL = "queue:high", "queue:normal"
HOUR_S = 3600
ROOM = 1 << 20

_TIME = re.compile(rb"\d{4}-\d\d-\d\dT[0-9:.]+Z")
_HOPS = ("leased", "released", "routed")
"""How often a job was handed out and passed on may differ; how it ended, and was counted, not."""


@dataclass
class Left:
    """What a run left behind, without what no two runs have alike: times, request ids, hints."""

    state: dict[str, tuple[str, Any, bool]]
    runs: list[str]
    told: list[str]
    drift: int

    def unlike(self, other: Left) -> str:
        """Return what is different in another run's, one line a key; "" when nothing is."""
        here, there = vars(self) | self.state, vars(other) | other.state
        names = sorted((here.keys() | there.keys()) - {"state"})
        return "\n".join(
            f"{name}:\n  {here.get(name)}\n  {there.get(name)}"
            for name in names
            if here.get(name) != there.get(name)
        )


@dataclass
class Stage:
    """One run of the scenario: who takes part, and what was seen of them."""

    redis: Redis
    prefix: str
    url: str
    reply_timeout_s: float = 5.0
    scripts: Scripts = field(default_factory=plain_scripts)
    patience_s: float = 30.0
    runs: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        """Compose; nothing is sent yet."""
        self.queue = BareQueue(self.redis, self.prefix)
        self._stack = AsyncExitStack()
        self.settings = Settings(
            redis_url=None,
            key_prefix=self.prefix,
            worker_concurrency=4,
            poll_interval_s=0.5,
            beat_interval_s=600,  # the scenario compares leases itself
            lease_ttl_s=1500,
            retry_base_s=1,
            retry_jitter=0,
        )
        self.app = Bananas(settings=self.settings)
        self._register()
        self.table = Table.create(2, self.settings.begun_entries)
        self.slot = self.table.slots[0]
        self.slot.claim("worker", now_ns=time.monotonic_ns())
        self.client = Client(settings=self.settings, broker=self._broker("client"))
        self._stack.push_async_callback(self.client.aclose)
        self.warden = self._broker("warden")
        self.worker = Worker(
            self._broker("worker"),
            self._transport("wake"),
            self.app.registry,
            self.settings,
            self.slot,
        )
        self.beat = Beat(self.warden, self.table, SYSTEM_CLOCK, ttl_s=1500)
        culprits = Culprits(self.warden, self.settings, SYSTEM_CLOCK)
        self.reclaimer = Reclaimer(self.warden, self.table, SYSTEM_CLOCK, culprits, ttl_s=1500)
        self.promoter = Promoter(self.warden, (HIGH, NORMAL), interval_s=0.1)
        self.pruner = Pruner(self.warden, retention_failed_s=self.settings.retention_failed_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        try:
            with suppress(TimeoutError):  # a leaving that was itself cut short never ends
                async with asyncio.timeout(2):
                    await self.worker.stop(0)
        finally:
            await self._stack.aclose()

    def _transport(self, name: str) -> Transport:
        transport = Transport(
            self.url,
            client_name=name,
            reply_timeout_s=self.reply_timeout_s,
            chance=lambda: 0.0,  # the shortest pauses
        )
        self._stack.push_async_callback(transport.close)
        return transport

    def _broker(self, name: str) -> Broker:
        return Broker(self._transport(name), Keys(self.prefix), self.scripts)

    # --- the tasks ------------------------------------------------------------------------------

    def _register(self) -> None:
        task = self.app.task
        task(name="good", result=True)(self._good)
        task(name="leaves-nothing", retention_s=0)(self._good)
        task(name="in-a-thread")(self._in_a_thread)
        task(name="second-time")(self._second_time)
        task(name="later")(self._later)
        task(name="bad", result=True)(self._bad)
        task(name="hopeless", result=True)(self._hopeless)
        task(name="stays")(self._stays)

    def _note(self) -> int:
        job = current_job()
        self.runs.append(f"{job.id} {job.attempt}")
        return job.attempt

    async def _good(self, n: int = 0) -> int:
        self._note()
        return n

    def _in_a_thread(self) -> None:
        self._note()

    async def _second_time(self) -> None:
        if self._note() == 1:
            raise Retry(5, "not yet")

    async def _later(self) -> None:
        self._note()
        if self.runs.count("snoozed 1") == 1:
            raise Snooze(7)

    async def _bad(self, mend: bool = False) -> None:
        self._note()
        if not mend:
            raise ValueError

    async def _hopeless(self) -> None:
        self._note()
        raise Discard("no use")

    async def _stays(self) -> None:
        self._note()
        await asyncio.Event().wait()

    # --- steps ----------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Wait until nothing waits or is leased, and the worker knows it."""
        keys, worker = self.queue.keys, self.worker

        def at_rest() -> bool:
            if worker._broker.transport.outstanding or worker._settler.requests:
                return False
            with self.redis.pipeline(transaction=False) as pipe:
                pipe.scard(keys.epoch_leases(worker.epoch))
                pipe.llen(keys.waiting(HIGH)).llen(keys.waiting(NORMAL))
                return not any(pipe.execute())

        await until(at_rest, within_s=self.patience_s)

    async def take(self, epoch: str) -> Batch:
        """Lease the oldest job to an epoch as its process does, and do nothing with it."""
        batch = await self.warden.dequeue(
            request_id(), epoch, [HIGH, NORMAL], limit=1, room_bytes=ROOM
        )
        assert batch is not None
        return batch  # type: ignore[return-value]

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and move what has become due."""
        self.queue.now_ms += int(seconds * 1000)
        await self.promoter.promote()
        await self.settled()

    async def play(self) -> None:
        """Play the whole scenario."""
        await self.begin()
        await self.lose_processes()
        await self.work()
        await self.lose_an_answer()
        await self.operate()
        await self.leave()

    async def begin(self) -> None:
        """Submit jobs of every kind, one by one and in a chunk; cancel some."""
        client = self.client
        await client.submit("good", {"n": 1}, id="killed", priority="high")
        await client.submit("good", {"n": 2}, id="lapsed", priority="high")
        await client.submit("good", {"n": 3}, id="cancelled-waiting")
        await client.submit("good", {"n": 4}, id="cancelled-scheduled", delay_s=HOUR_S)
        await client.cancel("cancelled-waiting")
        await client.cancel("cancelled-scheduled")
        try:
            await client.submit("good", {"n": 5}, id="killed")
        except DuplicateJobError as duplicate:
            self.told.append(f"duplicate {duplicate}")
        chunk = [
            {"name": "leaves-nothing", "id": "dropped"},
            {"name": "in-a-thread", "id": "threaded"},
            {"name": "second-time", "id": "retried"},
            {"name": "later", "id": "snoozed"},
            {"name": "bad", "id": "dead-and-back"},
            {"name": "bad", "id": "dead-and-purged"},
            {"name": "hopeless", "id": "dead-and-pruned"},
            {"name": "nobody-knows-it", "id": "unclaimed"},
            {"name": "good", "id": "too-late", "expires_at": "2020-01-01T00:00:00Z"},
            {"name": "good", "id": "scheduled", "delay_s": 3},
            {"name": "good", "id": "killed"},
        ]
        verdicts = await client.submit_chunk(chunk)
        self.told += [f"{verdict.id} {verdict.status}" for verdict in verdicts.exceptions]
        self.redis.set(self.queue.keys.job("foreign"), _foreign("foreign", "good", "normal"))
        self.redis.set(self.queue.keys.job("misplaced"), _foreign("misplaced", "good", "high"))
        self.redis.lpush(self.queue.keys.waiting(NORMAL), "foreign", "misplaced")

    async def lose_processes(self) -> None:
        """One process is known to be dead, with a run begun; another's lease lapses."""
        await self.warden.register("dying", 1500, {}, [HIGH])
        await self.take("dying")
        await self.reclaimer.reclaim("dying", proven=True, charged=[b"killed"])
        await self.warden.register("lapsing", 60, {}, [HIGH])
        await self.take("lapsing")
        self.queue.now_ms += 61_000
        for epoch in (await self.warden.lapsed()).epochs:
            await self.reclaimer.reclaim(epoch, proven=False)

    async def work(self) -> None:
        """A worker does what there is, also what is due again."""
        await self.worker.start()
        self.slot.state = SlotState.READY
        await self.settled()
        self.told.append(f"beats {await self.beat.beat()}")
        for _ in range(3):
            await self.pass_time(10)

    async def lose_an_answer(self) -> None:
        """A batch is leased to the worker and the answer is lost for good: it goes back."""
        self.worker.quiet()
        await self.client.submit("good", {"n": 9}, id="lost-answer")
        await self.take(self.worker.epoch)
        await self.worker._reconcile({})
        self.worker._fetcher.closed = False
        self.worker._fetcher.stir()
        await self.settled()

    async def operate(self) -> None:
        """An operator mends one failed job and deletes another; a third outlives its time."""
        await self.client.retry("dead-and-back", payload={"mend": True})
        await self.settled()
        self.told.append(f"deleted {await self.client.delete_dead('dead-and-purged')}")
        await self.pass_time(self.settings.retention_failed_s + 1)
        await self.pruner.prune()

    async def leave(self) -> None:
        """The worker leaves with a job running: that goes back to the front of its queue."""
        await self.client.submit("stays", id="given-back", priority="high")
        await until(lambda: "given-back 1" in self.runs)
        await self.worker.stop(0.01)

    # --- the end --------------------------------------------------------------------------------

    def left(self) -> Left:
        """Return what there is, in a form in which equal runs are equal."""
        state = {
            name: (kind, _plain(content), ends != -1)
            for name, (kind, content, ends) in self.queue.snapshot().items()
            if not name.startswith("request:") and not name.endswith(":wake")
        }
        for hop in _HOPS:
            state["counters"][1].pop(hop, None)
        return Left(state, sorted(self.runs), self.told, self.queue.drift())


class Names:
    """What requests are called in a report: by their script, or by themselves."""

    def __init__(self, scripts: Scripts) -> None:
        """Know the scripts by their content."""
        found = [getattr(scripts, item.name) for item in fields(scripts)]
        self._scripts = {script.sha: script.name for script in found}
        self.sources = [script.source for script in found]

    def __call__(self, request: bytes) -> str:
        """Return the name of one."""
        words = request.split(b"\r\n", 5)
        command = words[2].decode().upper()
        return self._scripts[words[4].decode()] if command == "EVALSHA" else command


def _foreign(job_id: str, task: str, priority: str) -> bytes:
    return record(job_id, None, name=task, payload={"n": 7}, priority=priority)


def _plain(content: Any) -> Any:  # noqa: ANN401 - whatever Redis holds
    if isinstance(content, bytes):
        return _TIME.sub(b"TIME", content)
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items() if name != "duration_ms"}
    return content
