"""What error replies mean."""

from __future__ import annotations

import pytest

from bananas.errors import BrokerDeniedError, BrokerError, BrokerFullError, ScriptError
from bananas.replies import Verdict, classify, error_code, refusal

OOM_7 = "OOM command not allowed when used memory > 'maxmemory'. script: ab, on @user_script:1."
OOM_62 = (
    "ERR Error running script (call to f_ab12): @user_script:1: @user_script: 1: "
    "-OOM command not allowed when used memory > 'maxmemory'."
)
READONLY_62 = (
    "ERR Error running script (call to f_ab12): @user_script:3: @user_script: 3: "
    "-READONLY You can't write against a read only replica."
)
BUG_62 = (
    "ERR Error running script (call to f_ab12): @user_script:3: "
    "user_script:3: attempt to index a nil value"
)
AWAY_REDIS = (
    "ERR Script attempted to access a non local key in a cluster node "
    "script: ab12, on @user_script:1."
)
AWAY_VALKEY = (
    "ERR Attempted to access a non local key in a cluster node script: ab12, on @user_script:1."
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LOADING Redis is loading the dataset in memory", Verdict.RETRY),
        ("BUSY Redis is busy running a script.", Verdict.RETRY),
        ("MISCONF Errors writing to the AOF file", Verdict.RETRY),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Verdict.RETRY),
        ("CLUSTERDOWN The cluster is down", Verdict.RECONNECT),
        ("MASTERDOWN Link with MASTER is down", Verdict.RETRY),
        ("NOREPLICAS Not enough good replicas to write.", Verdict.RETRY),
        ("READONLY You can't write against a read only replica.", Verdict.RECONNECT),
        (READONLY_62, Verdict.RECONNECT),
        ("MOVED 3999 127.0.0.1:6381", Verdict.MOVED),
        ("ASK 3999 127.0.0.1:6381", Verdict.ASK),
        (AWAY_REDIS, Verdict.RETRY),
        (AWAY_VALKEY, Verdict.RETRY),
        ("ERR Script attempted to execute a command while the cluster is down", Verdict.RETRY),
        ("ERR Attempted to execute a write command while the cluster is down", Verdict.RETRY),
        ("ERR Script attempted to access keys of different slots", Verdict.FATAL),
        ("UNBLOCKED force unblock from blocking operation", Verdict.RECONNECT),
        ("NOAUTH Authentication required.", Verdict.RECONNECT),
        ("ERR max number of clients reached", Verdict.RECONNECT),
        ("ERR Protocol error: invalid bulk length", Verdict.RECONNECT),
        ("NOSCRIPT No matching script. Please use EVAL.", Verdict.NOSCRIPT),
        (OOM_7, Verdict.FULL),
        (OOM_62, Verdict.FULL),
        ("WRONGPASS invalid username-password pair or user is disabled.", Verdict.DENIED),
        ("NOPERM this user has no permissions to run the 'set' command", Verdict.DENIED),
        ("DENIED Redis is running in protected mode", Verdict.DENIED),
        ("ERR AUTH <password> called without any password configured", Verdict.DENIED),
        ("ERR unknown command 'EVALX'", Verdict.FATAL),
        ("ERR OOM is only a word here", Verdict.FATAL),
        ("BUSYKEY Target key name already exists.", Verdict.FATAL),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Verdict.FATAL),
        (BUG_62, Verdict.FATAL),
        ("", Verdict.FATAL),
    ],
)
def test_every_error_reply_has_one_meaning(text: str, expected: Verdict) -> None:
    """The code decides, also where Redis 6.2 wraps it; words alone never do."""
    assert classify(text) is expected


def test_the_code_is_found_inside_the_words_of_redis_6() -> None:
    """An error inside a script has the same code on every server version."""
    assert error_code(OOM_62) == error_code(OOM_7) == "OOM"


@pytest.mark.parametrize(
    ("text", "in_script", "expected"),
    [
        (OOM_7, True, BrokerFullError),
        ("NOPERM no", False, BrokerDeniedError),
        ("ERR user_script:1: boom", True, ScriptError),
        ("ERR syntax error", False, BrokerError),
    ],
)
def test_a_refusal_says_whose_fault_it_is(
    text: str, in_script: bool, expected: type[BrokerError]
) -> None:
    """Only an unexpected error of a script is called a defect of ours."""
    error = refusal("dequeue", text, in_script=in_script)
    assert type(error) is expected
    assert (error.operation, error.why) == ("dequeue", text)


@pytest.mark.parametrize("text", ["MOVED 1 h:1", "ASK 1 h:1", "CROSSSLOT Keys in request don't"])
def test_a_cluster_behind_a_plain_url_is_told(text: str) -> None:
    """The error names the form of URL and the rule for the prefix."""
    error = refusal("dequeue", text, in_script=True)
    assert type(error) is BrokerError
    assert error.why.startswith(text)
    assert "redis+cluster://, with a key prefix that has a hash tag" in error.why
