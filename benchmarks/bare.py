"""The bare client: sends commands that were made beforehand and throws the answers away.

What it reaches is the physical limit of what the commands ask for: nothing is encoded,
parsed or decided by the client while the clock runs.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import uvloop

from bananas.broker import Batch, Broker, Retention, Settlement
from bananas.ids import request_id
from bananas.transport import Transport
from benchmarks.records import PLACE, entries

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from redis import Redis

    from servers import Server

STEPS: Final = ("enqueue", "dequeue", "settle")
_END: Final = b"bare-end"
_LAST: Final = b"$%d\r\n%b\r\n" % (len(_END), _END)
_ASK: Final = b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(_END), _END)
_JOBS_A_WINDOW: Final = 1_000
"""So much is on its way at once, whatever the batch: enough to hide every round trip."""
_room = bytearray(1 << 18)
"""For answers; made once, as fresh memory of this size costs page faults now and then."""
_NATIVE: Final = {
    "enqueue": ("mset", "lpush"),
    "dequeue": ("rpop", "sadd", "mget"),
    "settle": ("srem", "del"),
}


@dataclass(slots=True)
class Life:
    """The packed commands of whole lives, by step; `before` is sent first and not timed."""

    before: list[bytes] = field(default_factory=list[bytes])
    steps: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])


class Recorder(Transport):
    """A transport that keeps the bytes of what it sends."""

    def __init__(self, url: str) -> None:
        """Begin with nothing kept."""
        super().__init__(url)
        self.kept: list[bytes] = []

    def _submit(self, data: bytes, *rest: Any) -> asyncio.Future[Any]:  # noqa: ANN401 - as it comes
        self.kept.append(data)
        return super()._submit(data, *rest)

    def taken(self) -> list[bytes]:
        """Return what was kept, and begin anew."""
        kept, self.kept = self.kept, []
        return kept


def record_scripts(server: Server, jobs: int, batch: int) -> Life:
    """Let our own broker live so many jobs through, and keep what it sent."""

    async def live() -> Life:
        transport = Recorder(server.url)
        broker, epoch = Broker(transport), request_id()
        await broker.register(epoch, 600.0, {})
        life = Life(before=transport.taken())
        for _ in range(jobs // batch):
            await broker.enqueue(request_id(), entries(batch))
        life.steps["enqueue"] = transport.taken()
        leases: list[Batch] = []
        for _ in range(jobs // batch):
            leased = await broker.dequeue(
                request_id(), epoch, [PLACE], limit=batch, room_bytes=1 << 20
            )
            assert isinstance(leased, Batch)
            leases.append(leased)
        life.steps["dequeue"] = transport.taken()
        for leased in leases:
            done = Settlement(leased.request, dropped=[job.job_id for job in leased.jobs])
            assert await broker.settle(epoch, done, Retention()) == []
        life.steps["settle"] = transport.taken()
        await transport.close()
        return life

    return _run(live())


def record_native(server: Server, jobs: int, batch: int) -> Life:
    """Keep the fewest plain commands that move the same data: nothing leased, nothing fenced."""

    async def live() -> Life:
        transport = Recorder(server.url)
        life = Life(steps={step: [] for step in STEPS})
        for number in range(jobs // batch):
            fresh = entries(batch)
            ids = [entry.job_id for entry in fresh]
            keys = [f"native:job:{job_id}" for job_id in ids]
            pairs = [
                part for key, entry in zip(keys, fresh, strict=True) for part in (key, entry.record)
            ]
            lease = f"native:lease:{number}"
            for step, commands in (
                ("enqueue", (("MSET", *pairs), ("LPUSH", "native:queue", *ids))),
                (
                    "dequeue",
                    (("RPOP", "native:queue", batch), ("SADD", lease, *ids), ("MGET", *keys)),
                ),
                ("settle", (("SREM", lease, *ids), ("DEL", *keys))),
            ):
                for words in commands:
                    await transport.command(*words)
                life.steps[step] += transport.taken()
        await transport.close()
        return life

    return _run(live())


def replay(server: Server, redis: Redis, life: Life, jobs: int, batch: int) -> dict[str, float]:
    """Empty the server and send a life again; CPU of server and client by step, us a job.

    Returns:
        By step, `STEP_server_us`, `STEP_client_us` and `STEP_inside_us`: what the server spent
        inside the commands, sockets and parsing not counted; and `server_us` in all.
    """
    redis.flushall()
    names = None if life.before else _NATIVE
    figures: dict[str, float] = {}
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(server.socket))
        _send(wire, b"".join(life.before) + _ASK)
        for step in STEPS:
            commands = life.steps[step]
            window = max(1, _JOBS_A_WINDOW // batch) * (len(commands) * batch // jobs)
            ready = [
                b"".join(commands[first : first + window]) + _ASK
                for first in range(0, len(commands), window)
            ]
            redis.config_resetstat()
            server_s, client_s = server_cpu_s(redis), time.process_time()
            for each in ready:
                _send(wire, each)
            client_s = time.process_time() - client_s
            figures[f"{step}_server_us"] = (server_cpu_s(redis) - server_s) / jobs * 1e6
            figures[f"{step}_client_us"] = client_s / jobs * 1e6
            figures[f"{step}_inside_us"] = _inside_us(redis, names, step) / jobs
    figures["server_us"] = sum(figures[f"{step}_server_us"] for step in STEPS)
    _check(redis, jobs, scripted=bool(life.before))
    return figures


def server_cpu_s(redis: Redis) -> float:
    """Return the CPU time of the server's process."""
    info: Any = redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _inside_us(redis: Redis, names: dict[str, tuple[str, ...]] | None, step: str) -> float:
    stats: Any = redis.info("commandstats")
    wanted = ("evalsha",) if names is None else names[step]
    return sum(float(stats[f"cmdstat_{name}"]["usec"]) for name in wanted)


def _check(redis: Redis, jobs: int, *, scripted: bool) -> None:
    """Answers were thrown away, so look whether all was done."""
    if scripted:
        done = int(redis.hget("bananas:counters", "completed") or 0)
        assert done == jobs, f"{done} of {jobs} completed"
    else:
        left = redis.dbsize()
        assert left == 0, f"{left} keys left"


def _run(living: Coroutine[Any, Any, Life]) -> Life:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(living)


def _send(wire: socket.socket, commands: bytes) -> None:
    """Write all at once, then read until the answer to the last, `_ASK`, is there."""
    wire.sendall(commands)
    tail = b""
    while not tail.endswith(_LAST):
        got = wire.recv_into(_room)
        assert got, "the server hung up"
        tail = (tail + _room[max(0, got - len(_LAST)) : got])[-len(_LAST) :]
