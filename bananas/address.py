"""Where Redis is: the URL read into an address, and its TLS.

The URL forms are redis-py's (`redis://`, `rediss://`, `unix://`) plus
`redis+sentinel://host:port,host:port/master[/db]`, `redis+cluster://host:port,host:port` and
their `rediss` twins. The parser is our own because importing redis-py costs a worker some
190 ms of start-up. No error and no repr of this module ever holds a password.
"""

from __future__ import annotations

import binascii
import dataclasses
import re
import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from bananas.errors import FieldError
from bananas.settings import SCHEMES

DEFAULT_PORT: Final = 6379
DEFAULT_SENTINEL_PORT: Final = 26379
_PORTS: Final = range(1, 65536)
_SLOTS: Final = 16384
_OPTIONS: Final = (
    "db",
    "username",
    "password",
    "sentinel_username",
    "sentinel_password",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
)
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_FIELD: Final = "redis_url"


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust the server: verified against the system's authorities unless told otherwise."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    verify: bool = True
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """Read the files and build a context; made anew per connection, so renewed files count.

        Raises:
            OSError: A file is missing or is not a certificate.
        """
        context = ssl.create_default_context(cafile=self.ca_certs)
        if self.certfile is not None:
            context.load_cert_chain(self.certfile, self.keyfile)
        context.check_hostname = self.check_hostname and self.verify
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class Address:
    """One server, or the sentinels or cluster nodes that know it; `path` = a unix socket.

    Attributes:
        nodes: Of a cluster; any of them tells which one holds `slot`.
        slot: Where all our keys lie.
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    sentinels: tuple[tuple[str, int], ...] = ()
    master_name: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    master_only: bool = False
    nodes: tuple[tuple[str, int], ...] = ()
    slot: int = 0

    @property
    def label(self) -> str:
        """The address for people: no user, no password."""
        scheme = "rediss" if self.tls else "redis"
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        if self.sentinels:
            hosts = ",".join(f"{host}:{port}" for host, port in self.sentinels)
            return f"{scheme}+sentinel://{hosts}/{self.master_name}/{self.db}"
        if self.nodes:
            return f"{scheme}+cluster://{','.join(f'{host}:{port}' for host, port in self.nodes)}"
        return f"{scheme}://{self.host}:{self.port}/{self.db}"

    def auth(self) -> tuple[str, ...] | None:
        """Return the arguments of AUTH, or None when the URL names no one."""
        return auth_words(self.username, self.password)


def auth_words(username: str | None, password: str | None) -> tuple[str, ...] | None:
    """Return AUTH with its arguments, or None when there is nothing to log in with."""
    if username:
        return ("AUTH", username, password or "")
    return ("AUTH", password) if password else None


def slot_of(key_prefix: str) -> int:
    """Return the cluster slot of all keys that begin with a prefix.

    Raises:
        FieldError: The prefix has no hash tag: its keys would lie in as many slots.
    """
    tag = re.search(r"\{([^}]+)\}", key_prefix)
    if tag is None:
        rule = 'needs a hash tag in a cluster, as in "{bananas}": all keys must lie in one slot'
        raise FieldError("key_prefix", rule)
    return binascii.crc_hqx(tag[1].encode(), 0) % _SLOTS


def parse_url(url: str, key_prefix: str = "") -> Address:
    """Read a Redis URL.

    Args:
        url: User, password, host names and paths are percent-decoded; the database is the
            path or `?db=`, the latter wins, as in redis-py.
        key_prefix: Of the keys to be found there; in a cluster it chooses the slot.

    Raises:
        FieldError: Of field `redis_url`; the rule names what is wrong without quoting the URL.
            Of `key_prefix`, see `slot_of`.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise FieldError(_FIELD, "not a URL") from None
    if parts.scheme not in SCHEMES:
        raise FieldError(_FIELD, f"scheme must be one of {', '.join(SCHEMES)}")
    options = _options(parts)
    credentials, _, location = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    base = Address(
        username=options.get("username") or unquote(username) or None,
        password=options.get("password") or unquote(password) or None,
        tls=_tls(options) if parts.scheme.startswith("rediss") else None,
    )
    if parts.scheme == "unix":
        path = unquote(parts.path)
        if not path.startswith("/") or location:
            raise FieldError(_FIELD, "unix:// needs an absolute path: unix:///run/redis.sock")
        return dataclasses.replace(base, path=path, db=_db(options.get("db", "0")))
    segments = [unquote(segment) for segment in parts.path.split("/")[1:]]
    if parts.scheme.endswith("+sentinel"):
        return _sentinel_address(base, location, segments, options)
    if parts.scheme.endswith("+cluster"):
        if _db(options.get("db") or "".join(segments) or "0"):
            raise FieldError(_FIELD, "a cluster has database 0 only")
        nodes = tuple(_host_port(one, DEFAULT_PORT) for one in location.split(","))
        return dataclasses.replace(base, nodes=nodes, slot=slot_of(key_prefix))
    host, port = _host_port(location, DEFAULT_PORT)
    db = _db(options.get("db") or "".join(segments) or "0")
    return dataclasses.replace(base, host=host, port=port, db=db)


def _sentinel_address(
    base: Address, location: str, segments: list[str], options: dict[str, str]
) -> Address:
    master_name = segments[0] if segments else ""
    if not master_name:
        raise FieldError(_FIELD, "sentinel URLs end in the master's name: …/mymaster[/db]")
    return dataclasses.replace(
        base,
        sentinels=tuple(_host_port(one, DEFAULT_SENTINEL_PORT) for one in location.split(",")),
        master_name=master_name,
        db=_db(options.get("db") or "".join(segments[1:]) or "0"),
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        master_only=True,
    )


def _options(parts: SplitResult) -> dict[str, str]:
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        known = ", ".join(_OPTIONS)
        raise FieldError(_FIELD, f"unknown option {', '.join(unknown)} (known: {known})")
    return options


def _tls(options: dict[str, str]) -> Tls:
    return Tls(
        ca_certs=options.get("ssl_ca_certs"),
        certfile=options.get("ssl_certfile"),
        keyfile=options.get("ssl_keyfile"),
        verify=options.get("ssl_cert_reqs", "required").lower() != "none",
        check_hostname=options.get("ssl_check_hostname", "true").lower() not in _FALSE,
    )


def _db(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise FieldError(_FIELD, "the database must be an integer >= 0")
    return int(text)


def _host_port(location: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{location}")
        host, port = parts.hostname, default_port if parts.port is None else parts.port
    except ValueError:
        # urllib quotes what it read as a port; in a URL with an unescaped password that is it.
        host, port = None, 0
    if port not in _PORTS:
        raise FieldError(
            _FIELD, "the port must be an integer in 1..65535 (is the password percent-encoded?)"
        )
    return unquote(host or "localhost"), port
