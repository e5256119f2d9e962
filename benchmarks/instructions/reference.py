"""Work that is none of ours, to know the interpreter by.

A Python built with profiling (Debian's) takes 3 to 12 % fewer instructions for our cases than
one built without (pyenv's), and 8 % fewer for this. Counts are given as if this had taken what
it takes there: so one budget does for both, within 6 %.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import hiredis
import orjson

from benchmarks.instructions.size import BATCH

if TYPE_CHECKING:
    from benchmarks.instructions.size import Piece

TAKES: Final = 123_500
"""Instructions a round, of CPython 3.11.7 built without profiling; no reason to renew it."""

_C_ROUNDS: Final = 4


class _Pair(NamedTuple):
    name: str
    size: int


class _Shelf:
    def __init__(self) -> None:
        self.pairs: list[_Pair] = []

    def put(self, pair: _Pair, *, twice: bool = False) -> None:
        if pair.size > 1 or twice:
            self.pairs.append(pair)


def _round(number: int) -> int:
    members: dict[str, Any] = {"id": f"job-{number}", "payload": {"x": "y" * 50}, "tries": 3}
    shelf = _Shelf()
    for name, value in members.items():
        try:
            shelf.put(_Pair(name, len(value)))
        except TypeError:
            shelf.put(_Pair(name, value), twice=True)
    text = ",".join([f'"{name}":{size}' for name, size in shelf.pairs])
    for _ in range(_C_ROUNDS):
        members = orjson.loads(orjson.dumps(members))
        hiredis.pack_command(("SET", "k", text, number))  # type: ignore[arg-type]  # its stub asks for one item
    return sum(orjson.loads(f"{{{text}}}").values())


def reference() -> Piece:
    """A round of calls, texts, small objects, JSON, and a wait for a future."""

    async def run(count: int) -> None:
        loop = asyncio.get_running_loop()
        for number in range(count * BATCH):
            future: asyncio.Future[int] = loop.create_future()
            loop.call_soon(future.set_result, _round(number))
            assert await future > 0

    return run
