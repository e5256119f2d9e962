"""The exhaustive cut: each command of a scenario meets each fault once; the end is the same.

The scenario is `cut.py`. An undisturbed run tells which commands it has and what it leaves.
Then it is played once for each of them and each fault, and must leave the same: every key but
hints and memories of requests, every run of a handler, every answer to a caller, the books even.
`BANANAS_TEST_LONG=1` does all of it on each kind of server, over unix sockets and TCP.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

from bananas.errors import BananasError
from bananas.scripts import load_all
from bare_queue import CLOCK, plain_scripts
from faults.cut import Names, Stage
from faults.proxy import Fault, FaultProxy
from servers import available

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.scripts import Scripts
    from faults.cut import Left
    from servers import Kind, Server

    MakeServer = Callable[..., Server]

CUTS = (Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.DUPLICATE, Fault.HOLD, Fault.RESET_MID_REPLY)
"""The request is lost, or its answer; it comes twice, or again after the end; half an answer."""

SILENCES = (Fault.DROP_REQUEST, Fault.DROP_REPLY)
"""The first two without a sign that the connection is gone: only time tells."""

SILENCE_S = 0.2
LANES = 6
"""Runs at a time, each in a database of its own: most of a run is waiting."""

RESTLESS = ("dequeue", "settle", "BLPOP", "CLIENT", "SELECT")
"""How many of these a run has depends on how its actors meet: one more or fewer may come."""


async def play(  # noqa: PLR0913 - what is to happen to it
    server: Server,
    db: int,
    scripts: Scripts,
    *,
    fault: Fault | None = None,
    name: str = "",
    nth: int = 0,
    tcp: bool = False,
    patience_s: float = 30.0,
) -> tuple[Left, list[str], bool]:
    """Play the scenario, with the nth command of that name hit.

    Returns what it left, the names of its commands, and whether it came to the fault.
    """
    names = Names(scripts)
    reply_timeout_s = SILENCE_S if fault in SILENCES else 5.0
    async with FaultProxy(server.socket, tcp=tcp) as proxy:
        if fault is not None:
            proxy.plan(fault, nth=nth, matching=lambda request: names(request) == name)
        url = f"{proxy.url.removesuffix('/0')}/{db}" if tcp else f"{proxy.url}?db={db}"
        with server.client(db=db) as redis:
            redis.flushdb()
            async with Stage(redis, "cut", url, reply_timeout_s, scripts, patience_s) as stage:
                await stage.play()
                left = stage.left()
                if proxy.held:
                    await proxy.release()
                    late = stage.left().unlike(left)
                    assert not late, f"a copy of {name} {nth} after the end:\n{late}"
        return left, list(map(names, proxy.seen)), bool(proxy.hit)


async def cut(  # noqa: PLR0913 - what of the whole is to be done
    server: Server,
    fault: Fault,
    *,
    step: int = 1,
    only: str = "",
    tcp: bool = False,
    scripts: Scripts | None = None,
    patience_s: float = 30.0,
) -> int:
    """Hit every `step`th command of the scenario, or all of one name; returns how many."""
    chosen = scripts or plain_scripts()
    with server.client() as redis:
        for script in Names(chosen).sources:
            redis.script_load(script)
    expected, seen, _ = await play(server, 0, plain_scripts())
    assert expected.drift == 0
    counts: Counter[str] = Counter()
    commands = [(name, counts[name]) for name in seen if counts.update([name]) is None]
    chosen_commands = iter([one for one in commands[::step] if only in ("", one[0])])
    hits: Counter[str] = Counter()

    async def lane(db: int) -> None:
        for name, nth in chosen_commands:
            left, _, hit = await play(
                server, db, chosen, fault=fault, name=name, nth=nth, tcp=tcp, patience_s=patience_s
            )
            hits[name] += hit
            unlike = left.unlike(expected)
            assert not unlike, f"{fault.name} of {name} {nth}:\n{unlike}"
            assert hit or name in RESTLESS, f"the scenario has no {name} {nth}"

    async with asyncio.TaskGroup() as lanes:
        for db in range(LANES):
            lanes.create_task(lane(db))
    return hits.total()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", CUTS, ids=[fault.name.lower() for fault in CUTS])
async def test_one_fault_at_any_command(make_server: MakeServer, fault: Fault) -> None:
    """Each command in turn, on unix sockets, on the first kind of server."""
    assert await cut(make_server(), fault) >= 75


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", SILENCES, ids=[fault.name.lower() for fault in SILENCES])
async def test_a_loss_that_only_time_tells(make_server: MakeServer, fault: Fault) -> None:
    """The same without a sign of the loss; a part of the commands, as each costs a timeout."""
    assert await cut(make_server(), fault, step=15) >= 5


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", CUTS, ids=[fault.name.lower() for fault in CUTS])
async def test_the_other_server_over_tcp(make_server: MakeServer, fault: Fault) -> None:
    """A part of the commands on the second kind of server, where there is one, over TCP."""
    assert await cut(make_server(available()[-1]), fault, step=9, tcp=True) >= 8


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize(
    "fault", CUTS + SILENCES, ids=[fault.name.lower() for fault in CUTS + SILENCES]
)
async def test_all_of_it(
    make_server: MakeServer, server_kind: Kind, fault: Fault, tcp: bool
) -> None:
    """Each command, each fault, each kind of server, each kind of socket."""
    assert await cut(make_server(server_kind), fault, tcp=tcp) >= 75


# --- would it tell? ---------------------------------------------------------------------------

WITHOUT = {
    "enqueue": ("if answer then return", "if nil then return", Fault.CUT_AFTER),
    "dequeue": ("redis.call('EXISTS', KEYS[1]) == 1", "false", Fault.CUT_AFTER),
    "settle": (
        "= redis.call('SMISMEMBER', KEYS[1], unpack(ARGV, 3, 2 + jobs))",
        "= {} for i = 1, jobs do held[i] = 1 end",
        Fault.HOLD,
    ),
    "reclaim": ("ZREM', KEYS[1], ARGV[1]", "ZREM', KEYS[1], 'x'", Fault.DUPLICATE),
    "cancel": ("record == ARGV[3]", "false", Fault.CUT_AFTER),
    "revive": ("if answer then", "if false then", Fault.CUT_AFTER),
    "register": ("redis.call('EXISTS', KEYS[4]) == 1", "false", Fault.HOLD),
}
"""A line of a script that makes it safe to repeat, what stands there without it, who shows it."""


@pytest.mark.slow
@pytest.mark.parametrize("script", WITHOUT)
async def test_a_script_that_is_not_safe_to_repeat_is_found_out(
    make_server: MakeServer, script: str
) -> None:
    """With the line taken out that makes it so, the cut fails."""
    line, instead, fault = WITHOUT[script]
    source = getattr(load_all(), script).source.decode()
    assert line in source
    mutant = (files("bananas") / "lua" / f"{script}.lua").read_text().replace(line, instead)
    scripts = load_all(instead={"lib/now.lua": CLOCK, f"{script}.lua": mutant})
    with pytest.raises(ExceptionGroup) as found:
        await cut(make_server(), fault, only=script, scripts=scripts, patience_s=3.0)
    assert found.group_contains(AssertionError) or found.group_contains(BananasError)
