"""A master at the far end of a cable, its replicas and Sentinels at the near one."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from faults.cables import FAR, NEAR
from sentinels import Sentinel, Watched
from servers import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faults.cables import Cable
    from servers import Kind

_CLONE_NEWNET = 0x40000000


def enter(space: str) -> None:
    """Move the calling thread, and what it starts from now on, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{space}").open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {space}")


class _Inside(Server):
    """A server in a namespace; tests reach it by its unix socket, as if nothing were cut."""

    def __init__(self, kind: Kind, under: Sequence[str], arguments: Sequence[str]) -> None:
        super().__init__(kind, tcp=True, arguments=arguments)
        self._under = under

    def _argv(self) -> list[str]:
        return [*self._under, *super()._argv()]


class Parted(Watched):
    """As `Watched`; a cut leaves the master on one side, alone but for its clients."""

    sentinel_host = NEAR
    master_host = FAR

    def __init__(self, kind: Kind, cable: Cable, *, arguments: Sequence[str] = ()) -> None:
        """Prepare, but do not start; the arguments are those of each server."""
        self._near = cable.at_near_end
        self._far = cable.at_far_end
        super().__init__(kind, arguments=("--protected-mode", "no", *arguments))

    def _server(self, kind: Kind, number: int, options: list[str]) -> Server:
        host, under = (NEAR, self._near) if number else (FAR, self._far)
        return _Inside(kind, under, ["--bind", host, *options])

    def _sentinel(self, kind: Kind, master: str) -> Sentinel:
        return Sentinel(kind, master, quorum=2, host=NEAR, under=self._near)
