"""Row 20: the slot of all keys moves from node to node, or its node fails, under a real fleet."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from bananas.cli.checkup import examine
from bananas.keys import Keys
from bananas.settings import Settings
from clusters import Cluster, slot_of
from faults.load import Load, settle_accounts
from fleets import PREFIX, Scene, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clusters import Node
    from fleets import Fleet, Ledger
    from servers import Kind

TAG = f"{{{PREFIX}}}"
SLOT = slot_of(PREFIX)
LONG = bool(os.environ.get("BANANAS_TEST_LONG"))


@pytest.fixture
def scene(cluster: Cluster, ledger: Ledger) -> Iterator[Scene]:
    """Return the view of the node that holds the slot now; `look_at` changes it."""
    for node in cluster.masters:
        node.ask("FLUSHALL")
    with cluster.holder(SLOT).client(timeout_s=60.0) as client:
        scene = Scene(client, ledger)
        scene.keys = Keys(TAG)
        yield scene
        scene.redis.close()


def look_at(scene: Scene, cluster: Cluster) -> None:
    """Look at the holder of now."""
    scene.redis.close()
    scene.redis = cluster.holder(SLOT).client(timeout_s=60.0)


def test_a_slot_moves_to_and_fro_under_load(
    fleet: Callable[..., Fleet], cluster: Cluster, scene: Scene
) -> None:
    """Every job runs once, whenever it met a moving slot; nobody restarts."""
    one = fleet(cluster.url, KEY_PREFIX=TAG, LEASE_TTL="10s", BEAT_INTERVAL="1s").start()
    before = one.children()
    seen = {code: cluster.errors(code) for code in ("MOVED", "ASK", "TRYAGAIN")}
    with Load(cluster.url, scene) as load:
        for turn in range(30 if LONG else 5):
            count = len(load.acknowledged)
            wait_for(lambda count=count: len(load.acknowledged) > count + 30)
            if turn % 2 and cluster.kind == "valkey":
                cluster.move_at_once(SLOT)
                continue
            tries = cluster.errors("TRYAGAIN") + cluster.errors("ASK")
            source = cluster.holder(SLOT)
            for moved in cluster.move(SLOT, step=20):
                if moved == 0:
                    # the slot is open now, and somebody has met that
                    wait_for(
                        lambda tries=tries: (
                            cluster.errors("TRYAGAIN") + cluster.errors("ASK") > tries
                        )
                    )
                elif not source.ask("CLUSTER", "GETKEYSINSLOT", SLOT, 1):
                    # all has moved and the slot has not: whoever comes here is sent on
                    wait_for(lambda: cluster.errors("ASK") > seen["ASK"])
        count = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > count + 30)
    look_at(scene, cluster)
    wait_for(scene.drained)
    assert settle_accounts(scene, load) == []
    scene.judge().check()
    assert load.unknown == []
    assert one.children() == before
    assert one.stop() == 0
    for code, count in seen.items():
        assert cluster.errors(code) > count, f"nobody met {code}"


def test_leases_hold_while_the_slot_is_half_moved(
    fleet: Callable[..., Fleet], cluster: Cluster, scene: Scene, ledger: Ledger
) -> None:
    """Beats go to where the epochs are: no job is given to others, however long it takes."""
    one = fleet(cluster.url, KEY_PREFIX=TAG, LEASE_TTL="2s", BEAT_INTERVAL="500ms").start()
    with Load(cluster.url, scene, name="slow", payload={"seconds": 5}, most=8) as load:
        wait_for(lambda: len(ledger.lines("start")) == 8)
        source = cluster.holder(SLOT)
        target = cluster.other(source)
        cluster.open(SLOT, source, target)
        cluster.move_keys(source, target, scene.keys.epochs)
        # the end of each lease moves on there, by more than a lease in all
        begun = leases_end_ms(scene, target)
        wait_for(lambda: leases_end_ms(scene, target) > begun + 2500)
        wait_for(lambda: len(ledger.lines("effect")) == 8)
        cluster.close(SLOT, source, target)
    look_at(scene, cluster)
    wait_for(scene.drained)
    assert settle_accounts(scene, load) == []
    scene.judge().check()
    assert one.stop() == 0


def leases_end_ms(scene: Scene, importing: Node) -> float:
    """Return when the first lease ends, as the node says to which the epochs have moved."""
    importing.ask("ASKING")
    scores = importing.ask("ZRANGE", scene.keys.epochs, 0, -1, "WITHSCORES")[1::2]
    return min(float(score) for score in scores)


@pytest.fixture
def with_replica(first_kind: Kind) -> Iterator[Cluster]:
    """Return three masters, and a replica of the one that holds the slot."""
    made = Cluster(first_kind, replicas=1)
    try:
        made.start()
        assert made.holder(SLOT) is made.masters[0]
        yield made
    finally:
        made.discard()


@pytest.mark.slow
def test_the_node_of_the_slot_fails_over(
    fleet: Callable[..., Fleet], with_replica: Cluster, ledger: Ledger
) -> None:
    """By order nothing is lost; of a node that stands still, no more than was not copied."""
    cluster = with_replica
    first, second = cluster.masters[0], cluster.replicas[0]
    scene = Scene(first.client(), ledger)
    scene.keys = Keys(TAG)
    one = fleet(cluster.url, KEY_PREFIX=TAG, LEASE_TTL="10s", BEAT_INTERVAL="1s").start()
    before = one.children()
    with Load(cluster.url, scene) as load:
        wait_for(lambda: len(load.acknowledged) > 50)
        second.ask("CLUSTER", "FAILOVER")
        cluster.wait_for_holder(SLOT, second)
        count = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > count + 50)
        cluster.wait_for_replica(first)
        load.note_copies(second, 1)
        os.kill(second.pid, signal.SIGSTOP)
        cluster.wait_for_holder(SLOT, first)
        count = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > count + 50)
        os.kill(second.pid, signal.SIGCONT)
        cluster.wait_for_replica(second)
        count = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > count + 50)
    look_at(scene, cluster)
    wait_for(scene.drained)
    missing = settle_accounts(scene, load)
    tail = set(load.acknowledged[load.copied :])
    print(f"{len(load.acknowledged)} acknowledged, {len(missing)} lost")  # noqa: T201
    assert set(missing) <= tail
    scene.judge(gone=missing).check(again=len(tail))
    assert one.children() == before
    assert one.stop() == 0
    scene.redis.close()


def test_the_doctor_sees_a_half_moved_slot(cluster: Cluster, scene: Scene) -> None:
    """It names the node and the slot, and what is to be done."""
    source = cluster.holder(SLOT)
    target = cluster.other(source)
    settings = Settings(redis_url=cluster.url, key_prefix=TAG)
    report = examine(settings, audit=False)
    assert (
        report.facts["topology"] == f"cluster, slot {SLOT} on 127.0.0.1:{source.port}, 0 replicas"
    )
    assert "the slot is whole" in [finding.what for finding in report.findings]
    scene.redis.set(f"{TAG}:x", "y")
    cluster.open(SLOT, source, target)
    problems = [finding.what for finding in examine(settings, audit=False).findings]
    cluster.close(SLOT, source, target)
    assert f"slot {SLOT} is half moved: no job is accepted or begun" in problems
