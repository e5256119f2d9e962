"""A broker that is written to by an enemy: nothing runs but what was registered, nobody dies.

The enemy has every key of the queue. What he can do is what SECURITY.md says that he can:
enqueue registered tasks, and destroy what is there. He runs no code of his own.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api_serving import serving
from bananas.client import Client
from bananas.settings import Settings
from command_line import invoke
from fleets import PREFIX, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from redis import Redis

    from fleets import Fleet, Ledger
    from servers import Server

NAMES = [
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "builtins.exec",
    "__import__",
    "importlib.import_module",
    "fleet_app:quick",
    "fleet_app.app",
    "quick.__globals__",
    "app.registry",
    "../quick",
    "quick\n",
    "QUICK",
    "",
    "\x1b[2J",
    "a\r\nb",
    "$(touch pwned)",
    "é" * 3000,
]


class _Exploit:
    """What a pickle of it does when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:  # noqa: ANN401
        return (open, (self.path, "w"))


def hostile(trap: Path) -> list[bytes]:
    """Return bytes that are no record, or a cruel one; code among them would make a file."""
    touch = f"touch {trap}"
    lua = f'os.execute("{touch}")'
    return [
        b"",
        b"\0" * 64,
        b"\xff\xfe\xfd",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"1e999",
        b"[" * 50_000,
        b'{"id":' * 5_000,
        b"9" * 100_000,
        b'{"id":"e","name":"quick"',
        b'{"id":"e","name":"quick"}\n{"id":"e","name":"quick"}',
        b'{"name":"\\ud800"}',
        b'{"id":"e","name":"quick","list":"queue:nowhere"}',
        b'{"id":"e","name":"quick","payload":{},"attempts":1e300,"max_retries":-1}',
        b'{"id":"e","name":"quick","payload":{},"created_at":"\xf0\x9f\x92\xa5"}',
        json.dumps({"name": "quick", "payload": "x" * 1_000_000}).encode(),
        pickle.dumps(_Exploit(str(trap))),
        f'!!python/object/apply:os.system ["{touch}"]'.encode(),
        lua.encode(),
        json.dumps({"exc_module": "os", "exc_type": "system", "exc_message": [touch]}).encode(),
        json.dumps({"__class__": "os.system", "args": [touch], "py/reduce": [touch]}).encode(),
        json.dumps({"name": "quick", "payload": {"__import__": "os"}}).encode(),
        json.dumps({"name": "quick", "payload": [touch]}).encode(),
        json.dumps({"name": "quick", "error": "\x1b]0;evil\x07\r\n", "status": "failed"}).encode(),
        *(
            json.dumps({"id": f"n{n}", "name": name, "payload": {"command": touch}}).encode()
            for n, name in enumerate(NAMES)
        ),
        *(json.dumps({"name": name, "payload": [touch]}).encode() for name in NAMES),
    ]


def poison(redis: Redis, values: list[bytes]) -> list[str]:
    """Write hostile values into every structure that has values of its own; returns the keys."""
    texts: list[Any] = values
    for number, value in enumerate(values):
        redis.set(f"{PREFIX}:job:evil{number}", value)
    ids = [f"evil{n}" for n in range(len(values))]
    odd: list[Any] = [b"", b"\xff", b"a b", b"{}", b"\r\n", b"x" * 10_000, *NAMES]
    for place in ("queue:high", "queue:normal", "queue:low", "sorted:queue:normal"):
        redis.lpush(f"{PREFIX}:{place}", *ids, *odd)
    redis.lpush(f"{PREFIX}:route:gpu:queue:low", *ids)
    redis.zadd(f"{PREFIX}:queue:scheduled", dict.fromkeys([*ids, *odd], 0.0))
    redis.zadd(f"{PREFIX}:queue:scheduled", {"past": float("-inf"), "never": float("inf")})
    redis.zadd(f"{PREFIX}:queue:dead", dict.fromkeys([*ids, *odd], 1e300))
    redis.lpush(f"{PREFIX}:queue:normal:wake", *texts[:10])
    redis.hset(f"{PREFIX}:workers", mapping=dict(zip(map(str, range(len(texts))), texts)))  # noqa: B905
    redis.hset(f"{PREFIX}:crashes", mapping=dict.fromkeys(ids, "1"))
    redis.sadd(f"{PREFIX}:cancelled", *odd)
    redis.sadd(f"{PREFIX}:places", *odd, 'route:x:task:"}\x1b:queue:high', "queue:" + "x" * 999)
    redis.zadd(f"{PREFIX}:specials", dict.fromkeys(odd, 9e15))
    redis.incr(f"{PREFIX}:specials:version")
    redis.zadd(f"{PREFIX}:queue:processing:epochs", dict.fromkeys(odd, 1.0))
    for epoch in odd[:6]:
        redis.sadd(b"%b:queue:processing:epoch:%b" % (PREFIX.encode(), epoch), *odd)
    for number, value in enumerate(texts):
        redis.hset(
            f"{PREFIX}:result:evil{number}",
            mapping={"status": value, "result": value, "error": value, "duration_ms": value},
        )
    for text in (b"completed", b"\xff", b"failed\r\n"):
        redis.publish(f"{PREFIX}:result:notify:evil1", text)
    return ids


STRUCTURAL = {
    "queue:normal": b"no list",
    "queue:high:wake": b"no list",
    "queue:scheduled": b"no sorted set",
    "queue:processing:epochs": b"no sorted set",
    "queue:dead": b"no sorted set",
    "workers": b"no hash",
    "crashes": b"no hash",
    "cancelled": b"no set",
    "places": b"no set",
    "specials": b"no sorted set",
    "counters": b"no hash",
}
"""Keys that are replaced by a string, one after the other, while the fleet works."""


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_only_registered_functions_run_and_nobody_dies(
    make_server: Callable[..., Server],
    fleet: Callable[..., Fleet],
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    """Every kind of message, straight into Redis, under a real fleet; then it is looked at."""
    trap = tmp_path / "pwned"
    values = hostile(trap)
    server = make_server()
    with server.client() as redis:
        running = await asyncio.to_thread(fleet(server.url, MAX_RETRIES="1").start)
        pids = sorted([running.pid, *running.children()])
        settings = Settings(redis_url=server.url, key_prefix=PREFIX)
        async with Client(settings=settings) as client:

            async def well(what: str) -> None:
                """A good job runs, and the processes are those that were there."""
                job = await client.submit("quick", result=True)
                await client.get_result(job.id, wait_s=60)
                assert (await client.get_job(job.id)).status == "completed", what
                assert sorted([running.pid, *running.children()]) == pids, what

            await well("before")
            ids = poison(redis, values)
            await well("among hostile records")
            await asyncio.to_thread(
                wait_for, lambda: redis.llen(f"{PREFIX}:queue:low") == 0, within_s=60
            )
            await well("after them")
            await look(settings, ids)
            for key, value in STRUCTURAL.items():
                kept = redis.dump(f"{PREFIX}:{key}")
                redis.set(f"{PREFIX}:{key}", value)
                redis.lpush(f"{PREFIX}:queue:low", "nobody")
                await asyncio.sleep(0.3)  # some beats and promotions: there is no event to wait for
                pipe = redis.pipeline()
                pipe.delete(f"{PREFIX}:{key}")
                if kept is not None:
                    pipe.restore(f"{PREFIX}:{key}", 0, kept)
                pipe.execute()
                await well(key)
        status = await asyncio.to_thread(running.stop)
    assert status == 0
    assert not trap.exists()
    # What ran: the tasks that are registered, each by its very name.
    assert {line.what for line in ledger.lines()} <= {"start", "effect"}
    log = running.text()
    assert "Traceback" not in log or "quick()" in log
    assert "\x1b" not in log


async def look(settings: Settings, ids: list[str]) -> None:
    """Have everything that reads it read it: no 500, no traceback, nothing that steers."""
    async with serving(settings) as http:
        paths = [f"/jobs/{i}{more}" for i in ids for more in ("", "/result")]
        paths += ["/dead?limit=1000", "/dead?error=evil", "/queues", "/stats", "/health"]
        for path in paths:
            answer = await http.get(path)
            assert answer.status_code in (200, 202, 404, 502), (path, answer.text[:300])
            json.loads(answer.text)
        metrics = await http.get("/metrics")
        assert metrics.status_code == 200
        assert list(text_string_to_metric_families(metrics.text))
        for method, path in (("POST", "/dead/retry?name=quick"), ("DELETE", "/dead?name=quick")):
            answer = await http.request(method, path)
            assert answer.status_code == 200, answer.text[:300]
    env = {"BANANAS_REDIS_URL": settings.redis_url, "BANANAS_KEY_PREFIX": PREFIX}
    commands = [
        ["queue", "ls"],
        ["dead", "ls", "--limit", "1000"],
        ["dead", "groups"],
        ["doctor", "--audit"],
        *(["job", "show", job_id] for job_id in ids[::6]),
        *(["dead", "show", job_id] for job_id in ids[::6]),
    ]
    for command in commands:
        began = time.monotonic()
        for more in ([], ["--json"]):
            said = await asyncio.to_thread(invoke, *command, *more, env=env)
            assert said.exit_code in (0, 1), (command, said.output[-500:])
            assert "Traceback" not in said.output, command
            assert "\x1b" not in said.output, command
            if more:
                json.loads(said.stdout)
        assert time.monotonic() - began < 60
