"""The guard that all script tests run behind finds what would half-apply on a slot on the move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ResponseError

from slot_guard import guarded

if TYPE_CHECKING:
    from redis import Redis

WRONG = {
    "asks what it emptied": (
        "redis.call('SREM', KEYS[1], 'm') return redis.call('EXISTS', KEYS[1])",
        "EXISTS of .*:set, which this script has emptied",
    ),
    "fills what it emptied": (
        "redis.call('DEL', KEYS[1]) return redis.call('SADD', KEYS[1], 'm')",
        "SADD of .*:set, which this script has emptied",
    ),
    "first touches a key after a write": (
        "redis.call('SADD', KEYS[1], 'n') return redis.call('LPUSH', ARGV[1] .. 'list', 'a')",
        "LPUSH of .*:list, which was not read before the first write",
    ),
    "one of several": (
        "redis.call('SADD', KEYS[1], 'n') return redis.call('MGET', KEYS[1], ARGV[1] .. 'x')",
        "MGET of .*:x, which was not read before the first write",
    ),
    "under pcall": (
        "redis.call('SADD', KEYS[1], 'n') return redis.pcall('GET', ARGV[1] .. 'x')",
        "GET of .*:x, which was not read before the first write",
    ),
}
RIGHT = {
    "reads, then writes": "redis.call('LLEN', ARGV[1] .. 'list') redis.call('SREM', KEYS[1], 'm') "
    "return redis.call('LPUSH', ARGV[1] .. 'list', 'a')",
    "writes in one step": "return redis.call('MSETNX', ARGV[1] .. 'a', 1, ARGV[1] .. 'b', 2)",
    "keeps it filled": "redis.call('SADD', KEYS[1], 'n') redis.call('SREM', KEYS[1], 'm') "
    "return redis.call('SCARD', KEYS[1])",
    "tells": "redis.call('DEL', KEYS[1]) redis.call('PUBLISH', 'x', 'y') return redis.call('TIME')",
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_half_apply_is_found(redis: Redis, prefix: str, case: str) -> None:
    """The error names the command, the key and the reason."""
    body, problem = WRONG[case]
    redis.sadd(f"{prefix}:set", "m")
    with pytest.raises(ResponseError, match=problem):
        redis.eval(guarded(body.encode()), 1, f"{prefix}:set", f"{prefix}:")


def test_a_lone_script_touches_its_one_key(redis: Redis, prefix: str) -> None:
    """Not even to read another."""
    source = guarded(b"return redis.call('GET', ARGV[1] .. 'x')", lone=True)
    with pytest.raises(ResponseError, match=r"GET of .*:x, which is not its one key"):
        redis.eval(source, 1, f"{prefix}:set", f"{prefix}:")


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_safe_passes(redis: Redis, prefix: str, case: str) -> None:
    """No false alarm: the guard changes nothing of what a script does."""
    redis.sadd(f"{prefix}:set", "m")
    assert redis.eval(guarded(RIGHT[case].encode()), 1, f"{prefix}:set", f"{prefix}:")
