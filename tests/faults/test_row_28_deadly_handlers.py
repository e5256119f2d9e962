"""Row 28: what a handler may do to its process.

Segfault, `os._exit(0)`, `os.abort`, SIGKILL, `os.kill(0, …)`, `sys.exit` and closed descriptors
stand in `tests/system/fleet/test_fleet.py`; here is the handler that forks. Its copy must not
run our loop, talk on our connections or end a job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fleets import session_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Ledger, Scene

FORKS = {
    "return": ("forks", {"how": "return"}),
    "await": ("forks", {"how": "await"}),
    "thread": ("forks_sync", {}),
}


@pytest.mark.parametrize("kind", FORKS)
def test_the_copy_of_a_worker_ends_where_it_meets_our_code(
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    kind: str,
) -> None:
    """Each job starts and ends once, in the original, which lives; no copy is left."""
    one = fleet(PROCS="1").start()
    before = one.children("worker")
    name, payload = FORKS[kind]
    for _ in range(5):
        submit("slow", {"seconds": 0.05})
        submit("slow_sync", {"seconds": 0.05})
        submit(name, payload)
    wait_for(scene.drained)
    scene.judge().check()
    assert scene.counters()["completed"] == 15
    assert one.children("worker") == before
    assert {line.pid for line in ledger.lines()} == set(before)
    family = {one.pid, *one.children()}
    wait_for(lambda: set(session_of(one.pid)) <= family, what="the copies' end")
    assert one.said("reconnect") == 0
    assert one.stop() == 0


def test_a_process_that_a_handler_makes_does_its_work(
    fleet: Callable[..., Fleet], submit: Callable[..., str], scene: Scene, ledger: Ledger
) -> None:
    """`multiprocessing` by fork is no copy that comes back: it ends by itself, with 0."""
    one = fleet(PROCS="1").start()
    before = one.children("worker")
    jobs = {submit("multiprocesses") for _ in range(5)}
    wait_for(scene.drained)
    scene.judge().check()
    effects = ledger.lines("effect")
    assert {line.job_id for line in effects} == jobs
    assert not {line.pid for line in effects} & set(before)
    assert all(scene.status(job_id) == "completed" for job_id in jobs)
    assert one.children("worker") == before
    assert one.stop() == 0
