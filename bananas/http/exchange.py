"""One request and its answer, below Starlette: bodies within limits, replies in one write.

What every route shares, fast or not: the head's fields, the query's, the body counted
while it comes, and answers with the headers that all answers carry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from bananas.http.problems import MEDIA_TYPE, Problem, at_parameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.types import Message, Receive, Scope, Send

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_WAIT_S: Final = 60.0
MAX_PAGE: Final = 1000
_MAX_PARAMETERS: Final = 32
_MAX_TEXT_CHARS: Final = 256

JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
_COMMON: Final = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]
_JSON_HEADERS: Final = [(b"content-type", JSON), *_COMMON]

Headers = dict[bytes, bytes]


class ClientGoneError(Exception):
    """The connection ended before the request did: nobody is left to answer."""


# --- the head -----------------------------------------------------------------------------------


def media_type(headers: Headers) -> bytes:
    """Return the media type of the body, without its parameters, in lower case."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def check_encoding(headers: Headers) -> None:
    """Refuse encoded bodies: what a small one unfolds to cannot be told beforehand.

    Raises:
        Problem: 415.
    """
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding not in (b"", b"identity"):
        raise Problem(
            "unsupported-encoding",
            "send the body without Content-Encoding",
            headers={"accept-encoding": "identity"},
        )


def check_media_type(headers: Headers, *allowed: bytes) -> None:
    """Refuse a body of another media type, or of none.

    A browser sends `text/plain`, forms and untyped bodies across origins without asking:
    so none of them is JSON here.

    Raises:
        Problem: 415.
    """
    if media_type(headers) not in allowed:
        names = ", ".join(name.decode() for name in allowed)
        raise Problem("unsupported-media-type", f"Content-Type must be {names}")


# --- the query ----------------------------------------------------------------------------------


class Query:
    """The query's parameters; each is asked for once, and what nobody asked for is refused."""

    __slots__ = ("_left",)

    def __init__(self, query_string: bytes) -> None:
        """Split the query.

        Raises:
            Problem: 400; not UTF-8, a parameter twice, or more than 32.
        """
        self._left: dict[str, str] = {}
        if not query_string:
            return
        try:
            pairs = parse_qsl(
                query_string.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_PARAMETERS,
            )
        except ValueError:
            raise Problem("malformed-request", "the query cannot be read") from None
        for name, value in pairs:
            if name in self._left:
                raise at_parameter(_shown(name), "must be given once")
            self._left[name] = value

    def text(self, name: str) -> str | None:
        """Return a text of 1 to 256 characters, None when absent."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not 1 <= len(value) <= _MAX_TEXT_CHARS or "\0" in value:
            raise at_parameter(
                name, f"must have 1 to {_MAX_TEXT_CHARS} characters, none of them NUL"
            )
        return value

    def flag(self, name: str) -> bool:
        """Return a truth value; absent is false."""
        value = self._left.pop(name, "false")
        if value in ("1", "true"):
            return True
        if value in ("0", "false"):
            return False
        raise at_parameter(name, "must be one of true, false, 1, 0")

    def seconds(self, name: str) -> float:
        """Return a time to wait, 0 to 60 s; absent is 0."""
        value = self._left.pop(name, "0")
        try:
            # float() would take "1_0", " 1" and other alphabets' digits
            seconds = float(value) if value.isascii() and "_" not in value else math.nan
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= MAX_WAIT_S or value != value.strip():
            raise at_parameter(name, f"must be a number of seconds, 0 to {MAX_WAIT_S:g}")
        return seconds

    def count(self, name: str, default: int, most: int = MAX_PAGE) -> int:
        """Return a count from 1 to `most`."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        if value.isascii() and value.isdigit() and len(value) <= len(str(most)):
            count = int(value)
            if 1 <= count <= most:
                return count
        raise at_parameter(name, f"must be an integer, 1 to {most}")

    def done(self) -> None:
        """Refuse what is left: a filter with a typing error must not select everything.

        Raises:
            Problem: 400, naming the parameter.
        """
        for name in self._left:
            raise at_parameter(_shown(name), "is not a parameter of this route")


def _shown(name: str) -> str:
    """Return a parameter's name as a response may show it."""
    return ascii(name[:64])[1:-1]


# --- the body -----------------------------------------------------------------------------------


async def read_body(receive: Receive, headers: Headers, max_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        Problem: 413; more than `max_bytes`, whatever Content-Length says.
        ClientGoneError: The connection ended first.
    """
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = [body]
        size = len(body)
        while message.get("more_body"):
            if size > max_bytes:
                raise _too_large(max_bytes)
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        body = b"".join(parts)
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _too_large(max_bytes: int) -> Problem:
    return Problem("body-too-large", f"the limit is {max_bytes} bytes", limit_bytes=max_bytes)


async def read_nothing(receive: Receive) -> None:
    """Read the body of a request that should have none.

    Raises:
        Problem: 400; there is one.
        ClientGoneError: The connection ended first.
    """
    message = await receive()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        if message.get("body"):
            raise Problem("malformed-request", "this route takes no body")
        if not message.get("more_body"):
            return
        message = await receive()


# --- the answer ---------------------------------------------------------------------------------


WHOLE_REPLY: Final = "bananas.http.whole"
"""Our own ASGI extension: a function that answers a request in one write."""

CLOSED: Final = "bananas.http.closed"
"""Another: a function that tells whether the connection is closed, or about to be."""

Fields = list[tuple[bytes, bytes]]
WholeReply = Callable[[int, Fields, bytes], bool]
_NONE: Final[dict[str, Any]] = {}


class BrokenOffError(Exception):
    """An answer that had begun cannot be ended properly: the connection is closed."""


class Answer:
    """An ASGI send that holds the head back for its body, so that both leave in one write."""

    __slots__ = ("_closed", "_head", "_to_server", "_whole", "begun")

    def __init__(self, scope: Scope, send: Send) -> None:
        """Answer the request of this scope."""
        self._to_server = send
        extensions = scope.get("extensions", _NONE)
        self._whole: WholeReply | None = extensions.get(WHOLE_REPLY)
        self._closed: Callable[[], bool] | None = extensions.get(CLOSED)
        self._head: Message | None = None
        self.begun = False

    async def _send(self, message: Message) -> None:
        try:
            await self._to_server(message)
        except RuntimeError:
            # A reset closes the transport a moment before the server hears of it.
            if self._closed is not None and self._closed():
                raise ClientGoneError from None
            raise

    async def __call__(self, message: Message) -> None:
        """Take the next message of the answer."""
        head = self._head
        if head is None:
            if not self.begun:
                self._head = message
                return
        else:
            self._head = None
            self.begun = True
            if (
                self._whole is not None
                and not message.get("more_body")
                and any(name == b"content-length" for name, _ in head["headers"])
                and self._whole(head["status"], head["headers"], message.get("body", b""))
            ):
                return
            await self._send(head)
        await self._send(message)

    async def reply(self, status: int, headers: Fields, body: bytes) -> None:
        """Answer with a whole body."""
        self.begun = True
        headers.append((b"content-length", b"%d" % len(body)))
        if self._whole is None or not self._whole(status, headers, body):
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body})

    async def reply_json(self, status: int, body: bytes, location: bytes | None = None) -> None:
        """Answer with JSON."""
        headers = _JSON_HEADERS.copy()
        if location is not None:
            headers.append((b"location", location))
        await self.reply(status, headers, body)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem; what is left of the request is thrown away by the server.

        Raises:
            BrokenOffError: Another answer had begun already.
        """
        if self.begun:
            raise BrokenOffError(problem.kind)
        self._head = None
        more = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
        await self.reply(problem.status, common_headers(MEDIA_TYPE, more), problem.body())


def headers_of(scope: Scope) -> Headers:
    """Return the head's fields by lower-case name; of one given twice the last counts."""
    return dict(scope["headers"])


def common_headers(content_type: bytes, more: Iterable[tuple[bytes, bytes]] = ()) -> Fields:
    """Return the head of an answer that streams."""
    return [(b"content-type", content_type), *_COMMON, *more]


def plain_headers(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the headers that all answers carry, in Starlette's form."""
    return {name.decode(): value.decode() for name, value in _COMMON} | dict(more or {})
