"""Bearer tokens with scopes: shown once, kept as digests in a file, looked up by id.

A token is `bn_<id>_<secret>`: the id is no secret and names the line of the file, the secret
has 256 bits. The file holds SHA-256 digests only, so that who reads it can do nothing with it:
a guess costs as much as a guess at the secret, which is why no slow hash is needed.
A file and not Redis: whoever may write to Redis must not thereby be able to make tokens.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final, cast

from bananas.errors import FieldError, SettingsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

VARIABLE: Final = "BANANAS_API_TOKENS_FILE"

_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_MAX_FILE_BYTES: Final = 1024 * 1024
_MAX_LABEL_CHARS: Final = 64
_match_token = re.compile(rb"bn_([0-9a-f]{12})_[A-Za-z0-9_-]{43}").fullmatch
_match_id = re.compile(r"[0-9a-f]{12}").fullmatch
_match_digest = re.compile(r"[0-9a-f]{64}").fullmatch
_match_scope = re.compile(r"read|admin|enqueue:[A-Za-z0-9_*?-]{1,64}").fullmatch
_SCOPE_RULE: Final = (
    "must be read, admin or enqueue:<routing key>, where * and ? stand for any characters"
)
_NO_DIGEST: Final = bytes(32)


class UnknownTokenError(UsageError, LookupError):
    """No token of this id is in the file."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do.

    Attributes:
        read: May look at everything, payloads included.
        admin: May do everything.
        queues: Globs of the routing keys that it may enqueue for.
    """

    read: bool = False
    admin: bool = False
    queues: tuple[str, ...] = ()

    @classmethod
    def of(cls, scopes: Iterable[str]) -> Grant:
        """Return what these scopes allow."""
        given = tuple(scopes)
        return cls(
            read="read" in given,
            admin="admin" in given,
            queues=tuple(s.removeprefix("enqueue:") for s in given if s.startswith("enqueue:")),
        )

    def allows(self, scope: str) -> bool:
        """Whether a route of this scope may be asked for.

        Args:
            scope: `read`, `enqueue` (for some queue at least) or `admin`.
        """
        if self.admin:
            return True
        return self.read if scope == "read" else bool(self.queues) and scope == "enqueue"

    def may_enqueue(self, routing_key: str) -> bool:
        """Whether jobs of this routing key may be submitted."""
        return self.admin or any(_glob(pattern)(routing_key) for pattern in self.queues)


@lru_cache(maxsize=256)
def _glob(pattern: str) -> Any:  # noqa: ANN401 - a bound fullmatch
    """Return what matches a glob; routing keys have no characters that a [set] would help with."""
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(char, re.escape(char)) for char in pattern)).fullmatch


ALL: Final = Grant(read=True, admin=True)
"""Of the one token that is a setting, and of who is let in without any."""


@dataclass(frozen=True, slots=True)
class Token:
    """One line of the file.

    Attributes:
        id: 12 hexadecimal digits.
        sha256: Digest of the whole token, hexadecimal.
        scopes: What it allows.
        created_at: Unix seconds.
        expires_at: Unix seconds; None = never.
        label: For people.
    """

    id: str
    sha256: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None = None
    label: str = ""

    def expired(self, now_s: float) -> bool:
        """Whether it has had its time."""
        return self.expires_at is not None and now_s >= self.expires_at

    def to_dict(self) -> dict[str, Any]:
        """Return its line's members."""
        return {
            "id": self.id,
            "sha256": self.sha256,
            "scopes": list(self.scopes),
            "created_at": _shown_time(self.created_at),
            "expires_at": None if self.expires_at is None else _shown_time(self.expires_at),
            "label": self.label,
        }


def make(
    scopes: Iterable[str], *, now_s: float, expires_at: float | None = None, label: str = ""
) -> tuple[str, Token]:
    """Return a new token, to be shown once, and what is kept of it.

    Raises:
        FieldError: A scope or the label breaks its rule.
    """
    given = check_scopes(scopes)
    if len(label) > _MAX_LABEL_CHARS or not label.isprintable():
        raise FieldError("label", f"must have at most {_MAX_LABEL_CHARS} printable characters")
    token_id = secrets.token_hex(_ID_BYTES)
    text = f"bn_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    expiry = None if expires_at is None else int(expires_at)
    kept = Token(token_id, sha256(text.encode()).hexdigest(), given, int(now_s), expiry, label)
    return text, kept


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes, each once.

    Raises:
        FieldError: There is none, or one that is no scope.
    """
    given = tuple(dict.fromkeys(scopes))
    if not given or not all(map(_match_scope, given)):
        raise FieldError("scope", _SCOPE_RULE)
    return given


# --- the file -----------------------------------------------------------------------------------


def read_tokens(path: Path) -> list[Token]:
    """Return the tokens of a file, in its order.

    Raises:
        SettingsError: It cannot be read, is not one, or others may write to it.
    """
    try:
        with path.open("rb") as file:
            # Of the open file: the name may lead elsewhere a moment later.
            if os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise _wrong("others may write to the file: chmod 600 it")
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = "names no file: make one with `bananas token create`"
        if not isinstance(error, FileNotFoundError):
            reason = f"cannot be read: {error.strerror}"
        raise _wrong(reason) from None
    if len(data) > _MAX_FILE_BYTES:
        raise _wrong(f"the file has more than {_MAX_FILE_BYTES} bytes")
    tokens: dict[str, Token] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token = _parsed(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            raise _wrong(f"line {number} of the file is no token") from None
        if token.id in tokens:
            raise _wrong(f"line {number} of the file has the id of another")
        tokens[token.id] = token
    return list(tokens.values())


def _wrong(reason: str) -> SettingsError:
    return SettingsError([(VARIABLE, reason)])


def _parsed(value: object) -> Token:
    """Return what a line stands for, or raise an error of some kind."""
    if not isinstance(value, dict):
        raise TypeError("no object")
    members = cast("dict[str, Any]", value)
    label, expires_at = members.get("label", ""), members.get("expires_at")
    token_id, digest, scopes = members["id"], members["sha256"], members["scopes"]
    if not _match_id(token_id) or not _match_digest(digest):
        raise ValueError("id or digest")
    if not isinstance(label, str) or not isinstance(scopes, list):
        raise TypeError("label or scopes")
    return Token(
        token_id,
        digest,
        check_scopes(cast("list[str]", scopes)),
        _read_time(members["created_at"]),
        None if expires_at is None else _read_time(expires_at),
        label,
    )


def _shown_time(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_time(text: str) -> int:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("no offset")
    return int(at.timestamp())


@contextmanager
def changing(path: Path) -> Generator[list[Token]]:
    """Give the tokens of a file to change in place; written back whole when the block ends.

    A reader sees the old file or the new one; writers wait for each other.

    Raises:
        SettingsError: The file is not one, or cannot be written.
    """
    import fcntl  # noqa: PLC0415 - the command's only

    target = path.resolve()  # what a link leads to is replaced, not the link
    try:
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _wrong(f"the file's folder cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        tokens = read_tokens(target) if target.exists() else []
        yield tokens
        try:
            _replace(target, tokens)
            os.fsync(folder)
        except OSError as error:
            raise _wrong(f"cannot be written: {error.strerror}") from None
    finally:
        os.close(folder)


def _replace(target: Path, tokens: list[Token]) -> None:
    text = "".join(json.dumps(token.to_dict(), ensure_ascii=False) + "\n" for token in tokens)
    # Made for its owner alone (0600); whom the API runs as must be that owner.
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if target.exists():
                kept = target.stat()
                os.fchmod(file.fileno(), stat.S_IMODE(kept.st_mode))
                with suppress(OSError):  # only root may give files away
                    os.fchown(file.fileno(), kept.st_uid, kept.st_gid)
        os.replace(name, target)  # noqa: PTH105 - a name as mkstemp gives it
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - likewise
        raise


def position(tokens: list[Token], token_id: str) -> int:
    """Return where the token of an id stands.

    Raises:
        UnknownTokenError: Nowhere.
    """
    for index, token in enumerate(tokens):
        if token.id == token_id:
            return index
    raise UnknownTokenError(f'there is no token of the id "{token_id[:_MAX_LABEL_CHARS]}"')


# --- who it is ----------------------------------------------------------------------------------


class Keyring:
    """Tells what the bearer of a text may do."""

    def __init__(self, single: str | None, tokens: Iterable[Token] = ()) -> None:
        """Know one token that may do everything, if given, and those with scopes."""
        self._single = None if single is None else sha256(single.encode()).digest()
        self.replace(tokens)

    def replace(self, tokens: Iterable[Token]) -> None:
        """Know these tokens with scopes from now on, and no others."""
        self._by_id = {
            token.id.encode(): (bytes.fromhex(token.sha256), token, Grant.of(token.scopes))
            for token in tokens
        }

    def grant_of(self, credentials: bytes, now_s: float) -> Grant | None:
        """Return what the bearer may do; None = unknown, expired or malformed, all alike."""
        digest = sha256(credentials).digest()
        if self._single is not None and compare_digest(digest, self._single):
            return ALL
        match = _match_token(credentials)
        found = None if match is None else self._by_id.get(match[1])
        # A digest is compared whether the id is known or not: both take the same time.
        matches = compare_digest(digest, _NO_DIGEST if found is None else found[0])
        if found is None or not matches or found[1].expired(now_s):
            return None
        return found[2]
