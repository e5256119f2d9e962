"""A server, a ledger and fleets for one test; every process and key is gone afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from faults.cables import Cable, FarServer, why_not
from fleets import Fleet, Ledger, Scene
from servers import available

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import Server


@pytest.fixture
def own_server(make_server: Callable[..., Server]) -> Server:
    """Return a server with an append-only file that the test may harm."""
    return make_server(aof=True)


@pytest.fixture
def cable() -> Iterator[Cable]:
    """Return a cable to cut; skips the test where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    with Cable() as cable:
        yield cable


@pytest.fixture
def far_server(cable: Cable) -> Iterator[FarServer]:
    """Return a running server at the cable's far end, with an append-only file."""
    here = available()
    if not here:
        pytest.skip("no server on this machine")
    server = FarServer(cable, here[0], aof=True)
    server.start()
    yield server
    server.discard()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Return an empty ledger."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def scene(own_server: Server, ledger: Ledger) -> Iterator[Scene]:
    """Return the view of the server and the ledger."""
    with own_server.client(timeout_s=60.0) as client:
        yield Scene(client, ledger)


@pytest.fixture
def fleet(own_server: Server, ledger: Ledger, tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Return a maker of fleets; what the test leaves running is ended, its log shown."""
    made: list[Fleet] = []

    def make(url: str | None = None, **env: Any) -> Fleet:  # noqa: ANN401
        made.append(Fleet(tmp_path, url or own_server.url, ledger, **env))
        return made[-1]

    yield make
    for one in made:
        one.end()
        print(one.text()[-6000:])  # noqa: T201 - pytest shows it when the test failed


@pytest.fixture
def submit(own_server: Server, scene: Scene) -> Iterator[Callable[..., str]]:
    """Return a function that submits a job and notes it as accepted."""
    from bananas.settings import Settings  # noqa: PLC0415 - not needed to collect
    from bananas.sync_client import SyncClient  # noqa: PLC0415 - as above

    settings = Settings(redis_url=own_server.url, key_prefix=scene.keys.prefix)
    with SyncClient(settings=settings) as client:

        def one(name: str, payload: object = None, **options: Any) -> str:  # noqa: ANN401
            job = client.submit(name, {} if payload is None else payload, **options)
            job_id = job if isinstance(job, str) else job.id
            scene.accepted.add(job_id)
            return job_id

        yield one
