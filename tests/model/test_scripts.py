"""The real scripts on real servers, searched breadth first; and that the search finds defects."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import pytest

from breadth_first import STUCK, Finding, search
from script_search import (
    ANSWERS,
    BOOKKEEPING,
    CONSERVATION,
    EXTRA,
    FENCING,
    FINALITY,
    IDEMPOTENCE,
    PLACEMENT,
    WAKING,
    Scope,
    Searched,
    State,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from servers import Kind, Server

OPERATOR = ("cancel", "revive", "purge")
ONE_JOB = Scope(jobs=1, slots=2, operator=("cancel", "revive"))
TWO_JOBS = Scope(jobs=2, slots=1, outcomes=("complete", "later", "release"))
SMALL = Scope(jobs=1, slots=1)
ALL = Scope(jobs=2, slots=1, operator=OPERATOR)

#: Calls that every search of a scope with all of them has made.
KINDS = {
    *("enqueue", "register", "beat", "dequeue", "settle", "reclaim", "reconcile", "promote"),
    *("cancel", "revive", "purge", "time"),
}


def explore(
    server: Server, scope: Scope, instead: Mapping[str, str] | None = None
) -> Finding[State]:
    """Visit every state of the scope."""
    searched = Searched(server, scope, instead)
    try:
        return search(
            searched.start(), searched.steps, is_end=searched.is_end, must_end=lambda _: True
        )
    finally:
        searched.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scope", [ONE_JOB, TWO_JOBS], ids=["one job", "two jobs"])
def test_no_order_of_calls_breaks_a_promise(
    server_kind: Kind, make_server: Callable[..., Server], scope: Scope
) -> None:
    """Whatever is called, however often, in whichever order: I1 to I4, and a way to the end."""
    found = explore(make_server(server_kind), scope)
    assert not found.broken, str(found)
    assert found.seen == KINDS - (set(OPERATOR) - set(scope.operator))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "scope",
    [ALL, Scope(jobs=2, slots=2, outcomes=("complete", "later", "release"))],
    ids=["all calls on two jobs", "two requests an epoch"],
)
def test_nor_does_it_in_wider_scopes(
    server_kind: Kind, make_server: Callable[..., Server], scope: Scope
) -> None:
    """The same with every outcome and operator, and with more requests under way."""
    found = explore(make_server(server_kind), scope)
    assert not found.broken, str(found)


class Mutant(NamedTuple):
    """A defect in one script, and the promise that it breaks."""

    file: str
    text: str  # as it stands there, once
    instead: str
    broken: str
    scope: Scope = ALL


_TWO_STEPS = f"""\
if deadline ~= '0' and #requests > 0 then
  for _, request in ipairs(requests) do
    for _, id in ipairs(redis.call('SMEMBERS', 's:queue:processing:lease:' .. request)) do
      redis.call('SADD', '{EXTRA}', id)
    end
  end
  redis.call('ZADD', KEYS[1], 0, ARGV[1])
  return {{'more', 0}}
end
local read = deadline == '0' and redis.call('SMEMBERS', '{EXTRA}') or {{}}
redis.call('DEL', '{EXTRA}', KEYS[2])
for _, request in ipairs(requests) do redis.call('DEL', 's:queue:processing:lease:' .. request) end
for _, id in ipairs(read) do redis.call('RPUSH', 's:queue:normal', id) end
if #read > 0 then redis.call('LPUSH', 's:queue:normal:wake', '1') end
local moved, unplaced, ended = read, {{}}, leases
"""

MUTANTS: dict[str, Mutant] = {
    "settle does not look at the lease": Mutant(
        "settle.lua",
        "local held = redis.call('SMISMEMBER', KEYS[1], unpack(ARGV, 3, 2 + jobs))\n",
        "local held = {}\nfor job = 1, jobs do held[job] = 1 end\n",
        FENCING,
    ),
    "settle keeps the lease": Mutant(
        "settle.lua",
        "redis.call('SREM', KEYS[1], unpack(ARGV, 3, 2 + jobs))",
        "0",
        FINALITY,
    ),
    "settle does not count": Mutant(
        "settle.lua",
        "for name, by in pairs(moved) do",
        "for name, by in pairs({}) do",
        CONSERVATION,
    ),
    "dequeue answers a copy anew": Mutant(
        "dequeue.lua", "if redis.call('EXISTS', KEYS[1]) == 1 then", "if false then", IDEMPOTENCE
    ),
    "dequeue remembers no request": Mutant(
        "dequeue.lua", "redis.call('SET', KEYS[1], '1', 'PX', ARGV[5])\n", "", IDEMPOTENCE
    ),
    "dequeue does not ask for the epoch": Mutant(
        "dequeue.lua",
        "if not deadline or deadline == '0' then return {'fenced'} end\n",
        "",
        FENCING,
    ),
    "dequeue leaves the jobs in the list": Mutant(
        "dequeue.lua", "redis.call('LTRIM', take[1], '0', digits(-1 - take[2]))", "", PLACEMENT
    ),
    "dequeue does not note the request": Mutant(
        "dequeue.lua", "redis.call('SADD', KEYS[3], request)\n", "", BOOKKEEPING
    ),
    "dequeue tells nobody of the rest": Mutant(
        "dequeue.lua",
        "for _, wake_key in ipairs(unmarked) do redis.call('LPUSH', wake_key, '1') end\n",
        "",
        WAKING,
    ),
    "reclaim does not look at the deadline": Mutant(
        "reclaim.lua",
        "tonumber(deadline) > now_ms()",
        "false",
        FENCING,
    ),
    "reclaim does not fence": Mutant(
        "reclaim.lua", "redis.call('ZADD', KEYS[1], 0, ARGV[1])\n", "", FENCING
    ),
    "reclaim in two steps": Mutant(
        "reclaim.lua",
        "local moved, unplaced, ended = "
        "give_back(ARGV[4], KEYS[2], requests, tonumber(ARGV[3]), placed)\n",
        _TWO_STEPS,
        FINALITY,
        SMALL,
    ),
    "reconcile takes what it is told": Mutant(
        "reconcile.lua",
        "if redis.call('SISMEMBER', KEYS[2], ARGV[i]) == 1 then",
        "if true then",
        FENCING,
    ),
    "what is given back stays leased": Mutant(
        "lib/give_back.lua",
        "for lease, leaving in pairs(by_lease) do redis.call('SREM', lease, unpack(leaving)) end\n",
        "",
        PLACEMENT,
    ),
    "what is given back is lost": Mutant(
        "lib/give_back.lua",
        "redis.call('RPUSH', prefix .. ':' .. place, unpack(ids))\n",
        "",
        PLACEMENT,
    ),
    "an emptied lease stays noted": Mutant(
        "lib/give_back.lua",
        "if #ended > 0 then redis.call('SREM', epoch_leases, unpack(ended)) end\n",
        "",
        BOOKKEEPING,
    ),
    "a beat revives a fenced epoch": Mutant(
        "beat.lua", "if score and score ~= '0' then", "if score then", FENCING
    ),
    "a late registration revives an epoch": Mutant(
        "register.lua",
        "if redis.call('EXISTS', KEYS[4]) == 1 then return deadline and 1 or 0 end\n",
        "",
        IDEMPOTENCE,
    ),
    "promote leaves the jobs scheduled": Mutant(
        "promote.lua", "redis.call('ZREM', KEYS[1], unpack(moving))\n", "", PLACEMENT
    ),
    "promote finds nothing": Mutant(
        "promote.lua", "string.format('%.6f', now / 1000), 'LIMIT'", "'1', 'LIMIT'", STUCK, SMALL
    ),
    "enqueue forgets its answer": Mutant(
        "enqueue.lua", "if answer then return {0, answer} end\n", "", ANSWERS
    ),
    "enqueue does not look at ids": Mutant(
        "enqueue.lua", "redis.call('MSETNX', ", "redis.call('MSET', ", IDEMPOTENCE
    ),
    "cancel does not look at leases": Mutant(
        "cancel.lua",
        "if leased(KEYS[4], ARGV[6], ARGV[1]) then return 'processing' end\n",
        "",
        FENCING,
    ),
    "cancel does not know its own record": Mutant(
        "cancel.lua", "if record == ARGV[3] then return 'cancelled' end\n", "", ANSWERS
    ),
    "revive forgets its answer": Mutant("revive.lua", "if answer then", "if false then", ANSWERS),
    "purge forgets its answer": Mutant("purge.lua", "if answer then", "if false then", ANSWERS),
}


@pytest.fixture(scope="module")
def scapegoat() -> Iterator[Server]:
    """Return one server for all mutants: which kind it is has no part in it."""
    from servers import Server, available  # noqa: PLC0415 - a fixture of this module alone

    if not available():
        pytest.skip("no server on this machine")
    server = Server(available()[0]).start()
    yield server
    server.discard()


@pytest.mark.parametrize("name", MUTANTS)
def test_the_search_finds_defects(scapegoat: Server, name: str) -> None:
    """A script with a defect is caught, by the promise that it breaks, and by the shortest way."""
    mutant = MUTANTS[name]
    source = (files("bananas") / "lua" / mutant.file).read_text()
    assert source.count(mutant.text) == 1, "the script has changed: let the mutant follow it"
    mutated = source.replace(mutant.text, mutant.instead)
    found = explore(scapegoat, mutant.scope, {mutant.file: mutated})
    assert found.broken == mutant.broken, str(found)
