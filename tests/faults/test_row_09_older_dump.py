"""Row 9: Redis comes back with an older state, as after a failover to a replica that lagged."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from fleets import wait_for
from whereabouts import look

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene
    from servers import Server


@pytest.fixture
def own_server(make_server: Callable[..., Server]) -> Server:
    """Return a server that keeps dumps only."""
    return make_server()


def test_a_fleet_goes_on_from_an_older_state(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    own_server: Server,
) -> None:
    """What the dump knows ends once in it; tokens given out since are refused; nobody restarts."""
    one = fleet(PROCS="1", WORKER_CONCURRENCY="10").start()
    before = one.children()
    ended = [submit("quick") for _ in range(20)]
    wait_for(scene.drained)
    # leased when the dump is made, and still running when it comes back
    held = [submit("slow", {"seconds": 2.5}) for _ in range(2)]
    wait_for(lambda: len(ledger.lines("start")) == 22)
    # not yet due then: leased since, by requests of which the dump knows nothing
    since = [submit("slow", {"seconds": 2}, delay_s=0.5) for _ in range(2)]
    with own_server.client(timeout_s=30) as client:
        client.save()
    dump = own_server.folder / "dump.rdb"
    shutil.copy(dump, own_server.folder / "older.rdb")
    wait_for(lambda: len(ledger.lines("start")) == 24)
    lost = [submit("quick") for _ in range(5)]
    wait_for(lambda: len(ledger.lines("effect")) >= 25)

    own_server.kill()
    shutil.copy(own_server.folder / "older.rdb", dump)
    own_server.start()
    wait_for(lambda: one.said("outcomes refused"))
    new = submit("quick")
    wait_for(lambda: scene.status(new) == "completed")
    wait_for(scene.drained)

    seen = look(scene.redis, scene.keys)
    assert seen.problems() == []
    # no more and no less than what the dump knew, and what came after it
    assert seen.records.keys() == {*ended, *held, *since, new}
    assert {record["status"] for record, _ in seen.records.values()} == {"completed"}
    assert seen.counters["accepted"] == 25
    starts = Counter(line.job_id for line in ledger.lines("start"))
    assert {job_id: n for job_id, n in starts.items() if n > 1} == dict.fromkeys(since, 2)
    assert all(starts[job_id] == 1 for job_id in lost)
    assert one.children() == before
    assert one.stop() == 0


def test_a_process_that_the_older_state_does_not_know_takes_a_new_epoch(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    own_server: Server,
) -> None:
    """An epoch registered since the dump is fenced; its process gets another and goes on."""
    job_id = submit("quick")
    with own_server.client(timeout_s=30) as client:
        client.save()
    dump = own_server.folder / "dump.rdb"
    shutil.copy(dump, own_server.folder / "older.rdb")
    one = fleet(PROCS="1").start()
    wait_for(lambda: scene.status(job_id) == "completed")
    own_server.kill()
    shutil.copy(own_server.folder / "older.rdb", dump)
    own_server.start()
    # it waits again, and runs again
    wait_for(lambda: one.said("fenced"))
    wait_for(lambda: len(ledger.lines("effect")) == 2)
    wait_for(scene.drained)
    assert look(scene.redis, scene.keys).problems() == []
    assert scene.counters()["completed"] == 1
    assert one.stop() == 0
