"""What the doctor makes of what a server and a machine say."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from bananas.broker import Audit
from bananas.cli import checkup
from bananas.cli.conservation import Drift, is_ours
from bananas.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


def judged(judge: Callable[..., None], **info: str) -> list[tuple[str, str]]:
    """Return grade and words of all findings."""
    report = checkup.Report()
    judge(report, info)
    return [(finding.grade, finding.what) for finding in report.findings]


@pytest.mark.parametrize(
    ("info", "grade"),
    [
        ({"redis_version": "7.0.15"}, "ok"),
        ({"redis_version": "6.2.14"}, "wrong"),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.5"}, "wrong"),
        ({"redis_version": "255.255.255"}, "ok"),
    ],
)
def test_servers_are_old_enough_or_not(info: dict[str, str], grade: str) -> None:
    """Redis from 7.0, Valkey from 8; Valkey's claim to be a Redis does not count."""
    assert [found for found, _ in judged(checkup._judge_version, **info)] == [grade]


def test_memory_is_judged() -> None:
    """Eviction is wrong, no limit and a full one are advice."""
    good = {"maxmemory_policy": "noeviction", "maxmemory": "1000", "used_memory": "10"}
    assert judged(checkup._judge_memory, **good) == [
        ("ok", "nothing is evicted (maxmemory-policy noeviction)")
    ]
    full = judged(checkup._judge_memory, **{**good, "used_memory": "900"})
    assert ("advice", "90% of maxmemory is used") in full
    evicting = judged(checkup._judge_memory, **{**good, "maxmemory_policy": "volatile-lru"})
    assert evicting[0][0] == "wrong"
    assert judged(checkup._judge_memory, maxmemory_policy="noeviction")[1][0] == "advice"
    evicted = judged(checkup._judge_memory, **{**good, "evicted_keys": "12"})
    assert ("wrong", "12 keys were evicted since the server started") in evicted


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({"connected_clients": "10", "maxclients": "100"}, []),
        (
            {"connected_clients": "90", "maxclients": "100"},
            [("advice", "90% of maxclients is used")],
        ),
        (
            {"connected_clients": "1", "maxclients": "100", "rejected_connections": "3"},
            [("advice", "3 connections were refused since the server started")],
        ),
        ({}, []),
    ],
)
def test_room_for_connections_is_judged(info: dict[str, str], found: list[tuple[str, str]]) -> None:
    """Near the limit, or past it once: a worker that cannot connect does nothing."""
    assert judged(checkup._judge_connections, **info) == found


@pytest.mark.parametrize(
    ("info", "grades"),
    [
        ({"aof_enabled": "1"}, ["ok"]),
        ({"aof_enabled": "1", "aof_last_write_status": "err"}, ["wrong"]),
        ({"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, ["wrong"]),
        ({"rdb_last_save_time": "1", "rdb_changes_since_last_save": "1"}, ["advice"]),
        ({"aof_enabled": "1", "loading": "1"}, ["ok", "advice"]),
    ],
)
def test_persistence_is_judged(info: dict[str, str], grades: list[str]) -> None:
    """What would lose jobs is told."""
    assert [grade for grade, _ in judged(checkup._judge_persistence, **info)] == grades


def test_few_files_are_advised_against(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API process needs one a connection."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    report = checkup.Report()
    checkup._look_at_machine(report, Settings(procs=64))
    assert report.facts["open files"] == "256 (ulimit -n), at most unlimited"
    advice = [finding.what for finding in report.findings if finding.grade == "advice"]
    assert advice[0] == "ulimit -n is 256"
    assert advice[1].startswith("64 worker processes")


def test_missing_libraries_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is wrong, what helps is advice; so is the pure core."""
    monkeypatch.setattr(checkup, "_version", lambda name: "1" if name == "bananas" else "")
    monkeypatch.setattr(checkup, "COMPILED", False)
    monkeypatch.delenv("BANANAS_PURE", raising=False)
    report = checkup.Report()
    checkup._look_at_code(report)
    grades = [finding.grade for finding in report.findings]
    assert grades == ["advice", "wrong", "advice", "advice"]
    monkeypatch.setenv("BANANAS_PURE", "1")
    report = checkup.Report()
    checkup._look_at_code(report)
    assert "BANANAS_PURE" in report.findings[0].what


def test_a_machine_without_a_server_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """That none runs, that none is installed, and how full the disk is."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bananas.embedded._wheel_path", lambda: None)
    monkeypatch.setattr(checkup, "_DISK_BYTES", 2**80)
    report = checkup.examine(Settings(data_dir=tmp_path), audit=False)
    told = "\n".join(finding.what for finding in report.findings)
    for words in ("no embedded server runs", "no server is installed", "MiB are free"):
        assert words in told


def drift(present: int, accepted: int, foreign: int = 0, missing: int = 0) -> Drift:
    """Return a drift with these counts."""
    audit = Audit(0, 0, 0, 0, present, [], {"accepted": accepted})
    return Drift(audit, foreign, missing, present, moving=False)


@pytest.mark.parametrize(
    ("found", "unexplained"),
    [
        (drift(5, 5), 0),
        (drift(7, 5, foreign=2), 0),
        (drift(7, 5, foreign=1), 1),
        (drift(7, 5, foreign=1, missing=1), 0),
        (drift(7, 5, missing=9), 0),
        (drift(4, 5), -1),
        (drift(5, 5, foreign=1), -1),
        (drift(4, 5, missing=1), -1),
    ],
)
def test_drift_is_explained_or_not(found: Drift, unexplained: int) -> None:
    """Foreign ids are too many, lost ones too few; a missing record explains one too many."""
    assert found.unexplained == unexplained
    assert found.direction == ("more" if unexplained > 0 else "fewer")
    assert found.facts()["unexplained"] == unexplained
    assert found.advice


@pytest.mark.parametrize(
    ("tail", "ours"),
    [
        (b'"max_retries":3,"list":"queue:normal"}', True),
        (b'{"id":"a","name":"b"}', False),
        (b'"list":"x"} ', False),
        (b"", False),
    ],
)
def test_records_of_ours_are_known_by_their_end(tail: bytes, ours: bool) -> None:
    """They name their place last."""
    assert is_ours(tail) is ours


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"redis_version": "7.0.15"}, ["distribution", "7.0.15"]),
        ({"redis_version": "7.2.10"}, ["7.2.11"]),
        ({"redis_version": "7.2.11"}, []),
        ({"redis_version": "8.2.1"}, ["8.2.2"]),
        ({"redis_version": "8.4.0"}, []),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.3"}, ["8.1.4"]),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, []),
        ({"redis_version": "unknown"}, []),
        ({}, []),
    ],
)
def test_known_flaws_of_a_servers_lua_are_told(info: dict[str, str], words: list[str]) -> None:
    """A release before the first that mends them is advised against, by its line."""
    report = checkup.Report()
    checkup._judge_patches(report, info)
    assert len(report.findings) == bool(words)
    for finding in report.findings:
        assert finding.grade == "advice"
        assert all(word in finding.what + finding.advice for word in words)
