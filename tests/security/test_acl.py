"""The users of docs/operations.md: each part works under its own, and may no more than that."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from api_serving import serving
from bananas.client import Client
from bananas.errors import BananasError
from bananas.settings import Settings
from bananas.transport import Transport
from clusters import Cluster, slot_of
from command_line import invoke
from fleets import PREFIX
from replicas import Pair
from servers import Kind, Server, available, version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fleets import Fleet

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
PASSWORD = "of-these-tests"  # noqa: S105
ROLES = ("deploy", "worker", "producer", "viewer")


CLUSTER_PREFIX = "{f}"


def lines(more: str = "") -> list[str]:
    """Return the commands of the page, or those for something more."""
    block = re.search(rf"```redis-acl{more}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    return block[1].splitlines()


def let_in(server: Server, *more: str, prefix: str = PREFIX) -> None:
    """Make the users of the page on a server, with something more."""
    with server.client() as redis:
        for line in [line for which in ("", *more) for line in lines(which)]:
            words = line.replace("bananas:*", f"{prefix}:*").replace("PASSWORD", PASSWORD).split()
            if version(server.kind) < (7, 2) and "+waitaof" in words:
                words.remove("+waitaof")
            redis.execute_command(*words)
        redis.execute_command("ACL", "LOG", "RESET")


def url_of(server: Server, role: str) -> str:
    """Return the address for a user."""
    return f"unix://bananas-{role}:{PASSWORD}@{server.socket}"


@pytest.fixture(params=available())
def guarded(request: pytest.FixtureRequest, make_server: Callable[..., Server]) -> Server:
    """Return a server of each kind with the users of the page."""
    kind: Kind = request.param
    server = make_server(kind)
    let_in(server)
    return server


def denied(redis: Redis) -> list[str]:
    """Return what the server has refused so far."""
    return [str(entry["object"]) for entry in redis.acl_log()]


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_each_part_works_as_its_own_user(
    guarded: Server, fleet: Callable[..., Fleet]
) -> None:
    """A fleet, an application, an API and the commands: nothing of theirs is refused."""

    def settings(role: str) -> Settings:
        return Settings(redis_url=url_of(guarded, role), key_prefix=PREFIX)

    def env(role: str) -> dict[str, str]:
        return {"BANANAS_REDIS_URL": url_of(guarded, role), "BANANAS_KEY_PREFIX": PREFIX}

    loaded = await asyncio.to_thread(invoke, "scripts", "load", env=env("deploy"))
    assert loaded.exit_code == 0, loaded.output
    with guarded.client() as redis:
        running = await asyncio.to_thread(fleet(url_of(guarded, "worker")).start)
        async with Client(settings=settings("producer")) as producer:
            jobs = [await producer.submit("quick", result=True) for _ in range(3)]
            later = await producer.submit("quick", delay_s=0.3, result=True)
            await producer.submit_many({"name": "quick"} for _ in range(50))
            bad = await producer.submit("nobody_knows", max_retries=1)
            await producer.submit("quick", routing_key="gpu")
            for job in [*jobs, later]:
                await producer.get_result(job.id, wait_s=60)
                assert (await producer.get_job(job.id)).status == "completed"
            assert (await producer.get_job(bad.id)).name == "nobody_knows"
        async with Client(settings=settings("worker")) as worker:
            held = await worker.submit("quick", delay_s=600)
            await worker.cancel(held.id)
        for role, ready in (("producer", 200), ("viewer", 200), ("worker", 200)):
            async with serving(settings(role)) as http:
                assert (await http.get("/readyz")).status_code == ready
                assert (await http.get(f"/jobs/{jobs[0].id}")).status_code == 200
                for path in ("/queues", "/stats", "/dead", "/metrics"):
                    if role != "producer":
                        assert (await http.get(path)).status_code == 200, (role, path)
                if role != "viewer":
                    made = await http.post("/jobs?wait_s=30", json={"name": "quick"})
                    assert made.json()["outcome"]["status"] == "completed"
        for command in (
            ["queue", "ls"],
            ["dead", "ls"],
            ["dead", "groups"],
            ["job", "show", jobs[0].id],
        ):
            said = await asyncio.to_thread(invoke, *command, env=env("viewer"))
            assert said.exit_code == 0, said.output
        assert denied(redis) == []
        said = await asyncio.to_thread(invoke, "doctor", env=env("viewer"))
        assert "cannot be used" not in said.output
        assert set(denied(redis)) <= {"config|get", "b'config|get'"}  # it does without
        redis.execute_command("ACL", "LOG", "RESET")
        assert await asyncio.to_thread(running.stop) == 0
        assert denied(redis) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", available())
@pytest.mark.parametrize("durability", ["fsync", "replica"])
async def test_durable_producers_work_as_their_own_users(
    make_server: Callable[..., Server], kind: Kind, durability: str
) -> None:
    """Whoever enqueues with a durability is refused nothing: single, in bulk, over HTTP."""
    if durability == "replica":
        server = Pair(kind, make_server).primary
    elif version(kind) < (7, 2):
        pytest.skip("it has no WAITAOF")
    else:
        server = make_server(kind, aof=True)
    let_in(server, "-durable")
    env = {"BANANAS_REDIS_URL": url_of(server, "deploy"), "BANANAS_KEY_PREFIX": PREFIX}
    loaded = await asyncio.to_thread(invoke, "scripts", "load", env=env)
    assert loaded.exit_code == 0, loaded.output
    for role in ("producer", "worker"):
        settings = Settings(
            redis_url=url_of(server, role), key_prefix=PREFIX, durability=durability
        )
        async with Client(settings=settings) as client:
            await client.submit("quick")
            await client.submit("quick", delay_s=600)
            report = await client.submit_many({"name": "quick"} for _ in range(20))
            assert report.accepted == 20
        async with serving(settings) as http:
            assert (await http.get("/readyz")).status_code == 200
            assert (await http.post("/jobs", json={"name": "quick"})).status_code == 201
    with server.client() as redis:
        assert denied(redis) == []


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", available())
async def test_each_part_works_in_a_cluster(kind: Kind, fleet: Callable[..., Fleet]) -> None:
    """Everybody finds the slot, and follows it while it moves and after; nobody is refused."""
    cluster = Cluster(kind, masters=2)
    try:
        await asyncio.to_thread(cluster.start)
        for node in cluster.nodes:
            let_in(node, "-cluster", prefix=CLUSTER_PREFIX)
            plain = f"redis://bananas-deploy:{PASSWORD}@127.0.0.1:{node.port}"
            env = {"BANANAS_REDIS_URL": plain}
            loaded = await asyncio.to_thread(invoke, "scripts", "load", env=env)
            assert loaded.exit_code == 0, loaded.output

        def env_of(role: str) -> dict[str, str]:
            url = cluster.url.replace("://", f"://bananas-{role}:{PASSWORD}@")
            return {"BANANAS_REDIS_URL": url, "BANANAS_KEY_PREFIX": CLUSTER_PREFIX}

        def client(role: str) -> Client:
            url = env_of(role)["BANANAS_REDIS_URL"]
            return Client(settings=Settings(redis_url=url, key_prefix=CLUSTER_PREFIX))

        loaded = await asyncio.to_thread(invoke, "scripts", "load", env=env_of("deploy"))
        assert loaded.exit_code == 0, loaded.output
        running = fleet(env_of("worker")["BANANAS_REDIS_URL"], KEY_PREFIX=CLUSTER_PREFIX)
        await asyncio.to_thread(running.start)
        async with (
            client("producer") as producer,
            client("viewer") as viewer,
            client("worker") as worker,
        ):
            sessions = [await one.session() for one in (producer, viewer, worker)]
            transports = [session.broker.transport for session in sessions]
            for moves in cluster.move(slot_of("f"), step=2), ():
                jobs = [await producer.submit("quick", result=True) for _ in range(5)]
                for job in jobs:
                    await producer.get_result(job.id, wait_s=60)
                await viewer.stats()
                for _ in moves:
                    # a key that is not there any more is asked for at its new node (ASK)
                    for transport in transports:
                        await transport.command("GET", f"{CLUSTER_PREFIX}:job:{jobs[0].id}")
            assert all(transport.counters.redirects > 1 for transport in transports)
        said = await asyncio.to_thread(invoke, "doctor", env=env_of("viewer"))
        assert "the slot is whole" in said.output
        for node in cluster.nodes:
            with node.client() as redis:
                assert set(denied(redis)) <= {"config|get", "b'config|get'"}, node.port  # doctor's
        assert await asyncio.to_thread(running.stop) == 0
    finally:
        cluster.discard()


def test_each_user_is_refused_what_is_not_its_own(guarded: Server) -> None:
    """Lua of one's own, other keys, other channels, the server itself; and what the role lacks."""
    for role in ROLES:
        user = Redis.from_url(url_of(guarded, role), protocol=2)
        for words in (
            ("EVAL", "return 1", 0),
            ("FUNCTION", "LOAD", "#!lua name=x\nredis.register_function('x', function() end)"),
            ("CONFIG", "GET", "*"),
            ("CONFIG", "SET", "maxmemory", "1"),
            ("FLUSHALL",),
            ("KEYS", "*"),
            ("SCAN", "0"),
            ("ACL", "LIST"),
            ("CLIENT", "KILL", "TYPE", "normal"),
            ("SHUTDOWN",),
            ("MONITOR",),
            ("SCRIPT", "FLUSH"),
            ("SET", "other:key", "1"),
            ("GET", "other:key"),
            ("SUBSCRIBE", "other:channel"),
        ):
            with pytest.raises((NoPermissionError, ResponseError)) as caught:
                user.execute_command(*words)
            assert "NOPERM" in str(caught.value) or "permission" in str(caught.value), (role, words)
        user.close()


@pytest.mark.timeout(120)
async def test_a_role_cannot_do_the_work_of_another(
    guarded: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer ends no job, a viewer makes none; what was refused has changed nothing."""
    monkeypatch.setitem(Transport.__init__.__kwdefaults__, "denied_window_s", 0.0)
    env = {"BANANAS_REDIS_URL": url_of(guarded, "deploy"), "BANANAS_KEY_PREFIX": PREFIX}
    loaded = await asyncio.to_thread(invoke, "scripts", "load", env=env)
    assert loaded.exit_code == 0

    def client(role: str) -> Client:
        return Client(settings=Settings(redis_url=url_of(guarded, role), key_prefix=PREFIX))

    async with (
        client("worker") as worker,
        client("producer") as producer,
        client("viewer") as viewer,
    ):
        job = await producer.submit("quick")
        before = await worker.stats()
        await (await worker.session()).broker.register("e" * 32, 60, {})
        broker = (await producer.session()).broker
        wrong: dict[str, Callable[[], Awaitable[object]]] = {
            "end": lambda: producer.delete_dead(job.id),
            "register": lambda: broker.register("f" * 32, 60, {}),
            "take": lambda: broker.dequeue(
                "r" * 32, "e" * 32, ["queue:normal"], limit=1, room_bytes=9999
            ),
            "submit": lambda: viewer.submit("quick"),
            "cancel": lambda: viewer.cancel(job.id),
        }
        for what, call in wrong.items():
            try:
                await call()
            except BananasError:
                continue
            pytest.fail(f"{what} was not refused")
        assert await worker.stats() == before
        assert (await worker.get_job(job.id)).status == "pending"
        await worker.cancel(job.id)
