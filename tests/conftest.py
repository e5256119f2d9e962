"""What every test may ask for: a real private server, a key prefix of its own, a plain client.

`server` runs a test once per kind of server this machine has (`--servers=first`
keeps to the preferred one, `--servers=every` takes what the extra `servers`
brings too).  Tests that harm a server make their own with `make_server`.  `--twin` is
the second run of `make test`: see `twin.py`.  What is marked `long` runs with
`BANANAS_TEST_LONG=1` only.
"""

from __future__ import annotations

import os
import signal
import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest

from clusters import Cluster
from servers import KINDS, MORE_KINDS, Kind, Server, available, version_line
from twin import is_left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

LONG: Final = os.environ.get("BANANAS_TEST_LONG", "") not in ("", "0")
_LEFT_OUT: Final = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run choose its servers, and how much of the suite the second core is to see."""
    parser.addoption(
        "--servers",
        choices=["all", "first", "every", *KINDS, *MORE_KINDS],
        help="which servers `server` stands for: both usual ones (default), the first, "
        "every one that is here, or the one named",
    )
    parser.addoption(
        "--twin",
        action="store_true",
        help="one server, and without the tests that say the same over either core",
    )
    parser.addoption("--all", action="store_true", help="leave nothing out of --twin")


def pytest_configure() -> None:
    """Let the programs under test take Ctrl-C: a run in the background of a shell ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which core and which servers the run uses."""
    kinds = dict.fromkeys((*KINDS, *_chosen(config)))
    return [f"bananas core: {_core()}", *(f"server {version_line(kind)}" for kind in kinds)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `server` once on each chosen kind."""
    if "_server_kind" in metafunc.fixturenames:
        kinds = _chosen(metafunc.config)
        none = pytest.param(None, marks=pytest.mark.skip("no server on this machine"), id="none")
        metafunc.parametrize("_server_kind", kinds or [none], scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the twin's run can do without, and what takes long unless it is asked for."""
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        slow = item.get_closest_marker("slow") is not None
        without = _is_short(config) and is_left_out(item.path, slow=slow)
        without |= not LONG and item.get_closest_marker("long") is not None
        (left_out if without else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    config.stash[_LEFT_OUT] = len(left_out)
    items[:] = kept


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Do not call it a failure when all that was asked for is left out (`ARGS=tests/docs`)."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.stash.get(_LEFT_OUT, 0):
        session.exitstatus = pytest.ExitCode.OK


def _is_short(config: pytest.Config) -> bool:
    return bool(config.getoption("--twin") and not config.getoption("--all"))


def _chosen(config: pytest.Config) -> list[Kind]:
    choice = config.getoption("--servers") or ("first" if _is_short(config) else "all")
    if choice in (*KINDS, *MORE_KINDS):
        return available([choice])
    if choice == "every":
        return available((*KINDS, *MORE_KINDS))
    return available()[:1] if choice == "first" else available()


def _core() -> str:
    try:
        from bananas.speedups import COMPILED  # noqa: PLC0415 - a broken build is reported, not fatal
    except ImportError as failure:
        return f"not importable ({failure})"
    if COMPILED:
        return "compiled"
    return "pure Python (BANANAS_PURE)" if os.environ.get("BANANAS_PURE") else "pure Python"


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run async tests on the loop that production runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def _servers() -> Iterator[dict[str, Server]]:
    running: dict[str, Server] = {}
    yield running
    for server in running.values():
        server.discard()


@pytest.fixture
def server(_server_kind: Kind, _servers: dict[str, Server]) -> Server:
    """Return a running server, one per kind for the whole run; do it no harm."""
    if _server_kind not in _servers:
        _servers[_server_kind] = Server(_server_kind).start()
    return _servers[_server_kind]


@pytest.fixture(scope="session")
def first_kind(pytestconfig: pytest.Config) -> Kind:
    """Return the first kind of server of this run: what differs by kind, scripts show."""
    here = _chosen(pytestconfig)
    if not here:
        pytest.skip("no server on this machine")
    return here[0]


@pytest.fixture(scope="session")
def first_server(first_kind: Kind, _servers: dict[str, Server]) -> Server:
    """Return the shared server of the first kind."""
    if first_kind not in _servers:
        _servers[first_kind] = Server(first_kind).start()
    return _servers[first_kind]


@pytest.fixture
def server_kind(_server_kind: Kind) -> Kind:
    """Return the kind of server the test is run on; makes it run once per kind."""
    return _server_kind


@pytest.fixture
def make_server(first_kind: Kind) -> Iterator[Callable[..., Server]]:
    """Return a maker of started servers that the test may kill, freeze and restart.

    Its arguments are those of `Server`; `kind` is the first of the run's unless given.
    """
    made: list[Server] = []

    def make(kind: Kind | None = None, **options: Any) -> Server:  # noqa: ANN401 - Server's own
        server = Server(kind or first_kind, **options)
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.discard()


@pytest.fixture(scope="module")
def cluster(_server_kind: Kind) -> Iterator[Cluster]:
    """Return three masters, one set per kind for a module; leave every slot at rest."""
    made = Cluster(_server_kind)
    try:
        yield made.start()
    finally:
        made.discard()


@pytest.fixture
def redis(server: Server) -> Iterator[Redis]:
    """Return a plain sync client of `server`: RESP2, bytes, no retries."""
    client = server.client()
    yield client
    client.close()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a key prefix that no other test has; what lies under it is removed afterwards."""
    server: Server | None = None
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
    mine = f"t{uuid.uuid4().hex[:12]}"
    yield mine
    if server is not None:
        with server.client() as client:
            for keys in _batches(client, f"{mine}:*"):
                client.unlink(*keys)


def _batches(client: Redis, pattern: str) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for key in client.scan_iter(pattern, count=1000):
        batch.append(key)
        if len(batch) == 1000:
            yield batch
            batch = []
    if batch:
        yield batch
