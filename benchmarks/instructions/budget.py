"""The budget: what each piece may take, and the versions of what is counted with it.

What others wrote is a part of most pieces. A release of theirs may make an unchanged commit
dearer: so a piece is judged with the versions that its budget was counted with, and with
others no more than told of.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

PATH: Final = Path(__file__).parent / "budget.json"
WRITE: Final = "make bench-instructions ARGS=--write"

_CORE: Final = ("hiredis", "orjson")
"""In the reference as well, by which every count of a core is scaled."""
_API: Final = ("anyio", "httptools", "starlette", "uvicorn")
_API_PIECES: Final = ("request", "post", "ndjson")


class Budget(NamedTuple):
    """Instructions a job by name, `piece.core`, and versions by library."""

    instructions: dict[str, int]
    versions: dict[str, str]

    def doubt(self, name: str) -> str:
        """Say which versions that matter to a piece are others here; "" where none is."""
        piece, core = name.split(".")
        libraries = (*_CORE, *_API) if piece in _API_PIECES else _CORE
        pairs = [(each, version(each), self.versions.get(each)) for each in libraries]
        others = [
            f"{library} {here} here, {there or 'none'} in the budget"
            for library, here, there in pairs
            if here != there
        ]
        return "" if core == "server" else "; ".join(others)

    def doubts(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the pieces of these that are in doubt, by what is to be said of them."""
        found: dict[str, list[str]] = {}
        for name in names:
            if doubt := self.doubt(name):
                found.setdefault(doubt, []).append(name.split(".")[0])
        return {doubt: list(dict.fromkeys(pieces)) for doubt, pieces in found.items()}


def read() -> Budget:
    """Return the budget as it is kept."""
    return Budget(**json.loads(PATH.read_text()))


def write(instructions: dict[str, int]) -> None:
    """Keep another, counted with the versions that are here."""
    versions = {each: version(each) for each in (*_CORE, *_API)}
    kept = Budget(instructions, versions)._asdict()
    PATH.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
