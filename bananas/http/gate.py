"""Who may ask: checked for every request before anything of it is read.

With a token set, every route but the two probes wants it. Without one the API is bound to
loopback, where the danger is the browser of whoever sits there: requests that a foreign
page can make it send are refused by their Origin, and names that a foreign resolver points
at loopback by their Host.
"""

from __future__ import annotations

import ipaddress
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from bananas.http.exchange import MAX_HEAD_BYTES, check_encoding
from bananas.http.problems import Problem

if TYPE_CHECKING:
    from starlette.types import Scope

    from bananas.http.exchange import Headers
    from bananas.settings import Secret

OPEN_PATHS: Final = frozenset(("/livez", "/readyz"))
_SCHEME: Final = b"bearer "
_SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))


class Gate:
    """Lets a request through, or raises the problem it is refused with."""

    def __init__(self, token: Secret | None) -> None:
        """Keep the token; None = loopback only."""
        self._token = None if token is None else token.reveal().encode()

    def check(self, scope: Scope, headers: Headers) -> None:
        """Let a request through.

        Raises:
            Problem: 400, 401, 403, 415 or 431.
        """
        fields = scope["headers"]
        if sum([len(name) + len(value) for name, value in fields]) > MAX_HEAD_BYTES:
            raise Problem("headers-too-large", f"the limit is {MAX_HEAD_BYTES} bytes")
        if b"content-encoding" in headers:
            check_encoding(headers)
        if self._token is not None:
            if scope["path"] not in OPEN_PATHS:
                self._check_token(headers.get(b"authorization", b""))
        else:
            _check_loopback(headers.get(b"host", b""))
        if (b"origin" in headers or b"sec-fetch-site" in headers) and scope[
            "method"
        ] not in _SAFE_METHODS:
            _check_origin(headers)

    def _check_token(self, authorization: bytes) -> None:
        token = self._token or b""
        scheme, given = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        if scheme.lower() != _SCHEME or not compare_digest(given.strip(), token):
            raise Problem(
                "unauthorized",
                "send Authorization: Bearer <token>",
                headers={"www-authenticate": 'Bearer realm="bananas"'},
            )


def _check_loopback(host: bytes) -> None:
    """Refuse a name that is not loopback's own: DNS rebinding comes in under one."""
    if not host or host in _LOOPBACK_HOSTS:
        return
    if is_loopback(_host_name(host)):
        if len(_LOOPBACK_HOSTS) < _MOST_HOSTS:
            _LOOPBACK_HOSTS.add(host)
        return
    raise Problem(
        "forbidden",
        "without BANANAS_API_TOKEN only requests to a loopback Host are taken",
    )


_LOOPBACK_HOSTS: Final[set[bytes]] = set()
_MOST_HOSTS: Final = 64


def _host_name(host: bytes) -> str:
    """Return the name in a Host field, without the port."""
    text = host.decode("latin-1")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine and no other."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_origin(headers: Headers) -> None:
    """Refuse a write that a page of another origin made a browser send."""
    site = headers.get(b"sec-fetch-site", b"none")
    origin = headers.get(b"origin")
    if site in (b"same-origin", b"none") and (
        origin is None or origin.partition(b"://")[2] == headers.get(b"host", b"")
    ):
        return
    raise Problem("forbidden", "a page of another origin may not write here")
