"""`bananas doctor`: finds what is wrong, explains the counters, and says what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bananas.cli import exits
from command_line import invoke, members
from sentinels import Watched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result
    from redis import Redis

    from conftest import Bananas
    from servers import Kind, Server


def findings(result: Result, grade: str) -> str:
    """Return all findings of a grade, as text."""
    told = members(result)["findings"]
    return "\n".join(item["what"] for item in told if item["grade"] == grade)


def test_a_healthy_server_is_found_so(server: Server, prefix: str) -> None:
    """Version, policy, persistence, latency and libraries are told; the status is 0."""
    result = invoke(
        "doctor", "--redis-url", server.url, "--key-prefix", prefix, "--json", "--audit"
    )
    told = members(result)
    assert (result.exit_code, told["ok"]) == (exits.OK, True)
    assert server.kind.rstrip("8") in told["facts"]["server version"]
    assert "noeviction" in told["facts"]["memory"]
    assert "hiredis" in told["facts"]["libraries"]
    assert told["facts"]["core"] in ("compiled", "pure Python")
    assert "new enough" in findings(result, "ok")
    assert "append-only file is off" in findings(result, "advice")
    assert told["audit"]["drift"] == 0


def test_the_screen_says_the_same(alone: Bananas) -> None:
    """Settings that were set with their source, facts, findings, a verdict."""
    shown = alone("doctor", "--audit").stdout
    for words in ("BANANAS_REDIS_URL", "(BANANAS_REDIS_URL)", "latency", "audit", "0 wrong"):
        assert words in shown
    assert "BANANAS_WORKER_CONCURRENCY" not in shown
    assert "BANANAS_WORKER_CONCURRENCY" in alone("doctor", "--all").stdout


def test_a_lost_list_is_repaired(alone: Bananas, raw: Redis, alone_prefix: str) -> None:
    """What was done is said, on the screen and as JSON; a second repair finds nothing to do."""
    for n in range(3):
        alone("enqueue", "x", f"n={n}")
    lost = f"{alone_prefix}:queue:normal"
    waiting = raw.lrange(lost, 0, -1)
    raw.delete(lost)
    assert "3 jobs fewer" in alone("doctor", "--audit").stdout
    shown = alone("doctor", "--repair").stdout
    assert "3 jobs put back that had a record and were nowhere" in shown
    assert raw.lrange(lost, 0, -1) == waiting
    told = members(alone("doctor", "--repair", "--audit", "--json"))
    assert (told["repaired"], told["audit"]["drift"]) == ([], 0)
    assert "nothing was to be mended" in alone("doctor", "--repair").stdout


def test_a_repair_waits_until_nothing_moves(
    alone: Bananas, raw: Redis, alone_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that move cannot be told from those that are nowhere: none is put anywhere."""

    async def moved(*_: object) -> int:
        return -1

    alone("enqueue", "x")
    raw.delete(f"{alone_prefix}:queue:normal")
    monkeypatch.setattr("bananas.broker.Broker.restore", moved)
    monkeypatch.setattr("bananas.cli.repair._PAUSE_S", 0.0)
    result = alone("doctor", "--repair")
    assert result.exit_code == exits.FAILED
    assert "not repaired" in result.stdout
    assert "stop the workers" in result.stdout


def test_secrets_are_not_shown(alone: Bananas) -> None:
    """Neither the token nor the password of the URL."""
    env = {
        "BANANAS_API_TOKEN": "very-secret-token",
        "BANANAS_REDIS_URL": "redis://user:hidden-word@127.0.0.1:1/0",
    }
    result = alone("doctor", "--all", env=env)
    assert result.exit_code == exits.FAILED
    for word in ("very-secret", "hidden-word"):
        assert word not in result.stdout + result.stderr


def test_sources_are_told(alone: Bananas, tmp_path: Path) -> None:
    """A flag, a variable, pyproject.toml, or the default."""
    (tmp_path / "pyproject.toml").write_text("[tool.bananas]\nworker-concurrency = 7\n")
    told = members(alone("doctor", "--json", "--data-dir", "here"))["settings"]
    source = {item["variable"]: item["source"] for item in told}
    assert source["BANANAS_DATA_DIR"] == "flag"
    assert source["BANANAS_KEY_PREFIX"] == "BANANAS_KEY_PREFIX"
    assert source["BANANAS_WORKER_CONCURRENCY"] == "pyproject.toml"
    assert source["BANANAS_PROCS"] == "default"


def test_eviction_is_wrong(make_server: Callable[..., Server]) -> None:
    """A server that may throw jobs away makes the status 1, and the remedy is told."""
    server = make_server()
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    result = invoke("doctor", "--redis-url", server.url, "--json")
    assert result.exit_code == exits.FAILED
    assert "allkeys-lru" in findings(result, "wrong")


def test_a_server_that_keeps_nothing_is_told(make_server: Callable[..., Server]) -> None:
    """Neither an append-only file nor snapshots: a restart would lose every job."""
    server = make_server()
    words = "the server writes nothing to disk"
    with server.client() as client:
        client.config_set("save", "")
        assert words in findings(invoke("doctor", "--redis-url", server.url, "--json"), "advice")
        client.config_set("save", "3600 1")
        assert words not in findings(
            invoke("doctor", "--redis-url", server.url, "--json"), "advice"
        )


def test_a_replica_is_wrong(make_server: Callable[..., Server]) -> None:
    """It takes no writes."""
    server = make_server()
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
    assert "replica" in findings(invoke("doctor", "--redis-url", server.url, "--json"), "wrong")


def test_jobs_that_nobody_takes_are_wrong(alone: Bananas) -> None:
    """Waiting jobs without workers, and due jobs without a scheduler."""
    alone("enqueue", "a")
    assert "no worker runs, and 1 job" in findings(alone("doctor", "--json"), "wrong")


def test_due_jobs_without_a_scheduler_are_wrong(
    alone: Bananas, alone_prefix: str, raw: Redis
) -> None:
    """One that has been due for long was not moved."""
    alone("enqueue", "a", "--id", "late", "--delay", "1h")
    raw.zadd(f"{alone_prefix}:queue:scheduled", {"late": 1.0})
    assert "no scheduler runs" in findings(alone("doctor", "--json"), "wrong")


def test_without_a_server_it_says_how_to_get_one(tmp_path: Path) -> None:
    """And whether a program to run one is here."""
    result = invoke("doctor", "--data-dir", str(tmp_path / "none"), "--json")
    assert result.exit_code == exits.FAILED
    assert "no embedded server runs" in findings(result, "wrong")
    assert "can be started" in findings(result, "ok")


def audit_of(bananas: Bananas) -> tuple[Result, dict[str, Any]]:
    """Return the doctor's answer and its audit."""
    result = bananas("doctor", "--audit", "--json")
    told: dict[str, Any] = members(result)["audit"]
    return result, told


def test_jobs_of_other_programs_explain_the_drift(
    alone: Bananas, alone_prefix: str, raw: Redis
) -> None:
    """What was pushed by two plain commands is present and not counted yet; nothing is wrong."""
    alone("enqueue", "a")
    for number in range(3):
        record = {"id": f"f{number}", "name": "a", "payload": {}}
        raw.set(f"{alone_prefix}:job:f{number}", json.dumps(record))
        raw.lpush(f"{alone_prefix}:queue:normal", f"f{number}")
    raw.set(f"{alone_prefix}:job:late", json.dumps({"id": "late", "name": "a"}))
    raw.zadd(f"{alone_prefix}:queue:scheduled", {"late": 4e9})
    raw.sadd(f"{alone_prefix}:places", "queue:normal")
    result, audit = audit_of(alone)
    assert (audit["drift"], audit["of other programs"], audit["unexplained"]) == (4, 4, 0)
    assert "4 of them came from other programs" in findings(result, "ok")


def test_a_lost_job_is_found(alone: Bananas, alone_prefix: str, raw: Redis) -> None:
    """An id that was taken out of its list by hand is one job fewer than was accepted."""
    for name in ("one", "two"):
        alone("enqueue", "a", "--id", name)
    raw.lrem(f"{alone_prefix}:queue:normal", 1, "one")
    result, audit = audit_of(alone)
    assert result.exit_code == exits.FAILED
    assert (audit["drift"], audit["unexplained"]) == (-1, -1)
    assert "1 job fewer than the counters say" in findings(result, "wrong")


def test_a_missing_record_is_found(alone: Bananas, alone_prefix: str, raw: Redis) -> None:
    """An id that was pushed without one explains itself, and is wrong all the same."""
    alone("enqueue", "a")
    raw.lpush(f"{alone_prefix}:queue:normal", "nothing")
    result, audit = audit_of(alone)
    assert (audit["without a record"], audit["unexplained"]) == (1, 0)
    assert "have no record" in findings(result, "wrong")


@pytest.mark.usefixtures("on_fleet")
def test_a_working_fleet_is_conserved(on_fleet: Bananas) -> None:
    """Whatever the fleet did before, every job is accounted for, and it is alive."""
    on_fleet("enqueue", "add", "x=1", "y=1", "--wait")
    on_fleet("dead", "delete", "--all", "--yes")
    result, audit = audit_of(on_fleet)
    assert result.exit_code == exits.OK, findings(result, "wrong")
    assert audit["unexplained"] == 0
    assert members(result)["facts"]["workers"].startswith("1 alive")


@pytest.mark.slow
def test_a_watched_master_that_does_not_look_for_its_replicas(first_kind: Kind) -> None:
    """It is advised that a cut may lose jobs; not once `min-replicas-to-write` is set."""
    watched = Watched(first_kind)
    try:
        watched.start()
        result = invoke("doctor", "--redis-url", watched.url, "--json")
        assert "cut off with its clients" in findings(result, "advice")
        with watched.master().client() as client:
            client.config_set("min-replicas-to-write", 1)
        result = invoke("doctor", "--redis-url", watched.url, "--json")
        assert "cut off with its clients" not in findings(result, "advice")
        assert "lost its replicas takes no jobs" in findings(result, "ok")
    finally:
        watched.discard()
