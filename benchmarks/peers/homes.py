"""An environment of its own for each peer: made once, kept below `build/`, versions exact."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import ROOT
from benchmarks.peers.board import VARIABLE

if TYPE_CHECKING:
    from benchmarks.peers.peers import Peer

HOMES: Final = (ROOT / "build" / "peers").resolve()  # may be a link: checkouts can share one
PROGRAMS: Final = ROOT / "benchmarks" / "peers" / "programs"
_INSTALL_S: Final = 600


class HomeError(Exception):
    """A peer cannot be installed here; the text says why."""


def home(peer: Peer) -> Path:
    """Return the folder of a peer's environment, made if it is not there.

    Raises:
        HomeError: It cannot be made.
    """
    if not peer.version:  # bananas: the environment that runs this
        return Path(sys.prefix)
    folder = HOMES / f"{peer.key}-{peer.version}"
    done = folder / ".installed"
    wanted = " ".join(peer.requirements)
    if done.exists() and done.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if peer.node:
        npm = shutil.which("npm")
        if npm is None:
            raise HomeError("there is no npm here")
        _run(npm, "install", "--silent", "--no-audit", "--no-fund", *peer.requirements, cwd=folder)
    else:
        _run(sys.executable, "-m", "venv", str(folder))
        pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet")
        _run(*pip, "--disable-pip-version-check", *peer.requirements, "uvloop", "hiredis")
    done.write_text(wanted)
    return folder


def command(peer: Peer, words: tuple[str, ...]) -> list[str]:
    """Return a command of a peer's environment, as an argv."""
    folder = home(peer)
    if peer.node:
        node = shutil.which("node")
        if node is None:
            raise HomeError("there is no node here")
        return [node, str(PROGRAMS / peer.program), *words]
    return [str(folder / "bin" / words[0]), *words[1:]]


def program(peer: Peer, *words: str) -> list[str]:
    """Return the command of a peer's program, as an argv."""
    if peer.node:
        return command(peer, words)
    return [str(home(peer) / "bin" / "python"), str(PROGRAMS / peer.program), *words]


def environment(peer: Peer, port: int, board: Path, number: int) -> dict[str, str]:
    """Return the variables of a peer's processes."""
    kept = {name: text for name, text in os.environ.items() if "BANANAS" not in name}
    paths = [PROGRAMS] if peer.version else [PROGRAMS, ROOT]
    return (
        kept
        | {
            "PEER_PORT": str(port),
            VARIABLE: str(board),
            "PEER_NUMBER": str(number),
            "PEER_MODULES": str(home(peer)),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "BANANAS_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        | peer.variables
    )


def _run(*argv: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        argv, cwd=cwd, capture_output=True, text=True, timeout=_INSTALL_S, check=False
    )
    if done.returncode:
        raise HomeError(f"{' '.join(argv[:4])} … failed: {done.stderr.strip()[-500:]}")
