"""Row 22: a server that throws keys away when it is full."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from bananas.broker import Broker
from bananas.eviction import danger, read_policy, refuse_eviction
from bananas.keys import Keys
from bananas.transport import Transport
from bananas.warden.policy import Policy
from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Scene
    from servers import Server


def test_nobody_starts_on_a_server_that_throws_jobs_away(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, own_server: Server
) -> None:
    """With `allkeys-…` a worker does not begin, says why, and begins once that is mended."""
    with own_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    one = fleet(PROCS="1").start(ready=0)
    job_id = submit("quick")
    wait_for(lambda: one.said("EvictionError", "allkeys-lru"))
    wait_for(lambda: one.said("ERROR", "throws jobs away"), what="the warden's own warning")
    assert not one.said("worker", "ready")
    with own_server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
    wait_for(lambda: scene.status(job_id) == "completed")
    wait_for(scene.drained)
    scene.judge().check()
    assert one.stop() == 0


def test_who_insists_may_start(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, own_server: Server
) -> None:
    """The override starts, and the warden goes on warning."""
    with own_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
    one = fleet(PROCS="1", ALLOW_EVICTION="true").start()
    submit("quick")
    wait_for(scene.drained)
    scene.judge().check()
    wait_for(lambda: one.said("ERROR", "allkeys-random"))
    assert one.stop() == 0


async def test_a_change_of_policy_is_noticed(
    server: Server, make_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    """The warden asks anew, and says when it is mended."""
    mine = make_server(server.kind)
    transport = Transport(mine.url)
    broker = Broker(transport, Keys("x"))
    watch = Policy(broker)
    try:
        with mine.client() as client, caplog.at_level(logging.INFO, "bananas.warden"):
            await watch.look()
            assert watch.danger is None
            client.config_set("maxmemory-policy", "volatile-ttl")
            await watch.look()
            assert watch.danger is not None
            assert "memory of requests" in watch.danger
            await refuse_eviction(broker)  # no waiting job is at stake
            client.config_set("maxmemory-policy", "noeviction")
            await watch.look()
            assert watch.danger is None
            # who may not ask works on: managed servers forbid it
            client.execute_command("ACL", "SETUSER", "default", "-info")
            assert await read_policy(broker) == ""
            await refuse_eviction(broker)
    finally:
        await transport.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


@pytest.mark.parametrize("policy", ["", "noeviction"])
def test_no_eviction_is_no_danger(policy: str) -> None:
    """Neither the right policy nor a server that does not tell is warned of."""
    assert danger(policy) is None
