"""Who may ask: every route with every kind of token, and what a browser may be made to send."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from starlette.routing import Route

from bananas.client import Client
from bananas.errors import SettingsError
from bananas.http.api import Api as Application
from bananas.http.operations import Operation
from bananas.http.server import serve
from bananas.settings import Settings
from bananas.tokens import changing, make, position, read_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Api, MakeApi

TOKEN = "a-token-of-sixteen-and-more"  # noqa: S105 - of these tests
CHALLENGE = 'Bearer realm="bananas"'
OPEN = {"/livez", "/readyz"}

SCOPES = {
    "POST /jobs": "enqueue",
    "POST /jobs/batch": "enqueue",
    "GET /jobs/{id}": "read",
    "DELETE /jobs/{id}": "admin",
    "POST /jobs/{id}/retry": "admin",
    "GET /jobs/{id}/result": "read",
    "GET /dead": "read",
    "POST /dead/retry": "admin",
    "DELETE /dead": "admin",
    "GET /queues": "read",
    "GET /stats": "read",
    "GET /metrics": "read",
    "GET /livez": "open",
    "GET /readyz": "open",
    "GET /health": "read",
    "GET /openapi.json": "read",
    "GET /docs": "read",
}
"""Whom each route is for. A new one is written down here, or the suite fails."""


def application() -> Application:
    """Return the application, connected to nothing."""
    settings = Settings(redis_url="redis://nowhere.invalid")
    return Application(Client(settings=settings), settings)


def routes() -> list[tuple[str, str]]:
    """Return (method, path) of every route there is."""
    return [(o.method, o.path.replace("{id}", "x")) for o in application().operations]


def bearer(text: str) -> dict[str, str]:
    """Return the header that carries a token."""
    return {"authorization": f"Bearer {text}"}


class TokensFile:
    """A file of tokens, each by the scope that it has."""

    def __init__(self, path: Path) -> None:
        """Begin an empty one."""
        self.path = path
        with changing(path):
            pass

    def add(self, *scopes: str, ttl_s: float = 3600) -> str:
        """Make a token that lives so long; negative: it has had its time."""
        now_s = time.time()
        text, kept = make(scopes, now_s=now_s, expires_at=now_s + ttl_s)
        with changing(self.path) as tokens:
            tokens.append(kept)
        return text

    def remove(self, text: str) -> None:
        """Revoke a token."""
        with changing(self.path) as tokens:
            del tokens[position(tokens, text.split("_")[1])]


@pytest.fixture
def tokens(tmp_path: Path) -> TokensFile:
    """Return a file without tokens."""
    return TokensFile(tmp_path / "tokens")


def test_every_route_says_whom_it_is_for() -> None:
    """No route is served that is not in the table, and none in another scope than it says."""
    api = application()
    assert {f"{o.method} {o.path}": o.scope for o in api.operations} == SCOPES
    served = {
        f"{method} {route.path}"
        for route in api._router.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert served == set(SCOPES)


def test_a_route_without_a_scope_cannot_be_written() -> None:
    """Leaving the scope out is an error where the route is made."""
    without: Any = {"method": "GET", "path": "/x", "document": {}}
    with pytest.raises(TypeError, match="scope"):
        Operation(**without)


async def test_each_route_takes_its_scope_and_no_other(
    make_api: MakeApi, tokens: TokensFile
) -> None:
    """Every route with no token, bad ones, an expired, a revoked, and one of each scope."""
    scoped = {
        "read": tokens.add("read"),
        "enqueue": tokens.add("enqueue:*"),
        "admin": tokens.add("admin"),
    }
    revoked = tokens.add("admin")
    tokens.remove(revoked)
    _, admin_id, secret = scoped["admin"].split("_", 2)
    bad = {
        "unknown id": f"bn_{'0' * 12}_{secret}",
        "another's secret": f"bn_{admin_id}_{scoped['read'].split('_', 2)[2]}",
        "short": scoped["admin"][:-1],
        "long": scoped["admin"] + "A",
        "other case": scoped["admin"].swapcase(),
        "id alone": f"bn_{admin_id}_",
        "expired": tokens.add("admin", ttl_s=-1),
        "revoked": revoked,
        "digest": read_tokens(tokens.path)[2].sha256,
    }
    allowed = {"read": {"read"}, "enqueue": {"enqueue"}, "admin": {"read", "enqueue", "admin"}}
    async with make_api(api_tokens_file=tokens.path) as api:
        for method, path in routes():
            scope = SCOPES[f"{method} {path.replace('/x', '/{id}')}"]
            for kind, text in {"none": None, **bad}.items():
                headers = {} if text is None else bearer(text)
                answer = await api.http.request(method, path, headers=headers)
                if scope == "open":
                    assert answer.status_code == 200
                    continue
                assert answer.status_code == 401, (method, path, kind)
                assert answer.json()["detail"] == "send Authorization: Bearer <token>"
                assert answer.headers["www-authenticate"].startswith(CHALLENGE)
                assert text is None or text not in answer.text
            for has, text in scoped.items():
                answer = await api.http.request(method, path, headers=bearer(text))
                if scope == "open" or scope in allowed[has]:
                    assert answer.status_code not in (401, 403), (method, path, has)
                    continue
                assert answer.status_code == 403, (method, path, has)
                problem = answer.json()
                assert problem["type"] == "urn:bananas:problem:insufficient-scope"
                assert problem["scope"] == scope
                expected = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'
                assert answer.headers["www-authenticate"] == expected
        assert (await api.client.stats()).get("accepted", 0) == 0


async def test_a_token_enqueues_for_its_queues_only(make_api: MakeApi, tokens: TokensFile) -> None:
    """A job, and each line of a batch, is judged by its routing key alone."""
    headers = bearer(tokens.add("enqueue:gpu-?", "enqueue:default"))
    async with make_api(api_tokens_file=tokens.path) as api:
        for key, status in ((None, 201), ("default", 201), ("gpu-1", 201)):
            body = {"name": "t"} | ({} if key is None else {"routing_key": key})
            answer = await api.http.post("/jobs", json=body, headers=headers)
            assert answer.status_code == status
        for wrong in ("gpu-12", "gpu-", "cpu", "DEFAULT", "", "default\r\nx: y", "ü"):
            answer = await api.http.post(
                "/jobs", json={"name": "t", "routing_key": wrong}, headers=headers
            )
            assert answer.status_code == 403, wrong
            assert "x" not in answer.headers
            assert not wrong or wrong not in answer.text
        answer = await api.http.post("/jobs", json={"name": "t", "routing_key": 7}, headers=headers)
        assert answer.status_code == 422
        lines = b'{"name":"t","id":"1"}\n{"name":"t","id":"2","routing_key":"cpu"}\n'
        lines += b'[]\n{"name":"t","id":"4","routing_key":"gpu-4"}\n'
        answer = await api.http.post(
            "/jobs/batch",
            content=lines,
            headers={**headers, "content-type": "application/x-ndjson", "idempotency-key": "k"},
        )
        verdicts = [json.loads(line) for line in answer.text.splitlines()]
        assert [v["status"] for v in verdicts] == ["accepted", "rejected", "rejected", "accepted"]
        assert verdicts[1]["field"] == "routing_key"
        assert (await api.client.stats())["accepted"] == 5


async def test_two_tokens_live_while_one_follows_the_other(
    make_api: MakeApi, tokens: TokensFile
) -> None:
    """A change of the file is noticed while the API runs: added, revoked, and broken."""

    async def status(text: str) -> int:
        return (await api.http.get("/stats", headers=bearer(text))).status_code

    async def becomes(text: str, expected: int) -> None:
        async with asyncio.timeout(20):
            while await status(text) != expected:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.05)

    first = tokens.add("read")
    async with make_api(api_tokens_file=tokens.path) as api:
        assert await status(first) == 200
        second = tokens.add("read")
        await becomes(second, 200)
        assert await status(first) == 200
        tokens.remove(first)
        await becomes(first, 401)
        assert await status(second) == 200
        tokens.path.write_text("{")
        await becomes(second, 401)


async def test_a_token_ends_with_its_time(make_api: MakeApi, tokens: TokensFile) -> None:
    """No change of the file is needed for a token to expire."""
    text = tokens.add("read", ttl_s=2)
    async with make_api(api_tokens_file=tokens.path) as api:
        assert (await api.http.get("/stats", headers=bearer(text))).status_code == 200
        async with asyncio.timeout(20):
            # A clock, not an event.
            while (await api.http.get("/stats", headers=bearer(text))).status_code != 401:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_the_one_token_goes_on_beside_those_with_scopes(
    make_api: MakeApi, tokens: TokensFile
) -> None:
    """`BANANAS_API_TOKEN` may do everything, with or without a file."""
    scoped = tokens.add("read")
    async with make_api(token=TOKEN, api_tokens_file=tokens.path) as api:
        assert (await api.http.post("/jobs", json={"name": "t"})).status_code == 201
        assert (await api.http.get("/stats", headers=bearer(scoped))).status_code == 200


async def test_two_authorizations_are_none(make_api: MakeApi) -> None:
    """Of a field given twice a proxy may have judged the other one: neither counts."""
    async with make_api(token=TOKEN) as api:
        both = [("authorization", f"Bearer {TOKEN}")] * 2
        del api.http.headers["authorization"]
        assert (await api.http.get("/stats", headers=both[:1])).status_code == 200
        assert (await api.http.get("/stats", headers=both)).status_code == 401


async def test_a_file_that_is_none_is_an_error_at_the_start(tmp_path: Path) -> None:
    """Neither loopback nor the network is served without the file that was named."""
    settings = Settings(redis_url="redis://x.invalid", api_tokens_file=tmp_path / "none")
    with pytest.raises(SettingsError, match="BANANAS_API_TOKENS_FILE"):
        await serve(settings, stop=asyncio.Event())


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
                asked = answer.headers["www-authenticate"]
                assert asked == CHALLENGE + (', error="invalid_token"' if headers else "")
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
