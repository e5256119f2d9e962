"""A network of a test's own: two namespaces joined by a cable that can be cut.

The server lives at the far end, workers at the near one. A cut drops packets without a word,
as a pulled cable or a firewall does: no connection is closed, nothing is refused.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from servers import Server

if TYPE_CHECKING:
    from servers import Kind

FAR, NEAR = "10.99.0.1", "10.99.0.2"

_numbers = itertools.count()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=30)


@functools.cache
def why_not() -> str:
    """Return why no cable can be had on this machine, "" where one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs network namespaces: Linux, as root"
    missing = [tool for tool in ("ip", "iptables") if shutil.which(tool) is None]
    if missing:
        return f"needs {' and '.join(missing)} (apt: iproute2, iptables)"
    try:
        with Cable() as cable:
            cable.cut()
            cable.mend()
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        return f"network namespaces are not permitted here: {said.decode().strip() or error}"
    return ""


class Cable:
    """Two namespaces and what joins them; both are gone after the `with`."""

    def __init__(self) -> None:
        """Choose names that nobody else has."""
        name = f"bananas-{os.getpid()}-{next(_numbers)}"
        self.far, self.near = f"{name}-far", f"{name}-near"

    def __enter__(self) -> Self:
        """Make the namespaces and join them."""
        try:
            for space in (self.far, self.near):
                _run("ip", "netns", "add", space)
            peer = ("peer", "name", "cable", "netns", self.near)
            _run("ip", "-n", self.far, "link", "add", "cable", "type", "veth", *peer)
            for space, address in ((self.far, FAR), (self.near, NEAR)):
                _run("ip", "-n", space, "addr", "add", f"{address}/30", "dev", "cable")
                _run("ip", "-n", space, "link", "set", "cable", "up")
                _run("ip", "-n", space, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove both; what runs in them keeps its own reference until it ends."""
        for space in (self.far, self.near):
            with suppress(subprocess.SubprocessError):
                _run("ip", "netns", "del", space)

    @property
    def at_near_end(self) -> list[str]:
        """The words that run a command at the near end."""
        return ["ip", "netns", "exec", self.near]

    @property
    def at_far_end(self) -> list[str]:
        """The words that run a command at the far end."""
        return ["ip", "netns", "exec", self.far]

    def cut(self) -> None:
        """Let nothing through, in either direction."""
        self._drop("INPUT")
        self._drop("OUTPUT")

    def cut_answers(self) -> None:
        """Let requests through, and no answers."""
        self._drop("INPUT")

    def mend(self) -> None:
        """Let everything through again."""
        _run(*self.at_near_end, "iptables", "-w", "-F")

    def mend_but_for_ends(self) -> None:
        """Let through all but the word that a connection has ended, or is not known, there."""
        for end in ("FIN", "RST"):
            self._drop("INPUT", "-p", "tcp", "--tcp-flags", end, end)
        self._drop("INPUT", action="-D")
        self._drop("OUTPUT", action="-D")

    def _drop(self, chain: str, *which: str, action: str = "-A") -> None:
        end = "-i" if chain == "INPUT" else "-o"
        rule = (chain, end, "cable", *which, "-j", "DROP")
        _run(*self.at_near_end, "iptables", "-w", action, *rule)


class FarServer(Server):
    """A server at the far end; tests reach it by its unix socket, as if nothing were cut."""

    def __init__(self, cable: Cable, kind: Kind, **options: Any) -> None:  # noqa: ANN401
        """Prepare; the arguments are those of `Server`."""
        arguments = ("--bind", FAR, "--protected-mode", "no")
        super().__init__(kind, tcp=True, arguments=arguments, **options)
        self._cable = cable

    @property
    def far_url(self) -> str:
        """The address by which the near end knows it."""
        return f"redis://{FAR}:{self.port}/0"

    def _argv(self) -> list[str]:
        return [*self._cable.at_far_end, *super()._argv()]
