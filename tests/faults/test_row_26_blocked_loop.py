"""Row 26: a handler blocks its event loop, for a moment, beyond the lease, or for ever.

The lease holds, because another process beats for it. Past a hard limit the process is ended,
and who had the loop is asked first: code that Python can look into is named and pays alone,
also when others are late because of it. C code that keeps the interpreter cannot be asked;
then it takes three deaths to find it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_a_loop_that_blocks_longer_than_its_lease_keeps_its_jobs(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, seconds: float
) -> None:
    """A lease of 1.5 s, a stall of less and of more: nothing runs twice, nothing is charged."""
    one = fleet(LEASE_TTL="1500ms", PROCS="1").start()
    before = one.children("worker")
    fleet(LEASE_TTL="1500ms", PROCS="1").start()
    for _ in range(6):
        submit("slow", {"seconds": 0.3})
        submit("block", {"seconds": seconds / 6})
    submit("block", {"seconds": seconds})
    wait_for(scene.drained)
    scene.judge().check()
    assert scene.counters()["completed"] == 13
    assert one.children("worker") == before


@pytest.mark.parametrize("how", ["sleep", "re", "task"])
def test_who_blocks_past_a_hard_limit_is_asked_and_pays_alone(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    how: str,
) -> None:
    """Its neighbours are as late as it is, and began after it: they run again, uncharged."""
    one = fleet(PROCS="1").start()
    before = one.children("worker")
    payload = {"seconds": 60, "how": how, "after_s": 0.3}
    bad = submit("block", payload, timeout_s=1.2, max_retries=1)
    wait_for(lambda: ledger.lines("start"))
    neighbours = [submit("slow", {"seconds": 0.6}, timeout_s=1.2, max_retries=1) for _ in range(3)]
    wait_for(lambda: scene.status(bad) == "failed")
    assert one.children("worker") != before
    wait_for(scene.drained)
    judgement = scene.judge()
    judgement.check(again=len(neighbours))
    assert judgement.again[bad] == 0
    assert all(scene.status(job_id) == "completed" for job_id in neighbours)
    assert "it blocked its loop" in str(scene.redis.get(scene.keys.job(bad)))
    assert not scene.redis.hgetall(scene.keys.crashes), "nobody else is suspected"


def test_who_cannot_be_asked_is_found_by_three_deaths(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """C code that keeps the interpreter: its neighbours complete all the same."""
    one = fleet(PROCS="1", HARD_TIMEOUT_GRACE="100ms").start()
    payload = {"seconds": 60, "how": "C", "after_s": 0.2}
    bad = submit("block", payload, timeout_s=1.2, max_retries=1)
    wait_for(lambda: ledger.lines("start"))
    neighbours = [submit("slow", {"seconds": 0.5}, timeout_s=1.2, max_retries=1) for _ in range(2)]
    wait_for(lambda: scene.status(bad) == "failed")
    wait_for(scene.drained)
    scene.judge().check(again=2 + 2 * len(neighbours))
    assert all(scene.status(job_id) == "completed" for job_id in neighbours)
    assert one.stop() == 0
