"""A power cut: a copy of a server's data as the disk had it, without what was only written.

Killing a server shows nothing about fsync, since what it wrote is in the kernel's memory
and survives it. So a small library is loaded into the server that notes how far each file
has been synced, and the copy is cut there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

_SOURCE: Final = Path(__file__).with_name("syncs.c")


class PowerSupply:
    """Starts servers whose syncs are noted, and cuts them off."""

    def __init__(self, folder: Path, make_server: Callable[..., Server]) -> None:
        """Build the library in `folder`; skips the test where that cannot be done."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if sys.platform != "linux" or compiler is None:
            pytest.skip("a power cut takes Linux and a C compiler")
        self._library = folder / "syncs.so"
        self._log = folder / "syncs.log"
        self._hold = folder / "syncs.hold"
        self._make_server = make_server
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", self._library, _SOURCE, "-ldl"], check=True
        )

    def start(self, kind: str, *arguments: str) -> Server:
        """Start a server with an append-only file."""
        watched = {
            "LD_PRELOAD": str(self._library),
            "SYNCS_LOG": str(self._log),
            "SYNCS_HOLD": str(self._hold),
        }
        return self._make_server(kind, aof=True, arguments=arguments, environment=watched)

    def hold_syncs(self) -> None:
        """Let no sync begin from now on."""
        self._hold.touch()

    def release_syncs(self) -> None:
        """Let them go on."""
        self._hold.unlink()

    @property
    def syncs(self) -> int:
        """How many have ended so far."""
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0

    def copy(self, server: Server, target: Path) -> None:
        """Write into `target` what the disk of the server holds at this moment."""
        # First what is known to be synced, then the files: they may only have grown since.
        synced: dict[str, int] = {}
        if self._log.exists():
            for line in self._log.read_text().splitlines():
                path, _, size = line.rpartition(" ")
                synced[path] = int(size)
        source = server.folder / "appendonlydir"
        shutil.copytree(source, target / "appendonlydir")
        for path in source.glob("*.incr.aof"):
            os.truncate(target / "appendonlydir" / path.name, synced.get(str(path), 0))
