"""`bananas ingest`: every row once, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bananas.cli import exits
from command_line import members, plain_environ, program, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from conftest import Bananas
    from servers import Server

MIXED = b"""\
{"name": "keep", "payload": {"a": 1}}

nope
{"payload": 1}
{"name": "keep", "priority": "high", "id": "mine"}
[1]"""
BAD = [(3, "line"), (4, "name"), (6, "line")]


def rows(number: int) -> Path:
    """Write a file of payloads."""
    file = Path("rows.ndjson")
    file.write_text("".join(f'{{"n":{n},"pad":"{"x" * 100}"}}\n' for n in range(number)))
    return file


def progress() -> dict[str, object]:
    """Return what the ledger says."""
    told: dict[str, object] = json.loads(Path("rows.ndjson.progress").read_text())
    return told


def payloads(raw: Redis, prefix: str) -> list[int]:
    """Return the numbers of the rows that wait, in the order they will be taken."""
    ids = raw.lrange(f"{prefix}:queue:normal", 0, -1)
    records = raw.mget([f"{prefix}:job:{job_id.decode()}" for job_id in ids]) if ids else []
    return [json.loads(record)["payload"]["n"] for record in reversed(records)]


@pytest.fixture
def api(queue_server: Server, alone_prefix: str, tmp_path: Path) -> Iterator[str]:
    """Serve the HTTP API on the test's prefix; return its address."""
    env = {"BANANAS_REDIS_URL": queue_server.url, "BANANAS_KEY_PREFIX": alone_prefix}
    env["BANANAS_API_TOKEN"] = "sixteen-characters"  # noqa: S105 - of this test
    port = free_port()
    folder = tmp_path / "api"
    folder.mkdir()
    with program("api", "--port", str(port), folder=folder, **env) as running:
        running.until('"message":"child-ready"')
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    """Return a port that nobody listens on."""
    import socket  # noqa: PLC0415 - beside its one use

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


TOKEN = {"BANANAS_API_TOKEN": "sixteen-characters"}


def test_rows_become_jobs_in_order(alone: Bananas, alone_prefix: str, raw: Redis) -> None:
    """Every row once, first in first out."""
    rows(1200)
    result = alone("ingest", "rows.ndjson", "--task", "keep", "--json")
    assert result.exit_code == exits.OK
    told = members(result)
    assert (told["rows"], told["accepted"], told["rejected"]) == (1200, 1200, 0)
    assert payloads(raw, alone_prefix) == list(range(1200))
    assert progress()["done"] is True


def test_bad_rows_are_put_aside(alone: Bananas, alone_prefix: str, raw: Redis) -> None:
    """With line, field, rule and text; the good ones are jobs; the status is 1."""
    Path("rows.ndjson").write_bytes(MIXED)
    result = alone("ingest", "rows.ndjson")
    assert result.exit_code == exits.FAILED
    assert "2 accepted, 3 rejected (rows.rejected.ndjson)" in result.stdout
    told = [json.loads(line) for line in Path("rows.rejected.ndjson").read_text().splitlines()]
    assert [(item["line"], item["field"]) for item in told] == [
        (3, "line"),
        (4, "name"),
        (6, "line"),
    ]
    assert told[0]["row"] == "nope"
    assert all(item["rule"] for item in told)
    assert raw.lrange(f"{alone_prefix}:queue:high", 0, -1) == [b"mine"]


def test_ids_made_of_a_field_make_a_second_run_harmless(
    alone: Bananas, alone_prefix: str, raw: Redis
) -> None:
    """The rows are duplicates, and no jobs are doubled."""
    rows(700)
    said = ("ingest", "rows.ndjson", "--task", "keep", "--id-from", "n")
    assert members(alone(*said, "--json"))["accepted"] == 700
    again = members(alone(*said, "--restart", "--json"))
    assert (again["accepted"], again["duplicates"]) == (0, 700)
    assert raw.llen(f"{alone_prefix}:queue:normal") == 700
    assert raw.exists(f"{alone_prefix}:job:keep:699")


def test_a_second_run_is_asked_what_it_means(alone: Bananas) -> None:
    """To go on, or to begin anew; when nothing is left, going on does nothing."""
    rows(10)
    said = ("ingest", "rows.ndjson", "--task", "keep")
    alone(*said)
    again = alone(*said)
    assert again.exit_code == exits.USAGE
    assert "--resume" in again.stderr
    assert "nothing left" in alone(*said, "--resume").stdout
    assert members(alone(*said, "--restart", "--json"))["accepted"] == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_an_ingestion_cut_short_is_resumed_without_loss_or_double(
    alone: Bananas, alone_prefix: str, raw: Redis, queue_server: Server, number: signal.Signals
) -> None:
    """Ended at any instant, --resume brings each row exactly once."""
    total = 60_000
    rows(total)
    env = {"BANANAS_REDIS_URL": queue_server.url, "BANANAS_KEY_PREFIX": alone_prefix}
    command = [sys.executable, "-m", "bananas", "ingest", "rows.ndjson", "--task", "keep"]
    with subprocess.Popen(command, env=plain_environ(**env), stderr=subprocess.PIPE) as process:
        until(lambda: raw.llen(f"{alone_prefix}:queue:normal") > 2000)
        process.send_signal(number)
        said = process.communicate()[1].decode()
    if number is signal.SIGINT:
        assert process.returncode == exits.INTERRUPTED
        assert "--resume" in said
        assert "Traceback" not in said
    assert progress()["done"] is False
    result = alone("ingest", "rows.ndjson", "--task", "keep", "--resume", "--json")
    assert members(result)["rows"] == total
    waiting = raw.lrange(f"{alone_prefix}:queue:normal", 0, -1)
    assert len(waiting) == len(set(waiting)) == total
    assert sorted(payloads(raw, alone_prefix)) == list(range(total))


def test_what_was_sent_and_not_acknowledged_is_no_second_job(
    alone: Bananas, alone_prefix: str, raw: Redis
) -> None:
    """A ledger one chunk behind the server makes duplicates."""
    rows(1000)
    alone("ingest", "rows.ndjson", "--task", "keep")
    behind = progress() | {"offset": 0, "line": 0, "accepted": 0, "done": False}
    Path("rows.ndjson.progress").write_text(json.dumps(behind))
    told = members(alone("ingest", "rows.ndjson", "--task", "keep", "--resume", "--json"))
    assert (told["accepted"], told["duplicates"]) == (0, 1000)
    assert raw.llen(f"{alone_prefix}:queue:normal") == 1000


def test_rows_appended_later_are_taken_by_resume(alone: Bananas) -> None:
    """A log that grows is ingested bit by bit."""
    file = rows(10)
    said = ("ingest", "rows.ndjson", "--task", "keep")
    alone(*said)
    with file.open("a") as more:
        more.write('{"n":10}\n')
    told = members(alone(*said, "--resume", "--json"))
    assert (told["rows"], told["accepted"]) == (11, 11)


@pytest.mark.parametrize("source", ["pipe", "file"])
def test_standard_input_is_a_source(
    alone_prefix: str, raw: Redis, queue_server: Server, source: str
) -> None:
    """From a pipe as it comes, and from a file; it leaves no progress file."""
    env = {"BANANAS_REDIS_URL": queue_server.url, "BANANAS_KEY_PREFIX": alone_prefix}
    command = [sys.executable, "-m", "bananas", "ingest", "-", "--json"]
    Path("in").write_bytes(MIXED)
    with Path("in").open("rb") as file:
        done = subprocess.run(
            command,
            env=plain_environ(**env),
            stdin=file if source == "file" else None,
            input=MIXED if source == "pipe" else None,
            capture_output=True,
            check=False,
        )
    told = json.loads(done.stdout)
    assert done.returncode == exits.FAILED
    assert (told["accepted"], told["rejected"]) == (2, 3)
    lines = Path("stdin.rejected.ndjson").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [3, 4, 6]
    assert raw.llen(f"{alone_prefix}:queue:high") == 1
    assert not list(Path().glob("*.progress"))


def test_a_trickle_is_not_held_back(alone_prefix: str, raw: Redis, queue_server: Server) -> None:
    """A row written to the pipe is a job before the next one comes."""
    env = {"BANANAS_REDIS_URL": queue_server.url, "BANANAS_KEY_PREFIX": alone_prefix}
    command = [sys.executable, "-m", "bananas", "ingest", "-", "--task", "keep"]
    with subprocess.Popen(
        command,
        env=plain_environ(**env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        for number in (1, 2):
            os.write(process.stdin.fileno(), b'{"n":%d}\n' % number)
            until(lambda wanted=number: raw.llen(f"{alone_prefix}:queue:normal") == wanted)
        process.communicate()
    assert process.returncode == exits.OK


def test_rows_go_through_http(alone: Bananas, alone_prefix: str, raw: Redis, api: str) -> None:
    """With --url the same jobs, in the same order, and the rejected rows of both sides."""
    rows(5000)
    said = ("ingest", "rows.ndjson", "--task", "keep", "--url", api, "--json")
    told = members(alone(*said, env=TOKEN))
    assert (told["accepted"], told["rejected"]) == (5000, 0)
    assert payloads(raw, alone_prefix) == list(range(5000))
    behind = progress() | {"offset": 0, "line": 0, "accepted": 0, "done": False}
    Path("rows.ndjson.progress").write_text(json.dumps(behind))
    told = members(alone(*said, "--resume", env=TOKEN))
    assert (told["accepted"], told["duplicates"]) == (0, 5000)

    Path("mixed.ndjson").write_bytes(MIXED)
    result = alone("ingest", "mixed.ndjson", "--url", api, env=TOKEN)
    assert result.exit_code == exits.FAILED
    lines = Path("mixed.rejected.ndjson").read_text().splitlines()
    assert [(json.loads(line)["line"], json.loads(line)["field"]) for line in lines] == BAD


def test_http_without_a_token_is_told(alone: Bananas, api: str) -> None:
    """The variable is named, and nothing is repeated for a minute."""
    rows(3)
    result = alone("ingest", "rows.ndjson", "--task", "keep", "--url", api)
    assert result.exit_code == exits.USAGE
    assert "BANANAS_API_TOKEN" in result.stderr


def test_an_api_that_is_not_there_is_given_up(
    alone: Bananas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its patience, with the status of a missing server."""
    from bananas.cli import post  # noqa: PLC0415 - beside its one use

    monkeypatch.setitem(post.Poster.__init__.__kwdefaults__, "patience_s", 0.2)
    rows(3)
    url = f"http://127.0.0.1:{free_port()}"
    result = alone("ingest", "rows.ndjson", "--task", "keep", "--url", url)
    assert result.exit_code == exits.NO_SERVER
    assert "takes no jobs" in result.stderr


@pytest.mark.parametrize(
    "said",
    [
        "ingest rows.ndjson --priority high",
        "ingest rows.ndjson --resume --restart",
        "ingest - --resume",
        "ingest nowhere.ndjson",
        "ingest rows.ndjson --task bad/name",
        "ingest rows.ndjson --task keep --priority urgent",
        "ingest rows.ndjson --url ftp://x",
    ],
)
def test_what_makes_no_sense_is_refused(alone: Bananas, said: str) -> None:
    """Before anything is read."""
    rows(1)
    assert alone(*said.split()).exit_code == exits.USAGE


def test_two_do_not_ingest_one_file(alone: Bananas) -> None:
    """The second is told."""
    import fcntl  # noqa: PLC0415 - beside its one use

    with rows(1).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = alone("ingest", "rows.ndjson", "--task", "keep")
    assert result.exit_code == exits.USAGE
    assert "by another process" in result.stderr
