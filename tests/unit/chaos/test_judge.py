"""The judge of a chaos run: an orderly ledger passes, and each planted fault of ours is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from chaos.judge import MUST_BE_ZERO, SOMETIMES, End, judge, missing

if TYPE_CHECKING:
    from chaos.judge import Verdict
    from chaos.ledger import Entry

UPDATED = "2026-01-01T00:00:00.000000Z"
SAME = "1"


class Story:
    """A ledger in the making, and the end that goes with it."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.entries: list[Entry] = []
        self.end = End(counters={"accepted": 0, "completed": 0, "failed": 0})

    def tell(self, what: str, at: float, **fields: object) -> None:
        """Write an entry."""
        self.entries.append({"what": what, "at": at, **fields})

    def offer(self, job_id: str, at: float = 1.0, verdict: str = "accepted") -> None:
        """Tell of a submission and its answer."""
        kind = job_id.partition(".")[0]
        self.tell("offer", at, id=job_id, kind=kind, due=at, through=0)
        self.tell(verdict, at + 0.1, id=job_id)
        if verdict == "accepted":
            self.end.counters["accepted"] += 1

    def start(self, job_id: str, at: float, pid: int = 1, token: str = "") -> str:
        """Tell of a start; returns its token."""
        token = token or f"token-{pid}-{at}"
        self.tell("start", at, id=job_id, pid=pid, attempt=1, token=token)
        return token

    def stop(self, job_id: str, at: float, how: str, pid: int, token: str) -> None:
        """Tell of an end other than by effect."""
        self.tell("end", at, id=job_id, how=how, pid=pid, attempt=1, token=token)

    def finish(self, job_id: str, at: float, status: str = "completed", error: str = "") -> None:
        """Tell how it was seen to end."""
        self.tell("finish", at, id=job_id, status=status, updated=UPDATED, attempts=1, error=error)
        self.end.records[job_id] = (status, UPDATED, error)
        self.end.counters[status] = self.end.counters.get(status, 0) + 1
        if status == "failed":
            self.end.dead += 1

    def whole(self, job_id: str, at: float = 1.0) -> None:
        """Tell of a job that was accepted, ran once and completed."""
        self.offer(job_id, at)
        token = self.start(job_id, at + 0.2)
        self.tell("effect", at + 0.3, id=job_id, pid=1, attempt=1, token=token)
        self.end.results[job_id] = token
        self.finish(job_id, at + 0.4)

    def death(self, at: float, pid: int = 1, **fields: object) -> None:
        """Tell of a process that ended."""
        given: dict[str, Any] = {"code": -9, "verdict": "crash", "reason": "SIGKILL", "detail": ""}
        given |= {"role": "worker", "fleet": "left", "culprits": []}
        self.tell("death", at, pid=pid, **given | fields)

    def judge(self) -> Verdict:
        """Judge all that was told."""
        return judge(self.entries, self.end)


@pytest.fixture
def story() -> Story:
    """Return a ledger with a hundred jobs that went well."""
    told = Story()
    for number in range(100):
        told.whole(f"valued.{number}", at=1.0 + number)
    return told


def found(story: Story) -> list[str]:
    """Return what the judge finds, each as often as it does."""
    counts = story.judge().counts()
    return [what for what, count in counts.items() for _ in range(count)]


def test_an_orderly_run_has_no_findings(story: Story) -> None:
    """All counts are there, and all are 0."""
    verdict = story.judge()
    assert verdict.counts() == dict.fromkeys(MUST_BE_ZERO, 0)
    assert verdict.jobs == verdict.starts == verdict.ends["completed"] == 100
    assert not verdict.duplicates


def test_a_job_that_never_ends_is_lost(story: Story) -> None:
    """Accepted, started, and never seen to end."""
    story.offer("quick.lost")
    story.start("quick.lost", 2.0)
    assert found(story) == ["lost", "double-terminal", "drift"]  # and the sums do not agree


def test_a_job_that_is_not_even_started_is_lost(story: Story) -> None:
    """Accepted, still waiting in a list that nobody serves: no drift, and lost all the same."""
    story.offer("quick.lost")
    story.end.present += 1
    assert "lost" in found(story)


def test_what_the_server_lost_by_a_kill_is_counted_apart(story: Story) -> None:
    """Acknowledged within the last 2 s before a kill, under `everysec`; a second more is lost."""
    story.tell("redis-killed", 500.0)
    story.offer("quick.young", 498.5)
    story.end.counters["accepted"] -= 1
    verdict = story.judge()
    assert (verdict.lost_in_window, verdict.findings) == (1, [])
    story.offer("quick.old", 495.0)
    story.end.counters["accepted"] -= 1
    assert "lost" in found(story)


def test_a_run_of_what_nobody_submitted_is_a_ghost(story: Story) -> None:
    """Started, never offered."""
    story.start("quick.ghost", 2.0)
    assert found(story) == ["ghost"]


def test_a_run_of_what_was_refused_is_a_ghost(story: Story) -> None:
    """The producer was told that the server is full, and the job ran."""
    story.offer("quick.refused", verdict="refused")
    assert found(story) == []
    story.start("quick.refused", 2.0)
    assert found(story) == ["ghost"]


def test_a_new_id_that_exists_already_is_a_ghost(story: Story) -> None:
    """A first submission that is called a duplicate was enqueued by nobody known."""
    story.offer("quick.odd", verdict="doubted")
    assert found(story) == ["ghost"]


def test_two_ends_of_one_job_are_found(story: Story) -> None:
    """By its record, which changed after it had ended; by the counters; by a run after its end."""
    status, _, error = story.end.records["valued.3"]
    story.end.records["valued.3"] = (status, "2026-01-01T00:00:07.000000Z", error)
    assert found(story) == ["double-terminal"]
    story.end.counters["completed"] += 1
    story.end.counters["accepted"] += 1
    assert found(story) == ["double-terminal", "double-terminal", "drift"]


def test_a_run_after_the_end_is_found(story: Story) -> None:
    """Even where a fault explains why it ran again: it had ended."""
    story.tell("harm", 0.5, cause="worker-killed", pids=[1], since=0.0, until=900.0)
    story.end.results["valued.0"] = story.start("valued.0", 800.0, pid=2)
    assert found(story) == ["double-terminal"]


def rerun(story: Story, job_id: str = "quick.twice") -> None:
    """Tell of a job that two processes ran, at 10 s and at 20 s."""
    story.offer(job_id, 9.0)
    story.start(job_id, 10.0, pid=7)
    story.start(job_id, 20.0, pid=8)
    story.finish(job_id, 21.0)


def test_a_second_run_without_a_cause_is_found(story: Story) -> None:
    """Nothing had touched the process that held it."""
    rerun(story)
    assert found(story) == ["unexplained duplicate"]


@pytest.mark.parametrize(
    ("pid", "since", "until", "explains"),
    [
        (7, 15.0, 16.0, True),
        (7, 5.0, 10.0, True),  # it was still touched as the run began
        (8, 15.0, 16.0, False),  # another process
        (7, 5.0, 9.9, False),  # over before
        (7, 20.1, 30.0, False),  # after the fact
    ],
)
def test_only_a_harm_to_its_holder_while_it_held_it_explains_a_second_run(
    story: Story, pid: int, since: float, until: float, *, explains: bool
) -> None:
    """The process and the time must both fit."""
    story.tell("harm", since, cause="worker-killed", pids=[pid], since=since, until=until)
    rerun(story)
    verdict = story.judge()
    assert verdict.duplicates == ({"worker-killed": 1} if explains else {})
    assert found(story) == ([] if explains else ["unexplained duplicate"])


def test_a_stop_of_the_server_explains_nothing(story: Story) -> None:
    """A fault of the server is no harm to a worker: what it holds, it keeps."""
    story.tell("fault", 12.0, kind="redis-stopped-long", fleet="left", detail="")
    story.tell("over", 18.0, kind="redis-stopped-long", fleet="left", victims=[], served=[])
    rerun(story)
    assert found(story) == ["unexplained duplicate"]


def test_its_own_outcome_explains_a_second_run(story: Story) -> None:
    """It asked to be retried; but only the run that asked may be followed by another."""
    story.offer("flaky.1", 9.0)
    token = story.start("flaky.1", 10.0, pid=7)
    story.stop("flaky.1", 10.1, "retry", 7, token)
    story.start("flaky.1", 11.0, pid=8)
    story.finish("flaky.1", 15.0)
    assert found(story) == []
    story.start("flaky.1", 12.0, pid=7)
    assert found(story) == ["unexplained duplicate"]


def test_one_lease_makes_one_run(story: Story) -> None:
    """Two starts under one token are a defect whatever explains them."""
    story.tell("harm", 10.0, cause="worker-killed", pids=[7], since=0.0, until=90.0)
    story.offer("quick.twice", 9.0)
    story.start("quick.twice", 10.0, pid=7, token=SAME)
    story.start("quick.twice", 20.0, pid=7, token=SAME)
    story.finish("quick.twice", 21.0)
    assert found(story) == ["one lease, two runs"]


def test_the_outcome_of_a_stale_worker_is_found(story: Story) -> None:
    """The first holder lost its lease, the second has begun, and the first one's outcome counts."""
    story.tell("harm", 10.0, cause="fleet-stopped-long", pids=[7], since=0.0, until=90.0)
    story.offer("valued.stale", 9.0)
    stale = story.start("valued.stale", 10.0, pid=7)
    right = story.start("valued.stale", 20.0, pid=8)
    story.finish("valued.stale", 21.0)
    story.end.results["valued.stale"] = right
    assert found(story) == []
    story.end.results["valued.stale"] = stale
    assert found(story) == ["stale effect"]


def test_a_job_before_its_time_is_found(story: Story) -> None:
    """Not before it is due, by nobody's clock."""
    story.tell("offer", 9.0, id="later.1", kind="later", due=10.5, through=0)
    story.tell("accepted", 9.1, id="later.1")
    story.end.counters["accepted"] += 1
    story.end.results["later.1"] = story.start("later.1", 10.0)
    story.finish("later.1", 10.6)
    assert found(story) == ["early"]


@pytest.mark.parametrize(
    ("job_id", "status", "error", "right"),
    [
        ("quick.1", "failed", "ValueError: no", False),
        ("hopeless.1", "failed", "RuntimeError: as it was told", True),
        ("hopeless.1", "completed", "", False),
        ("hopeless.1", "failed", "TypeError: no", False),
        ("cancelled.1", "cancelled", "", True),
        ("poison.1", "failed", "poison: it took down its process 3 times", True),
    ],
)
def test_each_kind_has_its_right_ends(
    story: Story, job_id: str, status: str, error: str, *, right: bool
) -> None:
    """What has to fail must not complete, and the other way round."""
    story.offer(job_id, 9.0)
    story.start(job_id, 10.0)
    story.finish(job_id, 21.0, status, error)
    assert found(story) == ([] if right else ["wrong end"])


def test_what_was_cancelled_must_not_complete(story: Story) -> None:
    """The producer was told that it is cancelled."""
    story.offer("cancelled.1", 9.0)
    story.tell("cancelled", 9.2, id="cancelled.1")
    story.finish("cancelled.1", 21.0, "completed")
    assert found(story) == ["wrong end"]


def test_an_innocent_job_is_poison_only_after_three_deaths(story: Story) -> None:
    """Three processes were killed under it: that is the cap, not a defect; two are not."""
    story.tell("harm", 10.0, cause="worker-killed", pids=[7], since=0.0, until=90.0)
    story.offer("quick.unlucky", 9.0)
    story.start("quick.unlucky", 10.0, pid=7)
    story.start("quick.unlucky", 11.0, pid=7)
    story.finish("quick.unlucky", 21.0, "failed", "poison: it took down its process 3 times")
    assert found(story) == ["wrong end"]
    story.start("quick.unlucky", 12.0, pid=7)
    assert found(story) == []


def test_a_death_needs_a_cause(story: Story) -> None:
    """A fault, a poison job, the hard limit, a fail point, an order: else it is found."""
    story.death(10.0)
    assert found(story) == ["unexplained death"]
    story.tell("harm", 9.5, cause="worker-killed", pids=[1], since=9.5, until=10.5)
    story.death(20.0, 2, verdict="killed", culprits=["blocker.1"])
    story.death(20.0, 3, detail="fail=mid_job:3")
    story.death(20.0, 4, verdict="stopped", code=0)
    story.death(20.0, 7, verdict="stopped", code=-15)
    assert found(story) == []
    story.death(20.0, 5, detail="fail=mid_job:3", code=1)  # not what a fail point does
    story.death(20.0, 6, verdict="killed")  # for no job's sake
    story.death(20.0, 8, code=-15)  # nobody had told it to leave
    assert found(story) == ["unexplained death"] * 3


def test_the_counters_must_agree_with_the_places_and_the_ledger(story: Story) -> None:
    """A job counted and not there, or there and not counted."""
    story.end.counters["accepted"] += 1
    assert found(story) == ["drift", "drift"]
    story.end.counters["accepted"] -= 1
    story.end.dead += 1
    assert found(story) == ["drift"]


def test_trouble_is_found(story: Story) -> None:
    """What the programs of the run, or the fleets' logs, call an error."""
    story.tell("trouble", 3.0, who="left", error="cannot reclaim")
    assert found(story) == ["trouble"]


def test_what_did_not_happen_is_missing_only_if_its_cause_did() -> None:
    """A short plan need not meet everything; a whole one must."""
    assert missing({}, []) == []
    assert missing({}, ["answers-lost"]) == [
        "dequeue repeated, same batch",
        "enqueue repeated, one job",
        "settle repeated, one effect",
        "answer lost by the proxy",
    ]
    every = [need for needs in SOMETIMES.values() for need in needs]
    assert missing(dict.fromkeys(SOMETIMES, 1), every) == []
