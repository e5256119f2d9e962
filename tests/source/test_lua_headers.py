"""A Lua script's header says what its body does, and the body keeps to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lua_contract import lib_problems, script_problems

ROOT = Path(__file__).parents[2]
LUA = ROOT / "bananas" / "lua"
SCRIPTS = sorted(LUA.glob("*.lua"))
LIBS = sorted(LUA.glob("lib/*.lua"))
LIB_SOURCES = {f"lib/{path.name}": path.read_text() for path in LIBS}

SOUND = """\
-- lease: give up to `limit` ids to one worker.
--
-- KEYS[1] ready   LIST   ids, oldest at the tail
-- KEYS[2..] more  SET    one per lease
-- ARGV[1] limit   count  most ids, 1..1000
-- ARGV[2] ttl     ms     how long the lease holds;
--                        from now on
-- ARGV[3..] ids   id     whom to look for
--
-- returns {id, …}
-- moves   pending -> processing | cancelled, in order
-- cost    O(limit)
-- include: lib/now.lua
local ready, limit = KEYS[1], tonumber(ARGV[1])
local taken = {n = 0, ['a KEYS[7] in a string'] = 1} -- and ARGV[9] in a comment
for at = 2, #KEYS do redis.call('SADD', KEYS[at], unpack(ARGV, 3)) end
local function older(a, b) return a.at < b.at end
table.sort(taken, older)
return {redis.call('LRANGE', ready, -limit, -1), now_ms() + tonumber(ARGV[2]), taken.n}
"""
SOUND_LIBS = {
    "lib/now.lua": "-- now: x\nlocal function now_ms()\n  return redis.call('TIME')[1]\nend\n",
    "lib/wake.lua": "-- wake: x\nlocal function wake(key)\n  redis.call('LPUSH', key)\nend\n",
}

#: what is planted: (the sound text, its replacement, what the lint must say)
MISTAKES = {
    "title of another script": ("-- lease:", "-- dequeue:", "the first line must be"),
    "no title": ("-- lease: give", "-- give", "the first line must be"),
    "gap in KEYS": ("-- KEYS[2..]", "-- KEYS[3..]", "KEYS must be numbered"),
    "gap in ARGV": ("-- ARGV[2] ttl", "-- ARGV[4] ttl", "ARGV must be numbered"),
    "tail in the middle": ("-- ARGV[2] ttl", "-- ARGV[2..] ttl", "must come last"),
    "unknown type": ("ready   LIST ", "ready   ARRAY", "'ARRAY' is none of"),
    "unknown unit": ("limit   count", "limit   furlongs", "'furlongs' is none of"),
    "slot without a meaning": ("LIST   ids, oldest at the tail", "LIST", "has no form"),
    "one name twice": ("-- ARGV[2] ttl  ", "-- ARGV[2] limit", "one name"),
    "undeclared key": (
        "local ready, limit = KEYS[1]",
        "local ready, limit = KEYS[0]",
        "uses KEYS[0]",
    ),
    "undeclared argument": (
        "-- ARGV[3..] ids   id     whom to look for\n",
        "",
        "no tail is declared",
    ),
    "computed key, no tail": ("-- KEYS[2..] more ", "-- KEYS[2] more ", "no tail is declared"),
    "declared, unused key": (
        "ready, limit = KEYS[1]",
        "ready, limit = KEYS[2]",
        "KEYS[1] is declared",
    ),
    "declared, unused argument": ("tonumber(ARGV[2])", "1", "ARGV[2] is declared and not used"),
    "no returns": ("-- returns {id, …}\n", "", "no `returns`"),
    "no moves": ("-- moves   pending -> processing | cancelled, in order\n", "", "no `moves`"),
    "no cost": ("-- cost    O(limit)\n", "", "no `cost`"),
    "cost twice": ("-- cost    O(limit)\n", "-- cost    O(1)\n-- cost    O(2)\n", "stands twice"),
    "order of the head": ("-- returns {id, …}\n-- moves ", "-- moves ", "no `returns`"),
    "word of another system": ("pending -> processing", "ready -> processing", "names 'ready'"),
    "moves without a way": ("pending -> processing | cancelled", "pending", "`moves` is"),
    "time from the caller": ("-- ARGV[2] ttl ", "-- ARGV[2] now ", "time comes from Redis"),
    "time from the caller, by meaning": (
        "how long the lease holds",
        "current unix time",
        "time comes",
    ),
    "time asked in a script": ("now_ms()", "redis.call('TIME')[1]", "TIME is asked in"),
    "clock of the machine": ("now_ms()", "os.time()", "`os` has no place"),
    "decoding a payload": ("now_ms()", "cjson.decode(ready)", "`cjson` has no place"),
    "packing": ("now_ms()", "cmsgpack.pack(ready)", "`cmsgpack` has no place"),
    "walk over all keys": ("'LRANGE', ready", "'KEYS', ready", "KEYS has no place"),
    "scan": ("'LRANGE', ready", "'SCAN', ready", "SCAN has no place"),
    "random key": ("'LRANGE', ready", "'RANDOMKEY', ready", "RANDOMKEY has no place"),
    "small letters": ("'LRANGE', ready", "'lrange', ready", "in capitals"),
    "too new a command": ("'LRANGE', ready", "'HPEXPIRE', ready", "not in Redis 7.0"),
    "command by variable": ("redis.call('LRANGE', ready", "redis.call(ready", "can be read here"),
    "command by choice": (
        "return {redis.call('LRANGE', ready",
        "local walk = ready and 'SCAN' or 'LRANGE'\nreturn {redis.call(walk, ready",
        "SCAN has no place",
    ),
    "include that is not there": ("lib/now.lua", "lib/later.lua", "does not exist"),
    "include forgotten": ("-- include: lib/now.lua\n", "", "`now_ms` is not known"),
    "include not used": (
        "lib/now.lua\n",
        "lib/now.lua\n-- include: lib/wake.lua\n",
        "included and not",
    ),
    "include twice": ("lib/now.lua\n", "lib/now.lua\n-- include: lib/now.lua\n", "included twice"),
    "misspelt name": ("-limit, -1", "-limitt, -1", "`limitt` is not known"),
    "global": ("local taken =", "taken =", "`taken` is not known"),
    "comment without a form": ("--\n-- returns", "-- by the way\n-- returns", "has no form"),
}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_keeps_its_header(path: Path) -> None:
    """Each script's header is whole and true."""
    assert script_problems(path.stem, path.read_text(), LIB_SOURCES) == []


@pytest.mark.parametrize("path", LIBS, ids=lambda path: path.stem)
def test_shared_function_is_sound(path: Path) -> None:
    """Each shared file is one function that takes its inputs as arguments."""
    assert lib_problems(path.stem, path.read_text(), LIB_SOURCES) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_has_a_test_file(path: Path) -> None:
    """Each script is tested by itself against a real server."""
    assert (ROOT / "tests" / "integration" / "lua" / f"test_{path.stem}.py").is_file()


def test_there_are_scripts() -> None:
    """The lint has something to read: a moved folder would pass it silently."""
    assert len(SCRIPTS) > 5
    assert LIBS


def test_lib_files_are_all_used() -> None:
    """A shared function that no script includes is gone, not kept."""
    texts = [path.read_text() for path in SCRIPTS + LIBS]
    unused = [name for name in LIB_SOURCES if not any(f"-- include: {name}" in t for t in texts)]
    assert unused == []


def test_sound_script_passes() -> None:
    """The script that the mistakes below are planted in has none of its own."""
    assert script_problems("lease", SOUND, SOUND_LIBS) == []
    for name, source in SOUND_LIBS.items():
        assert lib_problems(Path(name).stem, source, SOUND_LIBS) == []


@pytest.mark.parametrize("label", MISTAKES)
def test_planted_mistake_is_found(label: str) -> None:
    """Each mistake a person would make is named."""
    sound, planted, said = MISTAKES[label]
    assert sound in SOUND
    found = script_problems("lease", SOUND.replace(sound, planted), SOUND_LIBS)
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("wake", "local function wake(key)\n  return key\nend\n", "must begin with `-- wake: `"),
        ("wake", "-- wake: x\nlocal function wake()\n  return KEYS[1]\nend\n", "as arguments"),
        (
            "wake",
            "-- wake: x\nlocal function wake()\n  return redis.call('TIME')\nend\n",
            "TIME is",
        ),
        (
            "wake",
            "-- wake: x\nlocal function a()\n  return 1\nend\nlocal function b()\nend\n",
            "one function a file",
        ),
        ("wake", "-- wake: x\nlocal function wake(key)\n  return kee\nend\n", "`kee` is not known"),
    ],
    ids=["no title", "reads KEYS", "asks the time", "two functions", "misspelt"],
)
def test_planted_mistake_in_a_shared_file_is_found(name: str, source: str, said: str) -> None:
    """Shared functions are held to their own rules."""
    found = lib_problems(name, source, SOUND_LIBS)
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize("path", SCRIPTS + LIBS, ids=lambda path: path.stem)
def test_a_counter_that_cannot_be_raised_ends_no_script_half_way(path: Path) -> None:
    """HINCRBY refuses what was overwritten by hand, and stands after the first write."""
    assert "redis.call('HINCRBY'" not in path.read_text()
