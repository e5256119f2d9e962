"""The transport on a real cluster: it finds the node of its slot and goes where it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from bananas.address import parse_url, slot_of
from bananas.errors import BrokerError, BrokerUnavailableError
from bananas.scripts import Script
from bananas.transport import Transport
from bananas.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from clusters import Cluster, Node

TAG = "{t}"
SLOT = slot_of(TAG)

# Within the run's own time limit, whose signal does not reach a test that awaits in uvloop.
BOUND_S = 45


def lua(name: str, text: str, *, lone: bool = False) -> Script:
    """Return a script of a test's own."""
    source = text.encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest(), lone)


ADD = lua("add", "return redis.call('SADD', KEYS[1], ARGV[1])", lone=True)
BOTH = lua("both", "return {redis.call('LLEN', KEYS[1]), redis.call('RPUSH', KEYS[2], 'x')}")
COMPUTED = lua(
    "computed",
    "redis.call('LLEN', ARGV[1] .. '2') redis.call('SADD', KEYS[1], 'n') "
    "return redis.call('RPUSH', ARGV[1] .. '2', 'x')",
)


@contextlib.asynccontextmanager
async def opened(cluster: Cluster, **options: Any) -> AsyncIterator[Transport]:  # noqa: ANN401
    """Give a transport to the node of `SLOT` and close it; what is awaited for ever fails."""
    transport = Transport(parse_url(cluster.url, TAG), **options)
    try:
        async with asyncio.timeout(BOUND_S):
            yield transport
    finally:
        await transport.close()


@pytest.fixture(autouse=True)
def at_rest(cluster: Cluster) -> Iterator[None]:
    """Empty the slot and bring it to rest at the end."""
    yield
    for node in cluster.masters:
        for other in cluster.masters:
            if other is not node:
                other.ask("CLUSTER", "SETSLOT", SLOT, "STABLE")
        keys = node.ask("CLUSTER", "GETKEYSINSLOT", SLOT, 1000)
        if keys and node is cluster.holder(SLOT):
            node.ask("DEL", *keys)


def ends(cluster: Cluster) -> tuple[Node, Node]:
    """Return who holds the slot and who is to get it."""
    source = cluster.holder(SLOT)
    return source, cluster.other(source)


async def until_held(
    transport: Transport, call: asyncio.Future[Any], *reasons: str, within_s: float = 10.0
) -> None:
    """Wait until a call was told to come again, for one of these reasons; it is not answered."""
    deadline = time.monotonic() + within_s
    while not any(reason in transport._problem for reason in reasons):
        assert not call.done(), f"answered {call}, and had to be held for {' or '.join(reasons)}"
        late = f"not held for {' or '.join(reasons)} within {within_s} s: {transport._problem}"
        assert time.monotonic() < deadline, late
        await asyncio.sleep(0.002)  # the transport tells nobody
    assert not call.done()


async def test_any_node_leads_to_the_one_that_holds_the_slot(cluster: Cluster) -> None:
    """Whoever the URL names first: the keys are written where the slot is."""
    for node in cluster.masters:
        address = parse_url(f"redis+cluster://127.0.0.1:{node.port}", TAG)
        transport = Transport(address)
        assert await transport.call(ADD, [f"{TAG}s"], [node.id]) == 1
        assert transport.server.port == cluster.holder(SLOT).port
        assert transport.counters.redirects == 0
        await transport.close()
    assert cluster.holder(SLOT).ask("SCARD", f"{TAG}s") == 3


async def test_dead_nodes_are_passed_over(cluster: Cluster) -> None:
    """A node that does not answer is not the end; that none does is told."""
    dead = "127.0.0.1:1"
    url = f"redis+cluster://{dead},127.0.0.1:{cluster.nodes[0].port}"
    transport = Transport(parse_url(url, TAG))
    assert await transport.call(ADD, [f"{TAG}s"], ["m"]) == 1
    await transport.close()
    transport = Transport(parse_url(f"redis+cluster://{dead}", TAG), retry_window_s=0.2)
    with pytest.raises(BrokerUnavailableError, match=f"where slot {SLOT} is: {dead}"):
        await transport.call(ADD, [f"{TAG}s"], ["m"])
    await transport.close()


async def test_moved_is_followed(cluster: Cluster) -> None:
    """After the slot has moved, the first call finds its way; all of a burst arrive, once."""
    source, target = ends(cluster)
    async with opened(cluster) as transport:
        await transport.call(ADD, [f"{TAG}s"], ["first"])
        cluster.open(SLOT, source, target)
        cluster.close(SLOT, source, target)
        names = [f"m{number}" for number in range(50)]
        answers = await asyncio.gather(
            *(transport.call(ADD, [f"{TAG}s"], [name]) for name in names)
        )
        assert answers == [1] * 50
        assert transport.server.port == target.port
        assert transport.counters.redirects == 1
        assert target.ask("SCARD", f"{TAG}s") == 51


async def test_ask_is_followed_for_that_call_alone(cluster: Cluster) -> None:
    """A key that has moved is served at its new node, one that has not at the old one."""
    source, target = ends(cluster)
    async with opened(cluster) as transport:
        for name in ("moved", "left"):
            await transport.call(ADD, [f"{TAG}{name}"], ["m"])
        cluster.open(SLOT, source, target)
        cluster.move_keys(source, target, f"{TAG}moved")
        # the new node has never seen the script: it is sent along
        assert await transport.call(ADD, [f"{TAG}moved"], ["n"]) == 1
        assert await transport.call(ADD, [f"{TAG}left"], ["n"]) == 1
        assert await transport.command("SCARD", f"{TAG}moved") == 2
        assert await transport.command("SCARD", f"{TAG}never was") == 0
        assert (transport.server.port, transport.counters.redirects) == (source.port, 3)
        assert source.ask("SCARD", f"{TAG}left") == 2
        cluster.close(SLOT, source, target)
        assert await transport.command("SCARD", f"{TAG}moved") == 2
        assert transport.server.port == target.port


@pytest.mark.parametrize("script", [BOTH, COMPUTED], ids=["declared", "computed"])
async def test_split_keys_wait_for_the_end_of_the_move(cluster: Cluster, script: Script) -> None:
    """A script whose keys are on two nodes has no effect and is repeated until they are on one."""
    source, target = ends(cluster)
    async with opened(cluster) as transport:
        first, second = f"{TAG}1", f"{TAG}2"
        keys, args = ([first, second], []) if script is BOTH else ([first], [TAG])
        await transport.command("SADD" if script is COMPUTED else "RPUSH", first, "m")
        await transport.command("RPUSH", second, "m")
        cluster.open(SLOT, source, target)
        cluster.move_keys(source, target, second)
        call = asyncio.ensure_future(transport.call(script, keys, args))
        await until_held(transport, call, "TRYAGAIN", "non local")
        cluster.close(SLOT, source, target)
        await call
        assert await transport.command("LLEN", second) == 2
        if script is COMPUTED:
            assert await transport.command("SCARD", first) == 2


async def test_a_script_of_many_keys_takes_no_detour(cluster: Cluster) -> None:
    """The new node would run it, and show it a key that is still at the old one as empty."""
    source, target = ends(cluster)
    computed = lua("computed", "return redis.call('LLEN', ARGV[1] .. '2')")
    async with opened(cluster) as transport:
        first, second = f"{TAG}1", f"{TAG}2"
        await transport.command("RPUSH", first, "m")
        await transport.command("RPUSH", second, "m")
        cluster.open(SLOT, source, target)
        cluster.move_keys(source, target, first)
        with target.client() as client, client.pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.eval(computed.source.decode(), 1, first, TAG)
            assert pipe.execute()[1] == 0, "the danger that this is about"
        call = asyncio.ensure_future(transport.call(computed, [first], [TAG]))
        await until_held(transport, call, "ASK")
        cluster.close(SLOT, source, target)
        assert await call == 1


async def test_a_slot_without_a_holder_is_waited_for(cluster: Cluster) -> None:
    """CLUSTERDOWN: the call goes on being repeated, and arrives once when somebody takes it."""
    _, target = ends(cluster)
    async with opened(cluster) as transport:
        await transport.call(ADD, [f"{TAG}s"], ["a"])
        await transport.command("DEL", f"{TAG}s")
        for node in cluster.masters:
            node.ask("CLUSTER", "DELSLOTS", SLOT)
        call = asyncio.ensure_future(transport.call(ADD, [f"{TAG}s"], ["b"]))
        while transport.counters.drops == 0:  # noqa: ASYNC110 - the transport tells nobody
            await asyncio.sleep(0.002)
        for node in cluster.masters:
            node.ask("CLUSTER", "SETSLOT", SLOT, "NODE", target.id)
        assert await call == 1
        assert transport.server.port == target.port


async def test_a_lost_detour_is_no_lost_call(cluster: Cluster) -> None:
    """What was asked of the new node when its connection went begins again at the old one."""
    source, target = ends(cluster)
    async with opened(cluster) as transport:
        await transport.call(ADD, [f"{TAG}s"], ["a"])
        cluster.open(SLOT, source, target)
        cluster.move_keys(source, target, f"{TAG}s")
        assert await transport.call(ADD, [f"{TAG}s"], ["b"]) == 1
        with target.frozen():
            call = asyncio.ensure_future(transport.call(ADD, [f"{TAG}s"], ["c"]))
            while transport._detour.outstanding == 0:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.002)
            transport._detour.drop("for the test")
        assert await call in (0, 1)
        cluster.close(SLOT, source, target)
        assert await transport.command("SCARD", f"{TAG}s") == 3


async def test_closing_leaves_no_call_behind(cluster: Cluster) -> None:
    """Calls on a detour fail when the transport is closed, and nothing waits for them."""
    source, target = ends(cluster)
    async with opened(cluster) as transport:
        await transport.call(ADD, [f"{TAG}s"], ["a"])
        cluster.open(SLOT, source, target)
        cluster.move_keys(source, target, f"{TAG}s")
        await transport.call(ADD, [f"{TAG}s"], ["b"])
        with target.frozen():
            calls = [
                asyncio.ensure_future(transport.call(ADD, [f"{TAG}s"], [name])) for name in "cd"
            ]
            while transport._detour.outstanding < 2:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.002)
            await transport.close()
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, BrokerUnavailableError) for answer in answers), answers
    cluster.close(SLOT, source, target)


async def test_a_plain_url_to_a_cluster_is_told_what_is_wrong(cluster: Cluster) -> None:
    """Not 25 s of attempts at the wrong node: the error names the scheme and the rule."""
    _, target = ends(cluster)
    transport = Transport(f"redis://127.0.0.1:{target.port}")
    with pytest.raises(BrokerError, match=r"redis\+cluster://, with a key prefix that has a hash"):
        await transport.call(ADD, [f"{TAG}s"], ["m"])
    with pytest.raises(BrokerError, match=r"CROSSSLOT.*redis\+cluster://"):
        await transport.command("MGET", "a", "b")
    await transport.close()


async def test_a_blocked_read_follows_the_slot(cluster: Cluster) -> None:
    """Whoever waits on a list when the slot moves is sent on, and woken at the new node."""
    source, target = ends(cluster)
    async with opened(cluster) as waiting:
        pop = asyncio.ensure_future(
            waiting.command("BLPOP", f"{TAG}wake", 20, timeout_s=25, repeat=True)
        )
        while b"cmd=blpop" not in source.ask("CLIENT", "LIST"):  # noqa: ASYNC110 - the server tells
            await asyncio.sleep(0.01)
        cluster.open(SLOT, source, target)
        cluster.close(SLOT, source, target)
        target.ask("RPUSH", f"{TAG}wake", "now")
        assert await pop == [f"{TAG}wake".encode(), b"now"]
        assert waiting.server.port == target.port


async def test_a_message_is_heard_wherever_it_is_published(cluster: Cluster) -> None:
    """Channels belong to the whole cluster: a subscription outlives the moves of its slot."""
    source, target = ends(cluster)
    watch = Watch(parse_url(cluster.url, TAG))
    with watch.open(f"{TAG}channel") as signal:
        assert await signal.listening(10)
        await signal.wait(10)
        cluster.open(SLOT, source, target)
        cluster.close(SLOT, source, target)
        target.ask("PUBLISH", f"{TAG}channel", "m")
        assert await signal.wait(10)
    await watch.close()
