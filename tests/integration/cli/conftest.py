"""A server and a fleet of real workers for the commands, shared by the tests of a folder."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from command_line import APP, Program, invoke, program
from servers import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from click.testing import Result
    from redis import Redis

    from servers import Kind


class Bananas(Protocol):
    """Runs a command on the test's server and prefix."""

    def __call__(
        self,
        *args: str,
        env: Mapping[str, str | None] | None = ...,
        input: str | bytes | None = ...,  # noqa: A002
    ) -> Result:
        """Return what it said and its status."""
        ...


@pytest.fixture(scope="package")
def queue_server(first_kind: Kind) -> Iterator[Server]:
    """Return one server for all of them; the preferred kind is enough."""
    server = Server(first_kind).start()
    yield server
    server.discard()


@pytest.fixture(scope="package")
def fleet_prefix() -> str:
    """Return the prefix that the fleet works on."""
    return f"f{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="package")
def fleet(
    queue_server: Server, fleet_prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:
    """Run workers of `APP` and a scheduler on the server."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "shop.py").write_text(APP)
    env = {
        "BANANAS_REDIS_URL": queue_server.url,
        "BANANAS_KEY_PREFIX": fleet_prefix,
        "BANANAS_RETRY_BASE": "100ms",
    }
    with program("worker", "shop:app", "--procs", "1", folder=folder, **env) as running:
        running.until('child-ready.*"child_role":"worker"')
        yield running
    assert running.process.returncode == 0, running.said()


@pytest.fixture
def on_fleet(queue_server: Server, fleet_prefix: str, fleet: Program) -> Bananas:  # noqa: ARG001
    """Run commands where workers run."""
    env = {"BANANAS_REDIS_URL": queue_server.url, "BANANAS_KEY_PREFIX": fleet_prefix}
    return _with(env)


@pytest.fixture
def alone_prefix() -> str:
    """Return a prefix that no worker knows."""
    return f"a{uuid.uuid4().hex[:12]}"


@pytest.fixture
def alone(queue_server: Server, alone_prefix: str) -> Bananas:
    """Run commands on a prefix that no worker serves: nothing moves by itself."""
    return _with({"BANANAS_REDIS_URL": queue_server.url, "BANANAS_KEY_PREFIX": alone_prefix})


@pytest.fixture
def raw(queue_server: Server) -> Iterator[Redis]:
    """Return a plain client of the server."""
    client = queue_server.client()
    yield client
    client.close()


def _with(base: dict[str, str]) -> Bananas:
    def run(*args: str, env: Any = None, input: Any = None) -> Result:  # noqa: A002, ANN401
        return invoke(*args, env={**base, **(env or {})}, input=input)

    return run


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    monkeypatch.chdir(tmp_path)
