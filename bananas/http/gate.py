"""Who may ask: checked for every request before anything of it is read.

With tokens set, every route but the two probes wants one, and each route one of its scope.
Without any the API is bound to loopback, where the danger is the browser of whoever sits
there: requests that a foreign page can make it send are refused by their Origin, and names
that a foreign resolver points at loopback by their Host.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from typing import TYPE_CHECKING, Final

from bananas.errors import SettingsError
from bananas.http.exchange import MAX_HEAD_BYTES, check_encoding
from bananas.http.problems import Problem
from bananas.tokens import ALL, Keyring, read_tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.types import Scope

    from bananas.http.exchange import Headers
    from bananas.http.operations import RouteScope
    from bananas.settings import Settings
    from bananas.tokens import Grant, Token

log = logging.getLogger("bananas.http")

GRANT_KEY: Final = "bananas.grant"
"""In a request's scope: what its caller may do."""

_FIELD_BYTES: Final = 4  # ": " and the line's end
_SCHEME: Final = b"bearer "
_SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_LOOK_AGAIN_S: Final = 1.0
_REALM: Final = 'Bearer realm="bananas"'


class Gate:
    """Lets a request through with what it may do, or raises the problem it is refused with."""

    def __init__(self, settings: Settings, open_paths: frozenset[str]) -> None:
        """Read the tokens; without any the API is for loopback only.

        Args:
            settings: The one token, and the file of those with scopes.
            open_paths: What anybody may ask for.

        Raises:
            SettingsError: The file cannot be used.
        """
        self._open_paths = open_paths
        single = settings.api_token
        self._keyring: Keyring | None = None
        self._file: _TokenFile | None = None
        if settings.api_tokens_file is not None:
            self._file = _TokenFile(settings.api_tokens_file)
        if single is not None or self._file is not None:
            tokens = [] if self._file is None else self._file.read()
            self._keyring = Keyring(None if single is None else single.reveal(), tokens)

    def check(self, scope: Scope, headers: Headers) -> Grant:
        """Let a request through; returns what its caller may do.

        Raises:
            Problem: 400, 401, 403, 415 or 431.
        """
        fields = scope["headers"]
        size = len(scope["raw_path"]) + len(scope["query_string"]) + _FIELD_BYTES * len(fields)
        if size + sum([len(name) + len(value) for name, value in fields]) > MAX_HEAD_BYTES:
            raise Problem("headers-too-large", f"the limit is {MAX_HEAD_BYTES} bytes")
        if b"content-encoding" in headers:
            check_encoding(headers)
        grant = ALL
        if self._keyring is None:
            _check_loopback(headers.get(b"host", b""))
        elif scope["path"] not in self._open_paths:
            grant = self._grant_of(self._keyring, scope["headers"], headers)
        if (b"origin" in headers or b"sec-fetch-site" in headers) and scope[
            "method"
        ] not in _SAFE_METHODS:
            _check_origin(headers)
        return grant

    def _grant_of(
        self, keyring: Keyring, fields: list[tuple[bytes, bytes]], headers: Headers
    ) -> Grant:
        if self._file is not None:
            changed = self._file.changed()
            if changed is not None:
                keyring.replace(changed)
        authorization = headers.get(b"authorization")
        if authorization is None:
            raise _unauthorized("")
        scheme, given = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        # Of a field given twice a proxy may have judged the other one.
        once = sum([name == b"authorization" for name, _ in fields]) == 1
        if scheme.lower() == _SCHEME and once:
            grant = keyring.grant_of(given.strip(), time.time())
            if grant is not None:
                return grant
        raise _unauthorized(', error="invalid_token"')


def demand(grant: Grant, scope: RouteScope) -> None:
    """Refuse a caller whose token does not allow a route.

    Raises:
        Problem: 403.
    """
    if scope != "open" and not grant.allows(scope):
        raise insufficient(scope)


def insufficient(scope: RouteScope, detail: str = "") -> Problem:
    """Return the problem of a token without a scope."""
    return Problem(
        "insufficient-scope",
        detail or f"the scope {scope} is needed",
        headers={"www-authenticate": f'{_REALM}, error="insufficient_scope", scope="{scope}"'},
        scope=scope,
    )


def _unauthorized(more: str) -> Problem:
    """Return one problem for all that is wrong with a token: which it is, is not told."""
    return Problem(
        "unauthorized",
        "send Authorization: Bearer <token>",
        headers={"www-authenticate": _REALM + more},
    )


class _TokenFile:
    """Reads the file again when it has changed, looking at most once a second."""

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._seen: tuple[int, ...] | None = None
        self._looked_at = 0.0

    def read(self) -> list[Token]:
        """Return the tokens.

        Raises:
            SettingsError: The file cannot be used.
        """
        self._seen = self._mark()
        self._looked_at = self._now()
        return read_tokens(self._path)

    def changed(self) -> list[Token] | None:
        """Return the tokens if the file has changed.

        A file that has gone, or is broken, lets nobody in: what was revoked must not come back
        by a mistake in it.
        """
        if self._now() - self._looked_at < _LOOK_AGAIN_S:
            return None
        self._looked_at = self._now()
        mark = self._mark()
        if mark == self._seen:
            return None
        self._seen = mark
        try:
            tokens = read_tokens(self._path)
        except SettingsError as error:
            log.error("no token of the file is valid any more: %s", error)  # noqa: TRY400 - no defect
            return []
        log.info("tokens were read again: %d", len(tokens))
        return tokens

    def _mark(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)


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
        "without a token only requests to a loopback Host are taken",
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
