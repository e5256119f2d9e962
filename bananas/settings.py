"""Settings: one frozen object, read and validated once at the edge, then passed in.

Each field carries its own reader and its one-line meaning, so the environment, flags,
`[tool.bananas]`, the README's table and the checks all come from one place. Every wrong
value and every contradiction is reported in one `SettingsError`, by variable name; a
secret is never part of a message or a repr.
"""

# ruff: noqa: RUF009 - `_setting` is a `field` with metadata, made once and never shared
from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from bananas.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

WorkerMode = Literal["default", "thin", "specialized", "job-specialized", "scheduler-only"]
Priority = Literal["high", "normal", "low"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]
LogFormat = Literal["json", "text"]
RoutingOrder = Literal["key", "priority"]
Durability = Literal["memory", "fsync", "replica"]

_PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")
_PREFIX: Final = "BANANAS_"

TOOL_VARIABLES: Final = frozenset(
    {
        "BANANAS_APP",  # the default of the commands' APP argument
        "BANANAS_FAIL",  # fail points of the test-suite
        "BANANAS_PURE",  # run, or build, without the compiled core
        "BANANAS_REQUIRE_EXT",  # a build without the compiled core is an error
    }
)
"""Variables under our prefix that are not settings."""

# The commands' own options, and the tests.
_TOOL_PREFIXES: Final = ("BANANAS_CLI_", "BANANAS_TEST_")

# Kubernetes sets these for a service called `bananas` or `bananas-…` (BANANAS_SERVICE_HOST,
# BANANAS_PORT_6379_TCP_ADDR …); BANANAS_PORT and BANANAS_API_PORT are told by their value.
_SERVICE_LINK: Final = re.compile(
    r"BANANAS_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_SERVICE_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://.*")


# --- secrets ----------------------------------------------------------------------------------


class Secret:
    """A text that prints as `***` wherever it is shown; `reveal()` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Keep the text."""
        self._text = text

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._text

    def __repr__(self) -> str:
        """Hide the text."""
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        """Compare in a time that does not depend on where the texts differ."""
        from hmac import compare_digest  # noqa: PLC0415 - asked for rarely

        return isinstance(other, Secret) and compare_digest(
            self._text.encode(), other._text.encode()
        )

    def __hash__(self) -> int:
        """Agree with `__eq__`."""
        return hash((Secret, self._text))


_SECRET_QUERY: Final = re.compile(r"(?i)([?&][^=&]*(?:passw|secret|token)[^=&]*=)[^&]*")


def redacted_url(url: str) -> str:
    """Return the URL with its password, and any secret in its query, as `***`.

    Works on malformed URLs too: everything before the last `@` counts as credentials,
    so a password with an unescaped `/`, `?` or `@` does not slip through.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    credentials, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        rest = f"{user}:***@{place}" if colon else f"***@{place}"
    return scheme + mark + _SECRET_QUERY.sub(r"\1***", rest)


def is_cluster(url: str | None) -> bool:
    """Tell whether the URL names the nodes of a cluster."""
    return url is not None and url.partition("://")[0].endswith("+cluster")


# --- durations and sizes ----------------------------------------------------------------------

# Per second, not seconds per unit, for the short ones: a division is rounded correctly.
_PER_SECOND: Final = {"us": 1_000_000, "µs": 1_000_000, "ms": 1_000}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|µs|ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_BYTES: Final = {
    "b": 1,
    "kb": 10**3,
    "kib": 2**10,
    "mb": 10**6,
    "mib": 2**20,
    "gb": 10**9,
    "gib": 2**30,
}
_SIZE: Final = re.compile(r"([0-9]{1,18})(\.[0-9]{1,9})? ?([A-Za-z]*)")


def parse_duration(text: str) -> float:
    """Return the seconds of a duration: `500ms`, `5s`, `1h30m`, `7d`; `0` needs no unit.

    Raises:
        ValueError: Not of this form. A bare number is refused: its unit would be a guess.
    """
    text = text.strip()
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError("must be a duration such as 500ms, 5s, 5m or 1h")
    total_s = math.fsum(
        float(number) / _PER_SECOND[unit] if unit in _PER_SECOND else float(number) * _SECONDS[unit]
        for number, unit in _DURATION_PART.findall(text)
    )
    if not math.isfinite(total_s):
        raise ValueError("must be a duration such as 500ms, 5s, 5m or 1h")
    return total_s


def format_duration(seconds: float) -> str:
    """Return the shortest text that `parse_duration` reads back as exactly these seconds."""
    if seconds == 0:
        return "0"
    if seconds >= 2 * _SECONDS["d"] and seconds % _SECONDS["d"] == 0:
        return f"{int(seconds // _SECONDS['d'])}d"
    for unit in ("h", "m", "s"):
        if seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    millis = round(seconds * 1_000)
    if millis > 0 and millis / 1_000 == seconds:
        return f"{millis}ms"
    from decimal import Decimal  # noqa: PLC0415 - only for what no unit divides

    return f"{Decimal(repr(seconds)):f}s"


def parse_size(text: str) -> int:
    """Return the bytes of a size: `512KiB`, `1MiB`, `64MB`; a bare integer is bytes.

    KB, MB, GB are powers of 1,000; KiB, MiB, GiB of 1,024; case does not matter.

    Raises:
        ValueError: Not of this form, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _BYTES.get((match[3] or "b").lower()) if match else None
    if match is None or factor is None:
        raise ValueError("must be a size such as 65536, 512KiB, 1MiB or 64MB")
    fraction = match[2] or ".0"
    scale: int = 10 ** (len(fraction) - 1)
    size, left = divmod(int(match[1] + fraction[1:]) * factor, scale)
    if left:
        raise ValueError("must be a whole number of bytes")
    return size


def format_size(size_bytes: int) -> str:
    """Return the shortest text that `parse_size` reads back as exactly this size."""
    if size_bytes == 0:
        return "0"
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "KB"):
        count, left = divmod(size_bytes, _BYTES[unit.lower()])
        if not left:
            return f"{count}{unit}"
    return f"{size_bytes}B"


# --- readers: one a kind of value -------------------------------------------------------------

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Reader(Protocol[T_co]):
    """Turns text, or a typed value, into a valid value, and a value into text."""

    secret: bool
    """The raw value may hold a secret: no message quotes it."""

    def read(self, raw: object) -> T_co:
        """Return the value, or raise ValueError with the rule that the raw one broke."""
        raise NotImplementedError

    def show(self, value: object) -> str:
        """Return the value as one would write it in the environment."""
        raise NotImplementedError


class _Plain:
    """What most readers share."""

    secret = False

    def show(self, value: object) -> str:
        return str(value)


class _Integer(_Plain):
    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def read(self, raw: object) -> int:
        value = raw
        if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", raw.strip(), re.ASCII):
            value = int(raw)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be an integer")  # noqa: TRY004 - readers raise ValueError
        if not self.low <= value <= self.high:
            raise ValueError(f"must be {self.low} to {self.high}")
        return value


class _Number(_Plain):
    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def read(self, raw: object) -> float:
        value = math.nan
        if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", raw.strip()):
            value = float(raw)
        elif isinstance(raw, int | float) and not isinstance(raw, bool):
            value = _float(raw)
        if not self.low <= value <= self.high:
            raise ValueError(f"must be a number from {self.low:g} to {self.high:g}")
        return value

    def show(self, value: object) -> str:
        return f"{value:g}"


class _Duration(_Plain):
    """Seconds, from text with a unit or from a number; `zero` says what 0 means, if allowed."""

    def __init__(self, low_s: float, high_s: float, *, zero: bool = False) -> None:
        self.low_s, self.high_s, self.zero = low_s, high_s, zero

    def read(self, raw: object) -> float:
        if isinstance(raw, str):
            value_s = parse_duration(raw)
        elif isinstance(raw, int | float) and not isinstance(raw, bool):
            value_s = _float(raw)
        else:
            raise ValueError("must be a duration such as 500ms, 5s, 5m or 1h")  # noqa: TRY004
        if self.zero and value_s == 0:
            return 0.0
        if not self.low_s <= value_s <= self.high_s:
            least = ("0 or " if self.zero else "") + format_duration(self.low_s)
            raise ValueError(f"must be {least} to {format_duration(self.high_s)}")
        return value_s

    def show(self, value: object) -> str:
        return format_duration(cast("float", value))


class _Size(_Plain):
    def __init__(self, low_bytes: int, high_bytes: int, *, zero: bool = False) -> None:
        self.low_bytes, self.high_bytes, self.zero = low_bytes, high_bytes, zero

    def read(self, raw: object) -> int:
        value = parse_size(raw) if isinstance(raw, str) else raw
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be a size such as 65536, 512KiB, 1MiB or 64MB")  # noqa: TRY004
        if self.zero and value == 0:
            return 0
        if not self.low_bytes <= value <= self.high_bytes:
            least = ("0 or " if self.zero else "") + format_size(self.low_bytes)
            raise ValueError(f"must be {least} to {format_size(self.high_bytes)}")
        return value

    def show(self, value: object) -> str:
        return format_size(cast("int", value))


class _Boolean(_Plain):
    WORDS: Final = {
        **dict.fromkeys(("true", "1", "yes", "on"), True),
        **dict.fromkeys(("false", "0", "no", "off"), False),
    }

    def read(self, raw: object) -> bool:
        value = self.WORDS.get(raw.strip().lower()) if isinstance(raw, str) else raw
        if not isinstance(value, bool):
            raise ValueError("must be true or false (or 1/0, yes/no, on/off)")  # noqa: TRY004
        return value

    def show(self, value: object) -> str:
        return "true" if value else "false"


class _Maybe(_Plain):
    """A value or None, which stands for what `absent` says."""

    def __init__(self, inner: _Reader[Any], absent: str) -> None:
        self.inner, self.absent = inner, absent
        self.secret = inner.secret

    def read(self, raw: object) -> Any:  # noqa: ANN401 - the inner reader's type, or None
        return None if raw is None else self.inner.read(raw)

    def show(self, value: object) -> str:
        return self.absent if value is None else self.inner.show(value)


class _Choice(_Plain):
    def __init__(self, *options: str, aliases: Mapping[str, str] | None = None) -> None:
        self.options = options
        self.aliases = aliases or {}

    def read(self, raw: object) -> Any:  # noqa: ANN401 - the field's Literal
        word = raw.strip().lower() if isinstance(raw, str) else None
        word = self.aliases.get(word, word) if word is not None else None
        if word not in self.options:
            raise ValueError(f"must be one of {', '.join(self.options)}")
        return word


class _Pattern(_Plain):
    def __init__(self, pattern: str, rule: str) -> None:
        self.pattern, self.rule = re.compile(pattern), rule

    def read(self, raw: object) -> str:
        text = raw.strip() if isinstance(raw, str) else ""
        if not self.pattern.fullmatch(text):
            raise ValueError(self.rule)
        return text


class _Names(_Plain):
    """A comma-separated list, or an array, of names without repetition, in the order given."""

    def __init__(self, each: _Reader[str], *, empty: bool) -> None:
        self.each, self.empty = each, empty

    def read(self, raw: object) -> tuple[Any, ...]:
        if isinstance(raw, str):
            raw = [part for part in map(str.strip, raw.split(",")) if part]
        if not isinstance(raw, list | tuple):
            raise ValueError("must be a comma-separated list")  # noqa: TRY004
        names: list[str] = []
        for part in cast("list[object]", raw):
            try:
                name = self.each.read(part)
            except ValueError as problem:
                raise ValueError(f"{_quoted(part)} {problem}") from None
            if name in names:
                raise ValueError(f"names {_quoted(name)} twice")
            names.append(name)
        if not names and not self.empty:
            raise ValueError("must name at least one")
        return tuple(names)

    def show(self, value: object) -> str:
        return ",".join(cast("tuple[str, ...]", value)) or "none"


class _Procs(_Plain):
    def read(self, raw: object) -> Any:  # noqa: ANN401 - int | Literal["auto"]
        if isinstance(raw, str) and raw.strip().lower() == "auto":
            return "auto"
        try:
            return _Integer(1, 1_024).read(raw)
        except ValueError:
            raise ValueError("must be auto or an integer from 1 to 1024") from None


class _Folder(_Plain):
    def read(self, raw: object) -> Path:
        if isinstance(raw, str) and "\0" not in raw:
            raw = Path(raw.strip())
        if not isinstance(raw, Path):
            raise ValueError("must be the path of a folder")  # noqa: TRY004
        try:
            return Path(os.path.abspath(raw.expanduser()))  # noqa: PTH100 - also folds ".."
        except RuntimeError:
            raise ValueError("names a home folder that does not exist") from None


class _File(_Plain):
    def read(self, raw: object) -> Path:
        try:
            return _Folder().read(raw)
        except ValueError as problem:
            raise ValueError(str(problem).replace("path of a folder", "path of a file")) from None


class _Token(_Plain):
    secret = True

    def read(self, raw: object) -> Secret:
        text = raw.reveal() if isinstance(raw, Secret) else raw
        text = text.strip() if isinstance(text, str) else ""
        # It travels in a header, and it is all that stands before an open port.
        if not re.fullmatch(r"[!-~]{16,512}", text):
            raise ValueError("must be 16 to 512 printable ASCII characters without spaces")
        return Secret(text)


SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
"""Of the addresses that `bananas.address` reads."""


class _Url(_Plain):
    """A Redis URL; messages never quote any part of it, for a wrong one may be all password."""

    secret = True

    def read(self, raw: object) -> str:
        text = raw.strip() if isinstance(raw, str) else ""
        scheme, mark, _ = text.partition("://")
        if not mark or scheme not in SCHEMES:
            raise ValueError(f"must begin with one of {', '.join(s + '://' for s in SCHEMES)}")
        if not text.isprintable() or " " in text:
            raise ValueError("must not hold spaces or control characters")
        try:
            parts = urlsplit(text)
        except ValueError:
            raise ValueError("is not a well-formed URL") from None
        _, _, hosts = parts.netloc.rpartition("@")
        if scheme == "unix":
            if not parts.path.startswith("/") or hosts:
                raise ValueError("must name an absolute path, as in unix:///run/redis.sock")
            return text
        several = scheme.endswith(("+sentinel", "+cluster"))
        for host in hosts.split(",") if several else (hosts,):
            self._check_host(host, required=several)
        self._check_path(scheme, parts.path.removeprefix("/"))
        return text

    def show(self, value: object) -> str:
        return redacted_url(cast("str", value))

    @staticmethod
    def _check_host(host: str, *, required: bool) -> None:
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:/@]*)(?::([0-9]{1,5}))?", host)
        if match is None or (match[2] and not 0 < int(match[2]) <= 65_535):  # noqa: PLR2004
            raise ValueError("must name its host as host or host:port, port 1 to 65535")
        if required and not match[1]:
            raise ValueError("must name its hosts as host:port,host:port")

    @staticmethod
    def _check_path(scheme: str, path: str) -> None:
        if scheme.endswith("+sentinel"):
            master, _, path = path.partition("/")
            if not master:
                raise ValueError("must name the master, as in redis+sentinel://host:26379/mymaster")
        if scheme.endswith("+cluster") and path not in ("", "0"):
            raise ValueError("must name no database: a cluster has only 0")
        if path and not re.fullmatch(r"[0-9]{1,5}", path):
            raise ValueError("must end with a database number, or nothing, after the host")


def _float(number: float) -> float:
    """Return the number as a float, infinity when it is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


_QUOTED_CHARS: Final = 60


def _quoted(raw: object) -> str:
    """Return a value fit for a message: one line, short, without URL credentials."""
    text = raw if isinstance(raw, str) else repr(raw)
    text = redacted_url(text) if "://" in text or "@" in text else text
    text = text if text.isprintable() else ascii(text)[1:-1]
    return f'"{text}"' if len(text) <= _QUOTED_CHARS else f'"{text[:_QUOTED_CHARS]}…"'


# --- the settings -----------------------------------------------------------------------------

# Set instead of a number, and replaced when the object is made: the default depends on the mode.
_BY_MODE: Final = cast("int", None)
_CONCURRENCY: Final = 10
_CONCURRENCY_THIN: Final = 5
_BUNCH_ENTRIES: Final = 1024
_SYNC_THREADS_MAX: Final = 32

_ROUTING_KEY: Final = _Pattern(
    r"[A-Za-z0-9_-]{1,64}", "must be 1 to 64 letters, digits, hyphens and underscores"
)
_TASK_NAME: Final = _Pattern(
    r"[A-Za-z0-9._:-]{1,128}", "must be 1 to 128 letters, digits and any of . _ : -"
)
_KEY_PREFIX: Final = _Pattern(
    r"(?=.{1,64}\Z)[A-Za-z0-9_.:-]*(\{[A-Za-z0-9_.:-]+\}[A-Za-z0-9_.:-]*)?",
    "must be 1 to 64 letters, digits and any of _ . : -, with at most one hash tag {…}",
)
_DEFAULT_PREFIX: Final = "bananas"
_HOST: Final = _Pattern(r"[A-Za-z0-9_.:%-]{1,253}", "must be a host name or an IP address")
_YEAR_S: Final = 366 * 86_400.0


def _default_data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the per-user data folder, by the XDG rules: a relative one is ignored."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(base):  # noqa: PTH117
        return Path(base, "bananas")
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111
    return Path(os.path.abspath(home), ".local/share/bananas")  # noqa: PTH100


def _setting(
    default: T, reader: _Reader[T], meaning: str, *, bare: bool = False, shown: str = ""
) -> T:
    """Declare a field: its default, reader, meaning, and whether the bare name counts too."""
    metadata = {"reader": reader, "meaning": meaning, "bare": bare, "shown": shown}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """Everything that can be set; seconds, bytes and counts as the names say.

    Built by `from_sources` at the edge, or directly in tests; both validate.

    Raises:
        SettingsError: Holds every wrong value and every contradiction.
    """

    redis_url: str | None = _setting(
        None,
        _Maybe(_Url(), "embedded server"),
        "Redis or Valkey: `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, "
        "`redis+cluster://`; unset, a private server is started",
        bare=True,
    )
    key_prefix: str = _setting(
        _DEFAULT_PREFIX,
        _KEY_PREFIX,
        "first part of every key; in a cluster with a hash tag: `{bananas}` unless set",
    )
    durability: Durability = _setting(
        "memory",
        _Choice("memory", "fsync", "replica"),
        "what a job must be in before it counts as accepted: the server's `memory`, its disk "
        "(`fsync`), or the memory of a `replica` too",
    )
    durability_timeout_s: float = _setting(
        5.0,
        _Duration(0.01, 20),
        "time until a job whose durability is not confirmed is reported as such",
    )
    durability_replicas: int = _setting(
        1, _Integer(1, 100), "replicas that must have a job, with `replica`"
    )
    data_dir: Path = field(
        default_factory=_default_data_dir,
        metadata={
            "reader": _Folder(),
            "meaning": "folder of the embedded server's data",
            "bare": False,
            "shown": "$XDG_DATA_HOME/bananas or ~/.local/share/bananas",
        },
    )

    api_host: str = _setting(
        "127.0.0.1", _HOST, "address the API listens on; beyond loopback it needs a token"
    )
    api_port: int = _setting(
        8080, _Integer(0, 65_535), "port the API listens on; 0 takes a free one", bare=True
    )
    api_token: Secret | None = _setting(
        None,
        _Maybe(_Token(), "none"),
        "bearer token that may do everything over the API, 16 characters or more",
    )
    api_tokens_file: Path | None = _setting(
        None,
        _Maybe(_File(), "none"),
        "file of bearer tokens with scopes, kept by `bananas token`",
    )
    api_procs: int = _setting(1, _Integer(1, 256), "API processes, sharing one port")

    worker_mode: WorkerMode = _setting(
        "default",
        _Choice("default", "thin", "specialized", "job-specialized", "scheduler-only"),
        "`default`, `thin`, `specialized`, `job-specialized` or `scheduler-only`",
        bare=True,
    )
    procs: int | Literal["auto"] = _setting(
        "auto", _Procs(), "worker processes; `auto` is one per core that this process may use"
    )
    worker_concurrency: int = _setting(
        _BY_MODE,
        _Maybe(_Integer(1, 10_000), f"{_CONCURRENCY} ({_CONCURRENCY_THIN} in thin mode)"),
        "jobs that one process runs at a time",
        bare=True,
    )
    worker_priorities: tuple[Priority, ...] = _setting(
        (),
        _Names(_Choice(*_PRIORITIES), empty=True),
        "priorities served, as in `high,normal`; needed by `specialized`",
        bare=True,
        shown="all",
    )
    worker_job_types: tuple[str, ...] = _setting(
        (),
        _Names(_TASK_NAME, empty=True),
        "task names served; needed by `job-specialized`",
        bare=True,
        shown="all",
    )
    worker_routing_keys: tuple[str, ...] = _setting(
        ("default",),
        _Names(_ROUTING_KEY, empty=False),
        "routing keys served, the first one first",
        bare=True,
    )
    routing_order: RoutingOrder = _setting(
        "key",
        _Choice("key", "priority"),
        "with several routing keys: `key` by key first, `priority` by priority first",
    )

    enable_scheduler: bool | None = _setting(
        None,
        _Maybe(_Boolean(), "true (false in specialized and job-specialized mode)"),
        "promote due jobs and run periodic ones here",
        bare=True,
    )
    scheduler_interval_s: float = _setting(
        1.0, _Duration(0.01, 3_600), "pause between two looks at the periodic jobs", bare=True
    )
    promote_interval_s: float = _setting(
        0.1,
        _Duration(0.01, 60),
        "pause between two looks for foreign jobs; up to 500ms while none come",
    )
    cron_scheduler_enabled: bool = _setting(
        True, _Boolean(), "run periodic jobs where the scheduler runs", bare=True
    )

    job_timeout_s: float = _setting(
        300.0, _Duration(0.001, _YEAR_S), "time a job may run unless its task says else", bare=True
    )
    hard_timeout_grace_s: float = _setting(
        5.0, _Duration(0.1, 3_600), "time after the timeout until the process is replaced"
    )
    max_retries: int = _setting(
        3, _Integer(0, 1_000), "runs of a job until it counts as failed", bare=True
    )
    poison_deaths: int = _setting(
        3, _Integer(1, 100), "process deaths that one job may cause until it is failed"
    )
    retry_base_s: float = _setting(1.0, _Duration(0.001, 86_400), "first step of the back-off")
    retry_factor: float = _setting(2.0, _Number(1, 100), "growth of the back-off from run to run")
    retry_cap_s: float = _setting(3_600.0, _Duration(0.001, _YEAR_S), "longest back-off")
    retry_jitter: float = _setting(
        0.1, _Number(0, 1), "share of the back-off that chance adds, at most"
    )

    result_backend_enabled: bool = _setting(
        False, _Boolean(), "keep the results of all tasks, not only of those that ask", bare=True
    )
    result_backend_ttl_success_s: float = _setting(
        3_600.0, _Duration(1, _YEAR_S), "time that a result is kept", bare=True
    )
    result_backend_ttl_failure_s: float = _setting(
        86_400.0, _Duration(1, _YEAR_S), "time that the result of a failed job is kept", bare=True
    )
    retention_completed_s: float = _setting(
        86_400.0,
        _Duration(1, _YEAR_S, zero=True),
        "time that the record of a completed job is kept; 0 deletes it at once",
    )
    retention_failed_s: float = _setting(
        604_800.0, _Duration(1, 10 * _YEAR_S), "time that the record of a failed job is kept"
    )

    shutdown_grace_s: float = _setting(
        30.0, _Duration(0, 86_400), "time for running jobs to end after SIGTERM"
    )
    lease_ttl_s: float = _setting(
        15.0, _Duration(1, 3_600), "time after which a silent process loses its jobs"
    )
    beat_interval_s: float = _setting(3.0, _Duration(0.1, 600), "pause between two lease beats")
    poll_interval_s: float = _setting(
        1.0, _Duration(0.01, 60), "longest wait for work when a wake-up was lost"
    )
    allow_eviction: bool = _setting(
        False, _Boolean(), "work on a server that may throw jobs away at `maxmemory`, too"
    )
    dequeue_batch: int = _setting(
        250, _Integer(1, 1_000), "most jobs that one call takes from the queue"
    )

    sync_threads: int = _setting(
        0,
        _Integer(0, 1_000),
        f"threads for `def` handlers; 0 = the concurrency, at most {_SYNC_THREADS_MAX}",
    )
    recycle_jobs: int = _setting(
        0, _Integer(0, 10**12), "replace a worker process after so many jobs; 0 = never"
    )
    recycle_rss_bytes: int = _setting(
        0,
        _Size(16 * 2**20, 2**50, zero=True),
        "replace a worker process that holds so much memory, and half more than a fresh one; "
        "0 = never",
    )

    max_payload_bytes: int = _setting(2**20, _Size(64, 256 * 2**20), "largest payload of one job")
    max_depth: int = _setting(64, _Integer(1, 250), "deepest nesting of a payload")
    max_batch: int = _setting(1_000, _Integer(1, 1_000), "most jobs in one script call")

    log_level: LogLevel = _setting(
        "info",
        _Choice("debug", "info", "warning", "error", "critical", aliases={"warn": "warning"}),
        "`debug`, `info`, `warning`, `error` or `critical`",
        bare=True,
    )
    log_format: LogFormat = _setting("json", _Choice("json", "text"), "`json` or `text`", bare=True)

    def __post_init__(self) -> None:
        """Validate every field and all of them together, and settle the mode's defaults."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        problems, values = _read_all(values, {name: _variable(name) for name in values}, {})
        if problems:
            raise SettingsError(problems)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_sources(
        cls,
        environ: Mapping[str, str],
        pyproject: Mapping[str, object] | None = None,
        **flags: object,
    ) -> Settings:
        """Return the settings of flags, else environment, else `[tool.bananas]`, else defaults.

        Args:
            environ: As `os.environ`. An empty value counts as not set; `BANANAS_<NAME>`
                wins over the bare name.
            pyproject: The parsed `pyproject.toml`, as `load_pyproject` returns it.
            **flags: By field name, or by the variable's name in lower case; None counts as
                not given. Text is read as in the environment.

        Raises:
            SettingsError: Holds every wrong value, unknown name and contradiction, under the
                name by which the user gave it.
            TypeError: A flag of an unknown name.
        """
        given = _Given()
        _take_pyproject(given, pyproject)
        _take_environ(given, environ)
        _take_flags(given, flags)
        values: dict[str, Any] = {
            item.name: given.values.get(item.name, item.default) for item in fields(cls)
        }
        if "data_dir" not in given.values:
            values["data_dir"] = _default_data_dir(environ)
        problems, values = _read_all(values, given.names, given.origins, given.broken)
        if given.problems or problems:
            raise SettingsError(given.problems + problems)
        return cls(**values)

    @property
    def proc_count(self) -> int:
        """Worker processes to run: `procs` resolved; 1 in thin, 0 in scheduler-only mode."""
        if self.worker_mode == "scheduler-only":
            return 0
        if self.procs == "auto":
            return 1 if self.worker_mode == "thin" else available_cores()
        return self.procs

    @property
    def priorities(self) -> tuple[Priority, ...]:
        """Priorities to serve, high first whatever the order given."""
        return tuple(p for p in _PRIORITIES if p in (self.worker_priorities or _PRIORITIES))

    @property
    def scheduler_enabled(self) -> bool:
        """Whether due and periodic jobs are moved from here: `enable_scheduler` resolved."""
        if self.enable_scheduler is None:
            return self.worker_mode not in ("specialized", "job-specialized")
        return self.enable_scheduler

    @property
    def sync_thread_count(self) -> int:
        """Threads for `def` handlers in one process: `sync_threads` resolved."""
        return self.sync_threads or min(self.worker_concurrency, _SYNC_THREADS_MAX)

    @property
    def begun_entries(self) -> int:
        """Jobs a worker process may have begun at once: its runners, and items of bunches."""
        return self.worker_concurrency + self.sync_thread_count + _BUNCH_ENTRIES

    def describe(self) -> dict[str, str]:
        """Return every setting by variable, as text fit to be shown: secrets are redacted."""
        return {
            _variable(item.name): item.metadata["reader"].show(getattr(self, item.name))
            for item in fields(self)
        }

    def __repr__(self) -> str:
        """Return the settings that differ from the defaults; no secret among them."""
        concurrency = _CONCURRENCY_THIN if self.worker_mode == "thin" else _CONCURRENCY
        defaults = {item.name: item.default for item in fields(self)}
        defaults |= {"data_dir": self.data_dir, "worker_concurrency": concurrency}
        changed = ", ".join(
            f"{item.name}={item.metadata['reader'].show(getattr(self, item.name))}"
            for item in fields(self)
            if getattr(self, item.name) != defaults[item.name]
        )
        return f"Settings({changed})"


# --- sources ----------------------------------------------------------------------------------


class _Given:
    """What the sources gave, the later over the earlier."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.names = {name: _variable(name) for name in _FIELDS}  # as the user wrote them
        self.origins: dict[str, str] = {}
        self.broken: set[str] = set()
        self.problems: list[tuple[str, str]] = []

    def put(self, name: str, value: object, *, variable: str, origin: str) -> None:
        self.values[name] = value
        self.names[name] = variable
        self.origins[name] = origin


def _variable(name: str) -> str:
    """Return the variable of a field: `job_timeout_s` is `BANANAS_JOB_TIMEOUT`."""
    return _PREFIX + _stem(name).upper()


def _stem(name: str) -> str:
    """Return a field's name without its unit, which the variable's value carries."""
    return name.removesuffix("_bytes").removesuffix("_s")


def _take_environ(given: _Given, environ: Mapping[str, str]) -> None:
    """Take the variables that are settings, and report those under our prefix that are not."""
    known: dict[str, str] = {}
    for name, item in _FIELDS.items():
        variable = _variable(name)
        known[variable] = name
        forms = (variable, variable.removeprefix(_PREFIX)) if item.metadata["bare"] else (variable,)
        for form in forms:
            text = environ.get(form, "").strip()
            if text and not (form.endswith("_PORT") and _SERVICE_LINK_VALUE.fullmatch(text)):
                given.put(name, text, variable=form, origin="")
                break
    for variable, text in environ.items():
        if (
            variable.startswith(_PREFIX)
            and variable not in known
            and variable not in TOOL_VARIABLES
            and not variable.startswith(_TOOL_PREFIXES)
            and not _SERVICE_LINK.fullmatch(variable)
            and not (variable.endswith("_PORT") and _SERVICE_LINK_VALUE.fullmatch(text))
        ):
            given.problems.append((variable, f"is not a setting{_nearest(variable, known)}"))


def _take_pyproject(given: _Given, pyproject: Mapping[str, object] | None) -> None:
    """Take `[tool.bananas]`; hyphens and underscores are the same in its keys."""
    tool = (pyproject or {}).get("tool")
    table = cast("dict[str, object]", tool).get("bananas") if isinstance(tool, dict) else None
    if table is None:
        return
    if not isinstance(table, dict):
        given.problems.append(("tool.bananas", "must be a table"))
        return
    known = {form: name for name in _FIELDS for form in (name, _stem(name))}
    for key, value in cast("dict[str, object]", table).items():
        form = key.replace("-", "_")
        if form not in known:
            given.problems.append(
                (f"tool.bananas.{key}", f"is not a setting{_nearest(form, known)}")
            )
            continue
        _put_typed(given, known[form], form, value, origin=" (in pyproject.toml)")


def _take_flags(given: _Given, flags: Mapping[str, object]) -> None:
    """Take the flags that were given."""
    known = {form: name for name in _FIELDS for form in (name, _stem(name))}
    for form, value in flags.items():
        if form not in known:
            raise TypeError(f"no setting is called {form!r}")
        if value is not None:
            _put_typed(given, known[form], form, value, origin=" (given as a flag)")


def _put_typed(given: _Given, name: str, form: str, value: object, *, origin: str) -> None:
    """Take a typed value; a bare number is no duration unless its name carries the unit."""
    given.broken.discard(name)
    given.put(name, value, variable=_variable(name), origin=origin)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name.endswith("_s") and form != name and is_number and value != 0:
        reason = f'needs a unit, as in "5m", or the name {name} for seconds{origin}'
        given.problems.append((_variable(name), reason))
        given.broken.add(name)


def _nearest(name: str, known: Mapping[str, str]) -> str:
    """Return a suggestion to end a message with, or nothing."""
    from difflib import get_close_matches  # noqa: PLC0415 - only for a mistake

    near = get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else ""


def load_pyproject(directory: Path | None = None) -> dict[str, object] | None:
    """Return the parsed `pyproject.toml` of the directory, or of its nearest parent that has one.

    Raises:
        SettingsError: The file cannot be read or is not TOML.
    """
    import tomllib  # noqa: PLC0415 - commands only

    here = (Path.cwd() if directory is None else directory).absolute()
    for folder in (here, *here.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            try:
                return tomllib.loads(path.read_text("utf-8"))
            except (OSError, ValueError) as problem:
                raise SettingsError([(str(path), str(problem))]) from None
    return None


# --- validation -------------------------------------------------------------------------------


def _read_all(
    values: Mapping[str, Any],
    names: Mapping[str, str],
    origins: Mapping[str, str],
    broken: set[str] | frozenset[str] = frozenset(),
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Return every problem and the valid values; a broken one is left at its default.

    Args:
        values: Raw values of every field.
        names: The variable to blame, by field.
        origins: What to add to a message about a field, where it was not the environment.
        broken: Fields already reported.
    """
    problems: list[tuple[str, str]] = []
    wrong = set(broken)
    read: dict[str, Any] = {}
    for name, item in _FIELDS.items():
        reader: _Reader[Any] = item.metadata["reader"]
        read[name] = item.default
        if name in wrong:
            continue
        try:
            read[name] = reader.read(values[name])
        except ValueError as problem:
            raw = "" if reader.secret else f", not {_quoted(values[name])}"
            problems.append((names[name], f"{problem}{raw}{origins.get(name, '')}"))
            wrong.add(name)
    if read["worker_concurrency"] is None:
        thin = read["worker_mode"] == "thin"
        read["worker_concurrency"] = _CONCURRENCY_THIN if thin else _CONCURRENCY
    if is_cluster(read["redis_url"]) and read["key_prefix"] == _DEFAULT_PREFIX:
        read["key_prefix"] = f"{{{_DEFAULT_PREFIX}}}"
    for first, second, reason in _contradictions(read, names.__getitem__):
        if first not in wrong and second not in wrong:
            problems.append((names[first], reason))
    return problems, read


def _cluster_contradictions(
    v: Mapping[str, Any], name: Callable[[str], str]
) -> Iterator[tuple[str, str, str]]:
    if is_cluster(v["redis_url"]) and "{" not in v["key_prefix"]:
        reason = (
            f"needs a hash tag when {name('redis_url')} names a cluster, as in "
            f'"{{{v["key_prefix"]}}}": all keys must lie in one slot'
        )
        yield "key_prefix", "redis_url", reason


def _contradictions(
    v: Mapping[str, Any], name: Callable[[str], str]
) -> Iterator[tuple[str, str, str]]:
    """Yield (field to blame, the other field, reason) for values that do not go together."""
    mode = v["worker_mode"]
    if mode == "specialized" and not v["worker_priorities"]:
        yield "worker_mode", "worker_priorities", f'"{mode}" needs {name("worker_priorities")}'
    if mode == "job-specialized" and not v["worker_job_types"]:
        yield "worker_mode", "worker_job_types", f'"{mode}" needs {name("worker_job_types")}'
    if mode != "job-specialized" and v["worker_job_types"]:
        reason = f'has no meaning when {name("worker_mode")} is "{mode}": only in "job-specialized"'
        yield "worker_job_types", "worker_mode", reason
    if mode in ("default", "thin", "scheduler-only") and v["worker_priorities"]:
        reason = f'has no meaning when {name("worker_mode")} is "{mode}": only in "specialized"'
        yield "worker_priorities", "worker_mode", f'{reason} and "job-specialized"'
    if mode in ("thin", "scheduler-only") and v["procs"] not in ("auto", 1):
        reason = f'must be 1 or auto when {name("worker_mode")} is "{mode}", not {v["procs"]}'
        yield "procs", "worker_mode", reason
    if mode == "scheduler-only" and v["enable_scheduler"] is False:
        reason = f'must not be false when {name("worker_mode")} is "{mode}": nothing would be left'
        yield "enable_scheduler", "worker_mode", reason
    yield from _cluster_contradictions(v, name)
    if v["lease_ttl_s"] <= 2 * v["beat_interval_s"]:
        reason = (
            f"must be more than twice {name('beat_interval_s')} "
            f"({format_duration(v['beat_interval_s'])}), not {format_duration(v['lease_ttl_s'])}: "
            "one late beat would lose the jobs"
        )
        yield "lease_ttl_s", "beat_interval_s", reason
    if v["retry_cap_s"] < v["retry_base_s"]:
        reason = f"must be at least {name('retry_base_s')} ({format_duration(v['retry_base_s'])})"
        yield "retry_cap_s", "retry_base_s", reason
    if v["api_token"] is None and v["api_tokens_file"] is None and not _is_loopback(v["api_host"]):
        reason = (
            f'"{v["api_host"]}" is open to the network: it needs {name("api_token")} '
            f"or {name('api_tokens_file')}"
        )
        yield "api_host", "api_token", reason


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


# --- what the settings mean here --------------------------------------------------------------


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the cores that this process may use: its affinity, cut by the container's quota.

    Args:
        cgroup: Where the control groups are mounted; both versions are read.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _cpu_quota(cgroup: Path) -> float | None:
    """Return the container's share in cores, None when it has no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / file).read_text("ascii") for file in files).split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # absent, or "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def settings_table() -> str:
    """Return the settings as a Markdown table; the README carries it between markers."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, item in _FIELDS.items():
        variable = _variable(name)
        forms = f"`{variable}`"
        if item.metadata["bare"]:
            forms += f", `{variable.removeprefix(_PREFIX)}`"
        default = item.metadata["shown"] or item.metadata["reader"].show(item.default)
        lines.append(f"| {forms} | {default} | {item.metadata['meaning']} |")
    return "\n".join(lines) + "\n"


_FIELDS: Final = {item.name: item for item in fields(Settings)}
