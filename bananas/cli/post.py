"""Rows over HTTP: chunk by chunk to POST /jobs/batch, repeated until each has its verdict."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, cast
from urllib.parse import urlsplit

from bananas.codec import decode_payload
from bananas.errors import BananasError, DecodeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATIENCE_S: Final = 60.0
"""How long a chunk is repeated while no row of it gets a verdict."""

_TIMEOUT_S: Final = 60.0
_SHORTEST_S: Final = 0.1
_LONGEST_S: Final = 5.0
_SHOWN_CHARS: Final = 300
_OK: Final = 200
_DENIED: Final = (401, 403)
_AGAIN: Final = (408, 425, 429, 500, 502, 503, 504)


class ApiUnavailableError(BananasError, ConnectionError):
    """The API does not answer, or has had no room for long."""


class ApiRefusedError(UsageError):
    """The API refuses what we ask, and would again."""


class Answer(NamedTuple):
    """The verdict on one row: `accepted`, `duplicate` or `rejected`, and why."""

    status: str
    field: str | None = None
    rule: str | None = None


_TAKEN: Final = Answer("accepted")
_ACCEPTED: Final = b'"status":"accepted"}'  # as the API writes it; else it is read as JSON


class _Again(Exception):  # noqa: N818 - no error yet
    """Try once more, not before `delay_s`, if it says so."""

    def __init__(self, why: str, delay_s: float | None = None) -> None:
        self.why = why
        self.delay_s = delay_s
        super().__init__(why)


class Poster:
    """A kept connection to the API."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        durability: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Take the API's address, with the path it is mounted at, and the bearer token.

        `durability` is that of lines that do not say; None = the API's setting.

        Raises:
            ApiRefusedError: The address is not one of HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ApiRefusedError("--url: must be http://host[:port] or https://…")
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.hostname, parts.port, timeout=_TIMEOUT_S)
        self._path = parts.path.rstrip("/") + "/jobs/batch"
        if durability is not None:
            self._path += f"?durability={durability}"
        self._headers = {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._label = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._patience_s = patience_s
        self._aborted = threading.Event()

    def abort(self) -> None:
        """Have `post`, which another thread is in, end soon with an error."""
        self._aborted.set()
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        """Do nothing: it connects when first used."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._connection.close()

    def post(self, lines: Sequence[bytes], took: Callable[[list[Answer]], object]) -> None:
        """Submit lines in order, until each has its verdict.

        Args:
            lines: Submissions with ids, so that repeating one is safe.
            took: Told of verdicts as they come, in order.

        Raises:
            ApiUnavailableError: No verdict came for too long.
            ApiRefusedError: The API will not take any.
        """
        done = 0
        pause_s = _SHORTEST_S
        until_s = time.monotonic() + self._patience_s
        while done < len(lines):
            answers: list[Answer] = []
            again: _Again | None = None
            try:
                self._send(lines[done:], answers)
            except _Again as reason:
                again = reason
            except (OSError, http.client.HTTPException) as error:
                again = _Again(f"{type(error).__name__}: {error}")
            if answers:
                took(answers)
                done += len(answers)
                pause_s, until_s = _SHORTEST_S, time.monotonic() + self._patience_s
            if again is None:
                continue
            self._connection.close()
            if self._aborted.is_set() or time.monotonic() > until_s:
                raise ApiUnavailableError(f"{self._label} takes no jobs: {again.why}")
            self._aborted.wait(min(_TIMEOUT_S, again.delay_s or pause_s))
            pause_s = min(2 * pause_s, _LONGEST_S)

    def _send(self, lines: Sequence[bytes], answers: list[Answer]) -> None:
        """Send lines once and add the verdicts that come.

        Raises:
            _Again: Not all have one.
            ApiRefusedError: None ever will.
        """
        body = b"\n".join(lines) + b"\n"
        self._connection.request("POST", self._path, body, self._headers)
        response = self._connection.getresponse()
        if response.status != _OK:
            self._judge_refusal(response, response.read())
        try:
            data = response.read()
        except http.client.IncompleteRead as broken:
            data = broken.partial.rpartition(b"\n")[0]
        for line in data.splitlines():
            if line.endswith(_ACCEPTED):
                answers.append(_TAKEN)
                continue
            members = self._members(line)
            if "line" not in members:  # a problem ends the answer
                raise _Again(str(members.get("detail") or members.get("title") or "broke off"))
            answers.append(Answer(members["status"], members.get("field"), members.get("rule")))
        if len(answers) < len(lines):
            raise _Again("the answer broke off")

    def _members(self, line: bytes) -> dict[str, Any]:
        try:
            found: object = decode_payload(line)
        except DecodeError:
            found = None
        if not isinstance(found, dict):
            raise ApiRefusedError(f"{self._label} does not answer as a bananas API does")
        return cast("dict[str, Any]", found)

    def _judge_refusal(self, response: http.client.HTTPResponse, body: bytes) -> None:
        """Raise what a status means."""
        try:
            found: object = decode_payload(body)
        except DecodeError:
            found = None
        problem = cast("dict[str, object]", found) if isinstance(found, dict) else {}
        why = str(problem.get("detail") or problem.get("title") or response.reason)[:_SHOWN_CHARS]
        if response.status in _AGAIN:
            asked = response.getheader("Retry-After") or ""
            raise _Again(f"{response.status} {why}", float(asked) if asked.isdigit() else None)
        error = ApiRefusedError(f"{self._label} answered {response.status}: {why}")
        if response.status in _DENIED:
            error.hint = "set BANANAS_API_TOKEN to a token that this API takes"
        raise error
