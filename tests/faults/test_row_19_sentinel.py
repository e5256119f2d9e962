"""Row 19: the master fails over to a replica, by order, frozen, or killed, under a real fleet."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from faults.load import Load, settle_accounts
from fleets import Scene, wait_for
from sentinels import DOWN_AFTER_S, Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fleets import Fleet, Ledger
    from servers import Kind, Server


@pytest.fixture
def watched(first_kind: Kind) -> Iterator[Watched]:
    """Return a master with two replicas and three Sentinels."""
    made = Watched(first_kind)
    try:
        yield made.start()
    finally:
        made.discard()


def happen(watched: Watched, fault: str, old: Server) -> None:
    """Let the master go in one of three ways."""
    if fault == "ordered":
        watched.fail_over()
    elif fault == "frozen":
        os.kill(old.pid, signal.SIGSTOP)
    else:
        old.kill()


@pytest.mark.parametrize(
    "fault", ["ordered", "frozen", pytest.param("killed", marks=pytest.mark.long)]
)
def test_the_fleet_follows_the_master(
    fleet: Callable[..., Fleet], watched: Watched, ledger: Ledger, fault: str
) -> None:
    """No restart, books in order, and nothing lost but what no replica had."""
    old = watched.master()
    scene = Scene(old.client(), ledger)
    one = fleet(watched.url, LEASE_TTL="10s", BEAT_INTERVAL="1s").start()
    before = one.children()
    with Load(watched.url, scene) as load:
        wait_for(lambda: len(load.acknowledged) > 100)
        load.note_copies(old, 2)
        wait_for(lambda: len(load.acknowledged) > load.copied + 20)
        begun = time.monotonic()
        happen(watched, fault, old)
        new = watched.wait_for_another(old)
        changed = time.monotonic()
        seen = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > seen + 50, what="submissions go on")
        with new.client(timeout_s=30.0) as client:
            scene.redis = client
            wait_for(lambda: scene.status(load.acknowledged[-20]) == "completed")
        resumed = time.monotonic()
        if fault == "frozen":
            os.kill(old.pid, signal.SIGCONT)
            watched.wait_for_replica(old)
            seen = len(load.acknowledged)
            wait_for(lambda: len(load.acknowledged) > seen + 50)
    with new.client(timeout_s=30.0) as client:
        scene.redis = client
        wait_for(scene.drained)
        missing = settle_accounts(scene, load)
        tail = set(load.acknowledged[load.copied :])
        print(  # noqa: T201 - the report that the row asks for
            f"{fault}: master changed after {changed - begun:.2f} s, jobs done again after "
            f"{resumed - changed:.2f} s more; {len(load.acknowledged)} acknowledged, "
            f"{len(missing)} lost of {len(tail)} not known to be copied, "
            f"{len(load.unknown)} of unknown outcome"
        )
        assert set(missing) <= tail
        # a settle that was not copied is taken back: its job runs again
        scene.judge(gone=missing).check(again=len(tail))
    assert one.children() == before
    assert one.stop() == 0
    assert resumed - begun < 2 * DOWN_AFTER_S + 15.0


@pytest.mark.parametrize("fault", ["ordered", "frozen"])
def test_what_the_replicas_have_is_not_lost(watched: Watched, ledger: Ledger, fault: str) -> None:
    """With durability `replica`, whatever was acknowledged is there after the failover.

    An order replaces the master while it lives and has a replica yet: there all replicas count.
    """
    old = watched.master()
    scene = Scene(old.client(), ledger)
    for server in watched.servers:
        with server.client() as client:
            client.config_set("min-replicas-to-write", 1)
    replicas = 2 if fault == "ordered" else 1
    settings = {"durability": "replica", "durability_replicas": replicas}
    with Load(watched.url, scene, durability_timeout_s=2.0, **settings) as load:
        wait_for(lambda: len(load.acknowledged) > 50)
        happen(watched, fault, old)
        new = watched.wait_for_another(old)
        seen = len(load.acknowledged)
        if fault == "frozen":
            os.kill(old.pid, signal.SIGCONT)
        watched.wait_for_replica(old)
        wait_for(lambda: len(load.acknowledged) > seen + 50, what="submissions go on")
    with new.client(timeout_s=30.0) as client:
        scene.redis = client
        missing = settle_accounts(scene, load)
        print(  # noqa: T201 - as above
            f"{fault}: {len(load.acknowledged)} acknowledged, none lost; {load.refused} refused, "
            f"{len(load.unknown)} of unknown outcome"
        )
        assert missing == []
        assert scene.waiting() == len(scene.accepted) == scene.counters()["accepted"]
