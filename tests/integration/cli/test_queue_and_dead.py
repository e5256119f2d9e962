"""`bananas queue` and `bananas dead`: what waits, what failed, and how it is mended."""

from __future__ import annotations

import shlex
import uuid
from typing import TYPE_CHECKING

import pytest

from bananas.cli import exits
from command_line import members, until

if TYPE_CHECKING:
    from redis import Redis

    from conftest import Bananas


def dead_count(bananas: Bananas) -> int:
    """Return how many jobs have failed for good."""
    return int(members(bananas("queue", "ls", "--json"))["dead"])


class Failed:
    """Commands on a fleet with three failed jobs: two of `check`, -1 and -2, then one of `add`."""

    def __init__(self, bananas: Bananas) -> None:
        """Have them fail, under ids that nobody had before."""
        self.run = bananas
        tag = uuid.uuid4().hex[:8]
        self.c1, self.c2, self.a1 = f"c1-{tag}", f"c2-{tag}", f"a1-{tag}"
        bananas("dead", "delete", "--all", "--yes")
        bananas("enqueue", "check", "n=-1", "--id", self.c1, "--wait")
        bananas("enqueue", "check", "n=-2", "--id", self.c2, "--wait")
        bananas("enqueue", "add", "x=1", "y=a", "--max-retries", "1", "--id", self.a1, "--wait")
        until(lambda: dead_count(bananas) == 3)


@pytest.fixture
def failed(on_fleet: Bananas) -> Failed:
    """Return the failed jobs."""
    return Failed(on_fleet)


def test_queues_are_listed_with_what_waits(alone: Bananas) -> None:
    """By routing key and priority, the default ones also when empty."""
    alone("enqueue", "a", "--priority", "high")
    alone("enqueue", "a", "--routing-key", "gpu")
    told = members(alone("queue", "ls", "--json"))
    waiting = {(q["routing_key"], q["priority"]): q["waiting"] for q in told["queues"]}
    assert waiting == {
        ("default", "high"): 1,
        ("default", "normal"): 0,
        ("default", "low"): 0,
        ("gpu", "normal"): 1,
    }
    assert (told["waiting"], told["workers"]) == (2, 0)


def test_a_queue_that_nobody_serves_is_pointed_at(alone: Bananas) -> None:
    """The table says that no workers run."""
    alone("enqueue", "a")
    result = alone("queue", "ls")
    assert "1 waiting" in result.stdout
    assert "no workers are running" in result.stderr


def test_workers_are_counted(on_fleet: Bananas) -> None:
    """Those that beat."""
    assert members(on_fleet("queue", "ls", "--json"))["workers"] == 1


def test_failed_jobs_are_listed_and_filtered(failed: Failed) -> None:
    """By task and by words of the error; the latest first unless asked otherwise."""

    def ids(*said: str) -> list[str]:
        return [job["id"] for job in members(failed.run("dead", "ls", *said, "--json"))["jobs"]]

    assert ids() == [failed.a1, failed.c2, failed.c1]
    assert ids("--oldest-first") == [failed.c1, failed.c2, failed.a1]
    assert ids("--name", "check") == [failed.c2, failed.c1]
    assert ids("--error", "negative: -2") == [failed.c2]
    shown = failed.run("dead", "ls")
    assert "ValueError: negative: -1" in shown.stdout
    assert "3 in all" in shown.stderr


def test_pages_follow_each_other(failed: Failed) -> None:
    """The cursor that a page ends with begins the next."""
    first = members(failed.run("dead", "ls", "--limit", "2", "--json"))
    second = members(failed.run("dead", "ls", "--cursor", first["cursor"], "--json"))
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == [
        failed.a1,
        failed.c2,
        failed.c1,
    ]
    assert "--cursor" in failed.run("dead", "ls", "--limit", "2").stderr
    wrong = failed.run("dead", "ls", "--cursor", "nonsense")
    assert wrong.exit_code == exits.USAGE
    assert "cursor: must be" in wrong.stderr


def test_groups_count_by_error(failed: Failed) -> None:
    """One line a task and error."""
    groups = members(failed.run("dead", "groups", "--json"))
    assert sorted((group["name"], group["count"]) for group in groups) == [
        ("add", 1),
        ("check", 1),
        ("check", 1),
    ]
    assert "negative: -1" in failed.run("dead", "groups").stdout


def test_one_is_shown_whole(failed: Failed) -> None:
    """Payload and error."""
    shown = failed.run("dead", "show", failed.c1).stdout
    assert '"n": -1' in shown
    assert "negative: -1" in shown
    assert members(failed.run("dead", "show", failed.c1, "--json"))["status"] == "failed"


def test_a_dry_run_only_counts(failed: Failed) -> None:
    """Nothing is moved or deleted by it."""
    for verb in ("retry", "delete"):
        result = failed.run("dead", verb, "--name", "check", "--dry-run", "--json")
        assert members(result) == {"matching": 2}
        assert "1 job would be" in failed.run("dead", verb, "--name", "add", "--dry-run").stdout
        assert "1 job would be" in failed.run("dead", verb, failed.c1, "--dry-run").stderr
    assert dead_count(failed.run) == 3


def test_a_payload_is_repaired(failed: Failed) -> None:
    """Edited and retried, the job completes under its own id."""
    result = failed.run("dead", "retry", failed.c1, "--edit", '{"n": 1}')
    assert (result.exit_code, result.stdout) == (exits.OK, f"{failed.c1} retried\n")
    until(lambda: members(failed.run("job", "show", failed.c1, "--json"))["status"] == "completed")
    assert dead_count(failed.run) == 2


def test_all_that_match_are_retried(failed: Failed) -> None:
    """They fail again, here, and the others were left alone."""
    before = members(failed.run("dead", "show", failed.a1, "--json"))
    assert members(failed.run("dead", "retry", "--name", "check", "--json")) == {
        "retried": 2,
        "left": 0,
    }
    until(lambda: dead_count(failed.run) == 3)
    assert members(failed.run("dead", "show", failed.a1, "--json")) == before
    assert failed.run("dead", "retry", "--all", "--rate", "100").stdout == "3 jobs retried\n"
    until(lambda: dead_count(failed.run) == 3)


def test_deleting_needs_a_yes(failed: Failed) -> None:
    """Without a terminal to ask on, and without --yes, nothing is deleted."""
    result = failed.run("dead", "delete", "--all")
    assert result.exit_code == exits.USAGE
    assert "--yes" in result.stderr
    assert dead_count(failed.run) == 3


def test_what_is_named_is_deleted(failed: Failed) -> None:
    """By id, by filter, or all."""
    assert failed.run("dead", "delete", failed.c1).stdout == f"{failed.c1} deleted\n"
    assert failed.run("dead", "delete", failed.c1).exit_code == exits.FAILED
    assert failed.run("dead", "delete", "--name", "add", "--yes").stdout == "1 job deleted\n"
    assert members(failed.run("dead", "delete", "--all", "--yes", "--json")) == {
        "deleted": 1,
        "left": 0,
    }
    assert dead_count(failed.run) == 0
    assert "no failed jobs" in failed.run("dead", "groups").stderr


@pytest.mark.parametrize(
    "said",
    [
        "dead retry",
        "dead delete",
        "dead retry c1 --all",
        "dead retry c1 --name check",
        "dead retry --all --edit {}",
        "dead retry c1 c2 --edit {}",
        "dead retry c1 --rate 5",
        "dead retry c1 --edit {",
        "dead ls --limit 0",
    ],
)
def test_what_is_not_clear_is_refused(alone: Bananas, said: str) -> None:
    """Nothing is done for a command that could be meant in two ways."""
    assert alone(*said.split()).exit_code == exits.USAGE


def test_ids_that_a_stranger_made_stop_no_page(
    alone: Bananas, raw: Redis, alone_prefix: str
) -> None:
    """What the screen says to go on with is a word that a command line holds, whatever the id."""
    odd = [b"", b"\0'\n", b"\xff" * 300, b"x" * 500_000, b"x" * 500_001]
    raw.zadd(f"{alone_prefix}:queue:dead", dict.fromkeys(odd, -5.0))
    seen: list[str] = []
    said: tuple[str, ...] = ()
    for _ in odd:
        shown = alone("dead", "ls", "--limit", "1", "--json", *said)
        seen += [job["id"] for job in members(shown)["jobs"]]
        told = alone("dead", "ls", "--limit", "1", *said).stderr
        words = shlex.split(told[told.index("--cursor") :])
        assert len(words[1]) <= 256
        said = (words[0], words[1])
    assert members(alone("dead", "ls", *said, "--json"))["jobs"] == []
    assert seen == [one.decode("utf-8", "backslashreplace") for one in sorted(odd, reverse=True)]
