"""The Lua scripts: one per transition, assembled from `lua/` once and addressed by content.

A line `-- include: lib/<name>.lua` stands for the file it names; each is taken once.
The SHA is known before any server is asked, so two versions live side by side through
a rolling deploy.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

_INCLUDE: Final = re.compile(r"^-- include: (lib/[a-z_]+\.lua)\n", re.MULTILINE)


#: Scripts of one key that touch no other.
_LONE: Final = frozenset({"beat", "lapsed"})


@dataclass(frozen=True, slots=True)
class Script:
    """One transition as the server runs it.

    Attributes:
        lone: It touches one key, the declared one. A cluster node that a slot is moving to
            may run it; to any other script that node shows keys which it has not got yet as
            if there were none, and a lease that looks empty is a lost job.
    """

    name: str
    source: bytes
    sha: str
    lone: bool = False


def _assemble(path: str, folder: Traversable, instead: Mapping[str, str], taken: set[str]) -> str:
    text = instead.get(path) or (folder / path).read_text()

    def included(match: re.Match[str]) -> str:
        library = match[1]
        if library in taken:
            return ""
        taken.add(library)
        return _assemble(library, folder, instead, taken)

    return _INCLUDE.sub(included, text)


def load(name: str, instead: Mapping[str, str] | None = None) -> Script:
    """Return the script of one transition.

    Args:
        name: File name without `.lua`.
        instead: Texts to take in place of files, by path under `lua/`; how tests move the clock.

    Raises:
        FileNotFoundError: There is no such script or include.
    """
    folder = files("bananas") / "lua"
    source = _assemble(f"{name}.lua", folder, instead or {}, set()).encode()
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return Script(name, source, sha, name in _LONE)


@dataclass(frozen=True, slots=True)
class Scripts:
    """All transitions; each field is the file of the same name."""

    enqueue: Script
    dequeue: Script
    settle: Script
    register: Script
    beat: Script
    lapsed: Script
    reclaim: Script
    reconcile: Script
    promote: Script
    cancel: Script
    locate: Script
    revive: Script
    purge: Script
    restore: Script
    prune: Script
    sort: Script
    specialise: Script
    merge: Script
    vacate: Script
    audit: Script


def load_all(instead: Mapping[str, str] | None = None) -> Scripts:
    """Return every script; `instead` as in `load`."""
    return Scripts(**{name: load(name, instead) for name in Scripts.__slots__})
