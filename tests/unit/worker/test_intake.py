"""The intake: which of the leased jobs may run, and what becomes of the others at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bananas.broker import Batch, Group, Leased, Specials
from bananas.registry import Definition, Registry, TaskOptions
from bananas.settings import Settings
from bananas.table import JOB_ID_MAX_BYTES
from bananas.worker.attempt import Attempt, Lease
from bananas.worker.intake import Intake
from bananas.worker.outcomes import Outcomes, RedisTime

NORMAL = "queue:normal"
NOW_MS = 1_800_000_000_000
PAST, FUTURE = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"


def record(job_id: str = "j", *, place: str | None = NORMAL, **fields: object) -> bytes:
    """Return a record as it lies in Redis; without a place it is a foreign one."""
    members: dict[str, object] = {"id": job_id, "name": "t", "payload": {}, "status": "pending"}
    members |= {"priority": "normal", "routing_key": "default", "attempts": 0, "max_retries": 3}
    members |= fields
    if place is not None:
        members["list"] = place
    return json.dumps(members).encode()


class Desk:
    """An intake that knows the task `t`, and what has come of the jobs put before it."""

    def __init__(self, *, task_limit_s: float | None = None) -> None:
        """Allow 70 s by the setting, or what the task says."""
        registry = Registry()
        options = TaskOptions(timeout_s=task_limit_s)
        registry.add(Definition("t", print, "async", options))
        settings = Settings(job_timeout_s=70.0, poison_deaths=3)
        clock = RedisTime()
        clock.heard(NOW_MS)
        self.outcomes = Outcomes(settings, clock, lambda _: None)
        self.intake = Intake(registry, settings, self.outcomes, clock)
        self.lease = Lease("e", "r", 0)

    def admit(self, *jobs: Leased) -> list[Attempt]:
        """Admit one batch."""
        groups = [Group(job.place, [job.job_id], [job.record], [job.crashes]) for job in jobs]
        batch = Batch("r", NOW_MS, groups)
        self.lease, attempts = self.intake.admit(batch, "e", Specials())
        return attempts

    def one(
        self, data: bytes | None, origin: str | None = NORMAL, *, crashes: int = 0, name: str = "j"
    ) -> Attempt | None:
        """Admit one job."""
        attempts = self.admit(Leased(name.encode(), data, origin, crashes))
        assert len(attempts) + (self.lease.open == 0) == 1, "it runs or has its outcome"
        return attempts[0] if attempts else None


@pytest.mark.parametrize(
    "way",
    [
        pytest.param({}, id="ordinary"),
        pytest.param({"crashes": 1}, id="crashed"),
        pytest.param({"origin": None}, id="answered again"),
        pytest.param({"expires_at": FUTURE}, id="expiring"),
        pytest.param({"place": None}, id="foreign"),
    ],
)
def test_the_limit_is_the_jobs_or_its_tasks_or_the_setting(way: dict[str, Any]) -> None:
    """On each way in, whatever else is to be said of the job."""
    leased = {key: value for key, value in way.items() if key in {"crashes", "origin"}}
    fields = {key: value for key, value in way.items() if key not in leased}
    for own_s, task_s, expected_s in ((5.0, 6.0, 5.0), (None, 6.0, 6.0), (None, None, 70.0)):
        own = {} if own_s is None else {"timeout_s": own_s}
        attempt = Desk(task_limit_s=task_s).one(record(**fields, **own), **leased)
        assert attempt is not None
        assert attempt.soft_limit_s == expected_s


@pytest.mark.parametrize("origin", [NORMAL, None])
def test_a_foreign_job_is_known_as_one_on_every_way(origin: str | None) -> None:
    """In the answer to a repeated request, too, which tells of no place: or it is never counted."""
    attempt = Desk().one(record(place=None), origin)
    assert attempt is not None
    assert (attempt.foreign, attempt.job.place) == (True, NORMAL)


@pytest.mark.parametrize("origin", [NORMAL, None])
def test_what_nobody_has_checked_is_looked_at(origin: str | None) -> None:
    """A foreign record must carry the id it lies under, of a length that others can hold."""
    desk = Desk()
    assert desk.one(record("other", place=None), origin) is None
    assert desk.lease.settlement.results[0][3][5] == 'its record carries the id "other"'
    long = "x" * (JOB_ID_MAX_BYTES + 1)
    assert desk.one(record(long, place=None), origin, name=long) is None
    assert "longer than" in desk.lease.settlement.results[0][3][5]


@pytest.mark.parametrize("place", ["queue:scheduled", "job:j", "route:a:b"])
def test_a_place_that_is_none_is_not_believed(place: str) -> None:
    """What a foreign record says of its list counts only where it names one."""
    attempt = Desk().one(record(place=place))
    assert attempt is not None
    assert (attempt.foreign, attempt.job.place) == (True, NORMAL)


def test_a_foreign_job_in_the_wrong_list_is_moved() -> None:
    """To where its priority and routing key say."""
    desk = Desk()
    assert desk.one(record(place=None, priority="high")) is None
    assert desk.lease.settlement.routed == [(b"j", "queue:high")]


@pytest.mark.parametrize(
    ("status", "list_name"),
    [("cancelled", "forgotten"), ("completed", "spared"), ("failed", "spared")],
)
@pytest.mark.parametrize("newer", [False, True])
def test_a_job_that_has_ended_does_not_run(status: str, list_name: str, newer: bool) -> None:
    """Whoever pushed its id again, and whichever version wrote its end."""
    desk = Desk()
    more = {"protocol": 99} if newer else {}
    assert desk.one(record(status=status, **more)) is None
    assert getattr(desk.lease.settlement, list_name) == [b"j"]


def test_a_newer_record_is_left_as_it_is() -> None:
    """For workers of its version."""
    desk = Desk()
    data = record(protocol=99)
    assert desk.one(data) is None
    assert [later[:2] for later in desk.lease.settlement.later] == [(b"j", data)]


def test_the_deaths_of_a_job_are_known_until_they_are_too_many() -> None:
    """The last death allowed makes it poison, without a run."""
    for crashes in (1, 2):
        attempt = Desk().one(record(), crashes=crashes)
        assert attempt is not None
        assert attempt.crashes == crashes
    desk = Desk()
    assert desk.one(record(), crashes=3) is None
    assert (desk.outcomes.poisoned, len(desk.lease.settlement.failed)) == (1, 1)


def test_a_job_with_a_time_by_which_to_begin_is_watched() -> None:
    """It is dropped when it comes too late, and looked at again while it waits."""
    desk = Desk()
    assert desk.one(record(expires_at=PAST)) is None
    assert len(desk.lease.settlement.lapsed) == 1
    attempt = desk.one(record(expires_at=FUTURE))
    assert desk.intake.expiring == [attempt]


def test_an_id_given_twice_runs_once() -> None:
    """The lease holds it once."""
    desk = Desk()
    twice = Leased(b"j", record(), NORMAL, 0)
    assert [run.job_id for run in desk.admit(twice, twice)] == [b"j"]
    assert desk.lease.open == 1


def test_what_cannot_run_stops_nobody_beside_it() -> None:
    """A missing, a broken and an unknown one leave their outcome, the others run, in order."""
    desk = Desk()
    attempts = desk.admit(
        Leased(b"a", record("a"), NORMAL, 0),
        Leased(b"m", None, NORMAL, 0),
        Leased(b"b", b"{", NORMAL, 0),
        Leased(b"u", record("u", name="nobody"), NORMAL, 0),
        Leased(b"z", record("z"), NORMAL, 0),
    )
    assert [run.job_id for run in attempts] == [b"a", b"z"]
    assert desk.lease.open == 2
    assert {job_id for job_id, _ in desk.lease.settlement.failed} == {b"m", b"b"}
    assert [later[3] for later in desk.lease.settlement.later] == ["unclaimed"]


def test_a_defect_of_ours_costs_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is failed with its bytes, and the rest of the batch goes on."""
    desk = Desk()

    def broken(*_: object) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr(desk.intake, "_admit_one", broken)
    odd = record("o", expires_at=FUTURE)
    attempts = desk.admit(Leased(b"o", odd, NORMAL, 0), Leased(b"a", record("a"), NORMAL, 0))
    assert [run.job_id for run in attempts] == [b"a"]
    assert desk.lease.settlement.failed == [(b"o", odd)]
