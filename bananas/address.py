"""Where Redis is: the URL read into an address, its TLS, and Sentinel's answer.

The URL forms are redis-py's (`redis://`, `rediss://`, `unix://`) plus
`redis+sentinel://host:port,host:port/master[/db]` and its `rediss` twin. The parser is our own
because importing redis-py costs a worker some 190 ms of start-up. No error and no repr
of this module ever holds a password.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import hiredis

from bananas.errors import FieldError

DEFAULT_PORT: Final = 6379
DEFAULT_SENTINEL_PORT: Final = 26379
_PORTS: Final = range(1, 65536)
_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
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
    """One server, or the sentinels that know it; `path` set means a unix socket."""

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

    @property
    def label(self) -> str:
        """The address for people: no user, no password."""
        scheme = "rediss" if self.tls else "redis"
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        if self.sentinels:
            hosts = ",".join(f"{host}:{port}" for host, port in self.sentinels)
            return f"{scheme}+sentinel://{hosts}/{self.master_name}/{self.db}"
        return f"{scheme}://{self.host}:{self.port}/{self.db}"

    def auth(self) -> tuple[str, ...] | None:
        """Return the arguments of AUTH, or None when the URL names no one."""
        return _auth(self.username, self.password)


def _auth(username: str | None, password: str | None) -> tuple[str, ...] | None:
    if username:
        return ("AUTH", username, password or "")
    return ("AUTH", password) if password else None


def parse_url(url: str) -> Address:
    """Read a Redis URL.

    Args:
        url: User, password, host names and paths are percent-decoded; the database is the
            path or `?db=`, the latter wins, as in redis-py.

    Raises:
        FieldError: Of field `redis_url`; the rule names what is wrong without quoting the URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise FieldError(_FIELD, "not a URL") from None
    if parts.scheme not in _SCHEMES:
        raise FieldError(_FIELD, f"scheme must be one of {', '.join(_SCHEMES)}")
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


async def find_master(address: Address, timeout_s: float) -> Address:
    """Ask the sentinels, one after the other, where the master is now.

    Args:
        address: With `sentinels`; any other address is returned as it is.
        timeout_s: For each sentinel.

    Raises:
        ConnectionError: No sentinel answered, or none knows the master.
    """
    problems: list[str] = []
    for host, port in address.sentinels:
        try:
            async with asyncio.timeout(timeout_s):
                found = await _ask_sentinel(address, host, port)
        except (OSError, hiredis.HiredisError) as error:
            problems.append(f"{host}:{port} {str(error) or type(error).__name__}")
            continue
        if found is not None:
            return dataclasses.replace(address, host=found[0], port=found[1], sentinels=())
        problems.append(f"{host}:{port} does not know it")
    if not address.sentinels:
        return address
    raise ConnectionError(
        f'no sentinel found master "{address.master_name}": {"; ".join(problems)}'
    )


async def _ask_sentinel(address: Address, host: str, port: int) -> tuple[str, int] | None:
    context = address.tls.context() if address.tls else None
    stream, out = await asyncio.open_connection(host, port, ssl=context)
    try:
        commands: list[tuple[str, ...]] = [
            ("SENTINEL", "get-master-addr-by-name", address.master_name)
        ]
        auth = _auth(address.sentinel_username, address.sentinel_password)
        if auth is not None:
            commands.insert(0, auth)
        for command in commands:
            # The stub of hiredis asks for a tuple of exactly one item.
            out.write(hiredis.pack_command(command))  # type: ignore[arg-type]
        reader = hiredis.Reader(encoding="utf-8", notEnoughData=...)
        answers: list[object] = []
        while len(answers) < len(commands):
            data = await stream.read(65536)
            if not data:
                raise ConnectionError("closed the connection")
            reader.feed(data)
            while (answer := reader.gets()) is not ...:
                if isinstance(answer, hiredis.ReplyError):
                    # The code only: an unknown-command error quotes the arguments of AUTH.
                    raise ConnectionError(f"answered {str(answer).partition(' ')[0]}")
                answers.append(answer)
    finally:
        out.transport.abort()
    match answers[-1]:
        case [str(master_host), str(master_port)]:
            return master_host, int(master_port)
        case _:
            return None
