"""Who may ask: every route with and without the token, and what a browser may be made to send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bananas.client import Client
from bananas.errors import SettingsError
from bananas.http.api import Api as Application
from bananas.http.server import serve
from bananas.settings import Settings

if TYPE_CHECKING:
    from conftest import Api, MakeApi

TOKEN = "a-token-of-sixteen-and-more"  # noqa: S105 - of these tests
OPEN = {"/livez", "/readyz"}


def routes() -> list[tuple[str, str]]:
    """Return (method, path) of every route there is."""
    settings = Settings(redis_url="redis://nowhere.invalid")
    api = Application(Client(settings=settings), settings)
    return [(o.method, o.path.replace("{id}", "x")) for o in api.operations]


async def test_every_route_but_the_probes_wants_the_token(make_api: MakeApi) -> None:
    """Without the token, or with a wrong one, every route is 401; the two probes are open."""
    wrong: list[dict[str, str]] = [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": "Bearer ü"},
    ]
    async with make_api(token=TOKEN) as api:
        del api.http.headers["authorization"]
        for method, path in routes():
            for headers in wrong:
                encoded = {name: value.encode("latin-1") for name, value in headers.items()}
                answer = await api.http.request(method, path, headers=encoded)
                if path in OPEN:
                    assert answer.status_code == 200
                    continue
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["www-authenticate"] == 'Bearer realm="bananas"'
                assert answer.json()["type"] == "urn:bananas:problem:unauthorized"
                assert TOKEN not in answer.text
            good = {"authorization": f"bearer  {TOKEN}"}
            answer = await api.http.request(method, path, headers=good)
            assert answer.status_code != 401
        assert (await api.client.stats()).get("accepted", 0) == 0


async def test_an_unknown_route_tells_nothing_without_the_token(make_api: MakeApi) -> None:
    """Which routes exist is not told to strangers."""
    async with make_api(token=TOKEN) as api:
        assert (await api.http.get("/nosuch")).status_code == 404
        del api.http.headers["authorization"]
        assert (await api.http.get("/nosuch")).status_code == 401


async def test_the_network_is_not_served_without_a_token() -> None:
    """An address beyond loopback is refused by the settings, naming both variables."""
    with pytest.raises(SettingsError) as caught:
        Settings(api_host="0.0.0.0")  # noqa: S104 - what must be refused
    assert "BANANAS_API_HOST" in str(caught.value)
    assert "BANANAS_API_TOKEN" in str(caught.value)


async def test_serve_itself_refuses_the_network_without_a_token() -> None:
    """Settings that got past their own check do not get past the server."""
    settings = Settings(redis_url="redis://nowhere.invalid")
    object.__setattr__(settings, "api_host", "192.0.2.1")
    with pytest.raises(SettingsError) as caught:
        await serve(settings, stop=asyncio.Event())
    assert "BANANAS_API_HOST" in str(caught.value)
    assert "BANANAS_API_TOKEN" in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin", "origin": "http://{host}"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://{host}"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://{host}"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://evil.example"}, False),
    ],
)
async def test_a_foreign_page_cannot_write(
    api: Api, headers: dict[str, str], allowed: bool
) -> None:
    """A write that a page of another origin made a browser send is 403; reads are not touched."""
    host = f"127.0.0.1:{api.port}"
    headers = {name: value.format(host=host) for name, value in headers.items()}
    wrote = await api.http.post("/jobs", json={"name": "t"}, headers=headers)
    assert wrote.status_code == (201 if allowed else 403)
    mended = await api.http.post("/dead/retry?all=1", headers=headers)
    assert mended.status_code == (200 if allowed else 403)
    assert (await api.http.get("/stats", headers=headers)).status_code == 200
    if not allowed:
        assert wrote.json()["type"] == "urn:bananas:problem:forbidden"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("localhost:8080", True),
        ("LOCALHOST.", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9", True),
        ("[::1]:8080", True),
        ("api.localhost", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.0.7:8080", False),
        ("127.0.0.1.evil.example", False),
        ("[::2]", False),
    ],
)
async def test_without_a_token_only_loopback_names_are_served(
    api: Api, host: str, allowed: bool
) -> None:
    """A name that a foreign resolver pointed at loopback (DNS rebinding) is 403, reads included."""
    answer = await api.http.get("/stats", headers={"host": host})
    assert answer.status_code == (200 if allowed else 403)


async def test_with_a_token_any_name_is_served(make_api: MakeApi) -> None:
    """Behind a proxy the Host is the public one; the token is what counts."""
    async with make_api(token=TOKEN) as api:
        answer = await api.http.get("/stats", headers={"host": "jobs.example.com"})
        assert answer.status_code == 200
