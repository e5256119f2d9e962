"""Row 42: credentials are revoked while a fleet works, and given back; a certificate expires."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Any, cast

import pytest

from bananas.errors import BrokerUnavailableError
from bananas.transport import Transport
from fleets import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fleets import Fleet, Ledger, Scene
    from servers import Server

SECRET = "open-sesame-8731"  # noqa: S105 - of a server of the test's own


@pytest.fixture
def own_server(make_server: Callable[..., Server]) -> Server:
    """Return a server with a user for the fleet."""
    server = make_server(aof=True)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "fleet", "on", f">{SECRET}", "~*", "&*", "+@all")
    return server


REVOKED = {
    "switched off": (("off",), ("on",), "WRONGPASS"),
    "another password": (("resetpass", ">other"), ("resetpass", f">{SECRET}"), "WRONGPASS"),
    "no scripts": (("-evalsha", "-eval"), ("+evalsha", "+eval"), "NOPERM"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    ["switched off", "no scripts", pytest.param("another password", marks=pytest.mark.long)],
)
def test_a_fleet_waits_for_its_rights(  # noqa: PLR0913, PLR0917 - a fleet and all that looks at it
    fleet: Callable[..., Fleet],
    submit: Callable[..., str],
    scene: Scene,
    ledger: Ledger,
    own_server: Server,
    how: str,
) -> None:
    """Said clearly and without the secret; nothing is run again; it goes on when that is mended."""
    revoke, give_back, word = REVOKED[how]
    one = fleet(f"unix://fleet:{SECRET}@{own_server.socket}", LEASE_TTL="1500ms").start()
    before = one.children()
    for _ in range(8):
        submit("slow", {"seconds": 0.5})
    wait_for(lambda: len(ledger.lines("start")) == 8)
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "fleet", *revoke)
        if word == "WRONGPASS":
            client.execute_command("CLIENT", "KILL", "USER", "fleet")
        client.execute_command("ACL", "LOG", "RESET")
        wait_for(lambda: one.said(word) and one.said("cannot settle"))
        # longer than a lease: whoever may judge others cannot, and afterwards waits
        wait_for(lambda: _refusals(own_server) > 10)
        client.execute_command("ACL", "SETUSER", "fleet", *give_back)
    submit("quick")
    wait_for(scene.drained)
    scene.judge().check()
    assert one.children() == before
    assert one.stop() == 0
    assert SECRET not in one.text()
    # an outage is a few lines, not one an attempt
    assert one.said("cannot reach Redis") <= 10


def _refusals(server: Server) -> int:
    with server.client() as client:
        entries = cast("Any", client.execute_command("ACL", "LOG", "100"))
        return sum(int(dict(zip(e[::2], e[1::2], strict=True))[b"count"]) for e in entries)


@pytest.fixture
def certify(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Return a maker of certificates for 127.0.0.1, valid for two days from a moment."""
    openssl, faketime = shutil.which("openssl"), shutil.which("faketime")
    if openssl is None or faketime is None:
        pytest.skip("needs openssl and faketime to make a certificate that has expired")

    def make(since: str) -> tuple[Path, Path]:
        cert, key = tmp_path / f"cert{since}", tmp_path / f"key{since}"
        request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        words = [faketime, "-f", since, openssl, *request.split(), "-subj", "/CN=test"]
        words += ["-addext", "subjectAltName=IP:127.0.0.1"]
        words += ["-keyout", str(key), "-out", str(cert)]
        subprocess.run(words, check=True, capture_output=True)
        return cert, key

    return make


async def test_an_expired_certificate_is_told_and_a_new_one_is_taken(
    server: Server, certify: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    """The error names the cause; the same transport goes on when the server has a valid one."""
    expired, valid = certify("-30d"), certify("-1d")
    trusted = tmp_path / "trusted"
    trusted.write_text(expired[0].read_text() + valid[0].read_text())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*expired)
    wires: set[asyncio.StreamWriter] = set()

    async def bridge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, to_server = await asyncio.open_unix_connection(str(server.socket))
        wires.update((writer, to_server))

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        await asyncio.gather(copy(reader, to_server), copy(answers, writer))

    front = await asyncio.start_server(bridge, "127.0.0.1", 0, ssl=context)
    url = f"rediss://127.0.0.1:{front.sockets[0].getsockname()[1]}?ssl_ca_certs={trusted}"
    transport = Transport(url, retry_window_s=1.0)
    try:
        with pytest.raises(BrokerUnavailableError, match="certificate has expired"):
            await transport.command("PING", repeat=True)
        context.load_cert_chain(*valid)
        answered = False
        while not answered:
            with contextlib.suppress(BrokerUnavailableError):
                answered = await transport.command("PING", repeat=True) == b"PONG"
    finally:
        await transport.close()
        for wire in wires:
            wire.close()
        front.close()
        await front.wait_closed()
