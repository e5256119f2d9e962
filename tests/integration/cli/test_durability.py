"""Durability at the command line: asked for by a flag, looked at by the doctor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from command_line import invoke
from replicas import Pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers import Kind, Server


@pytest.fixture
def pair(first_kind: Kind, make_server: Callable[..., Server]) -> Pair:
    """Return a primary and a replica."""
    return Pair(first_kind, make_server)


def waits(server: Server) -> int:
    """Return how often the server was asked to wait for replicas."""
    with server.client() as redis:
        stats: Any = redis.info("commandstats")
    return int(stats.get("cmdstat_wait", {}).get("calls", 0))


def test_a_job_and_a_file_are_confirmed(pair: Pair, tmp_path: Path) -> None:
    """The flag is the setting, for one job and for the rows of a file."""
    env = {"BANANAS_REDIS_URL": pair.primary.url}
    before = waits(pair.primary)
    assert invoke("enqueue", "a", env=env).exit_code == 0
    assert waits(pair.primary) == before
    assert invoke("enqueue", "a", "--durability", "replica", env=env).exit_code == 0
    after_one = waits(pair.primary)
    assert after_one > before
    rows = tmp_path / "rows.ndjson"
    rows.write_text(json.dumps({"name": "a"}) * 1 + "\n")
    result = invoke("ingest", str(rows), "--durability", "replica", env=env)
    assert result.exit_code == 0, result.stderr
    assert waits(pair.primary) > after_one


def test_unconfirmed_has_a_status_of_its_own(pair: Pair) -> None:
    """It is told with the id and what to do; status 6: it goes on."""
    env = {
        "BANANAS_REDIS_URL": pair.primary.url,
        "BANANAS_DURABILITY": "replica",
        "BANANAS_DURABILITY_TIMEOUT": "300ms",
    }
    with pair.replica.frozen():
        result = invoke("enqueue", "a", "--id", "mine", env=env)
    assert result.exit_code == 6
    assert 'job "mine" is accepted in memory' in result.stderr
    assert "same ids" in result.stderr


def test_the_doctor_looks_at_the_setting(pair: Pair) -> None:
    """What the server cannot give is wrong, with the remedy."""
    env = {"BANANAS_REDIS_URL": pair.primary.url, "BANANAS_DURABILITY": "replica"}
    told = json.loads(invoke("doctor", "--json", env=env).stdout)
    assert told["facts"]["durability"] == "replica"
    assert any("can give durability" in finding["what"] for finding in told["findings"])
    env["BANANAS_DURABILITY_REPLICAS"] = "2"
    result = invoke("doctor", "--json", env=env)
    wrong = [one for one in json.loads(result.stdout)["findings"] if one["grade"] == "wrong"]
    assert result.exit_code == 1
    assert any("1 of 2 replicas are connected" in one["what"] for one in wrong)
    assert any("BANANAS_DURABILITY_REPLICAS" in one["advice"] for one in wrong)
