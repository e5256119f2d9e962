"""`bananas enqueue` and `bananas job`, with real workers and without."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bananas.cli import exits
from command_line import members

if TYPE_CHECKING:
    from redis import Redis

    from conftest import Bananas


def test_the_value_of_a_job_waited_for_is_all_that_is_printed(on_fleet: Bananas) -> None:
    """So that `$(bananas enqueue … --wait)` is the value."""
    result = on_fleet("enqueue", "add", "x=2", "y=3", "--wait")
    assert (result.exit_code, result.stdout) == (exits.OK, "5\n")


def test_a_failure_waited_for_makes_the_status(on_fleet: Bananas) -> None:
    """The error is told, and the status is 1."""
    result = on_fleet("enqueue", "check", '{"n": -1}', "--wait")
    assert result.exit_code == exits.FAILED
    assert "ValueError: negative: -1" in result.stderr
    assert result.stdout == ""


def test_json_tells_the_end_in_full(on_fleet: Bananas) -> None:
    """Id, status, result and time, for machines."""
    told = members(on_fleet("enqueue", "add", "x=2", "y=3", "--wait", "--json"))
    assert (told["status"], told["result"], told["error"]) == ("completed", 5, None)
    assert told["duration_ms"] >= 0


def test_a_wait_ends_in_time(alone: Bananas) -> None:
    """The job goes on, the status is another than that of a failure."""
    result = alone("enqueue", "add", "--wait", "--wait-timeout", "50ms")
    assert result.exit_code == exits.TIMED_OUT
    assert "bananas job show" in result.stderr


def test_the_id_is_printed(alone: Bananas) -> None:
    """One line, for scripts."""
    job_id = alone("enqueue", "add", "x=1").stdout.strip()
    assert members(alone("job", "show", job_id, "--json"))["payload"] == {"x": 1}


def test_every_option_reaches_the_job(alone: Bananas) -> None:
    """What is said on the command line stands in the record."""
    said = (
        "enqueue add [1] --priority high --routing-key gpu --max-retries 7 --timeout 1m "
        "--id mine --description words --result --delay 1h --expires-at 2100-01-01T00:00:00Z"
    )
    assert alone(*said.split()).exit_code == exits.OK
    told = members(alone("job", "show", "mine", "--json"))
    wanted = {
        "priority": "high",
        "routing_key": "gpu",
        "max_retries": 7,
        "timeout_s": 60,
        "description": "words",
        "result": True,
        "status": "scheduled",
        "expires_at": "2100-01-01T00:00:00.000000Z",
        "payload": [1],
    }
    assert {name: told[name] for name in wanted} == wanted
    assert alone("enqueue", "add", "--at", "2100-01-01T00:00:00Z").exit_code == exits.OK


def test_standard_input_may_be_the_payload(alone: Bananas) -> None:
    """A dash reads it."""
    job_id = alone("enqueue", "add", "-", input='{"x": 7}').stdout.strip()
    assert members(alone("job", "show", job_id, "--json"))["payload"] == {"x": 7}


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("enqueue bad/name", "name"),
        ("enqueue a --priority urgent", "priority"),
        ("enqueue a --id no/id", "id"),
        ("enqueue a --routing-key no/key", "routing_key"),
        ("enqueue a --at tomorrow", "scheduled_for"),
        ("enqueue a --max-retries -1", "max_retries"),
        ("enqueue a nonsense", "payload"),
    ],
)
def test_a_bad_field_is_named(alone: Bananas, said: str, field: str) -> None:
    """Field and rule, and nothing is enqueued."""
    result = alone(*said.split())
    assert result.exit_code == exits.USAGE
    assert result.stderr.startswith(f"error: {field}: must ")
    assert members(alone("queue", "ls", "--json"))["waiting"] == 0


def test_an_id_is_taken_once(alone: Bananas) -> None:
    """The second of the same id is refused, and changes nothing."""
    alone("enqueue", "a", "x=1", "--id", "mine")
    result = alone("enqueue", "a", "x=2", "--id", "mine")
    assert result.exit_code == exits.FAILED
    assert '"mine": exists already' in result.stderr
    assert members(alone("job", "show", "mine", "--json"))["payload"] == {"x": 1}


def test_a_job_is_shown_to_people(on_fleet: Bananas) -> None:
    """Status, runs, payload and result, by name."""
    job_id = members(on_fleet("enqueue", "add", "x=20", "y=22", "--wait", "--json"))["id"]
    shown = on_fleet("job", "show", job_id).stdout
    for words in (job_id, "completed", "1 of 3", '"x": 20', "42"):
        assert words in shown
    assert members(on_fleet("job", "show", job_id, "--json"))["outcome"]["result"] == 42


def test_an_unknown_job_is_told(alone: Bananas) -> None:
    """By its id, with status 1."""
    result = alone("job", "show", "nobody")
    assert (result.exit_code, result.stderr) == (exits.FAILED, 'error: job "nobody": not found\n')


def test_jobs_are_cancelled_each_for_itself(alone: Bananas) -> None:
    """One that cannot be is told, and the others are done."""
    for name in ("one", "two"):
        alone("enqueue", "a", "--id", name)
    result = alone("job", "cancel", "one", "nobody", "two", "--json")
    assert result.exit_code == exits.FAILED
    assert [(item["id"], item["status"]) for item in members(result)] == [
        ("one", "cancelled"),
        ("nobody", "refused"),
        ("two", "cancelled"),
    ]
    assert alone("job", "cancel", "one").exit_code == exits.FAILED
    assert members(alone("job", "show", "two", "--json"))["status"] == "cancelled"


def test_only_failed_jobs_are_retried(alone: Bananas) -> None:
    """The reason is told."""
    alone("enqueue", "a", "--id", "one")
    result = alone("job", "retry", "one")
    assert result.exit_code == exits.FAILED
    assert "pending, not failed" in result.stderr


def test_a_record_that_is_no_json_is_shown(alone: Bananas, alone_prefix: str, raw: Redis) -> None:
    """Its bytes and what is wrong with them, made harmless."""
    raw.set(f"{alone_prefix}:job:odd", b"\x1b[2J{nope")
    result = alone("job", "show", "odd")
    assert result.exit_code == exits.OK
    assert "cannot be read" in result.stdout
    assert "\x1b" not in result.stdout
    told = alone("job", "show", "odd", "--json").stdout
    assert "nope" in json.loads(told)["payload"]
