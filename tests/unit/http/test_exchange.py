"""Queries, bodies and answers, below any route."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.http.exchange import (
    WHOLE_REPLY,
    Answer,
    BrokenOffError,
    ClientGoneError,
    Query,
    check_encoding,
    check_media_type,
    common_headers,
    plain_headers,
    read_body,
    read_nothing,
)
from bananas.http.problems import Problem

if TYPE_CHECKING:
    from starlette.types import Message, Receive

SCOPE: dict[str, Any] = {"type": "http"}


def receiver(*messages: Message) -> Receive:
    """Return an ASGI receive that gives these messages."""
    left = list(messages)

    async def receive() -> Message:
        return left.pop(0)

    return receive


def part(body: bytes, *, more: bool = False) -> Message:
    """Return a part of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


# --- queries --------------------------------------------------------------------------------------


def test_a_query_gives_each_parameter_by_its_kind() -> None:
    """Texts, flags, seconds and counts are read; absent ones have their defaults."""
    query = Query(b"a=x%20y&b=1&c=true&d=2.5&e=7")
    assert query.text("a") == "x y"
    assert query.flag("b")
    assert query.flag("c")
    assert query.seconds("d") == 2.5
    assert query.count("e", 1) == 7
    assert query.text("f") is None
    assert not query.flag("f")
    assert query.seconds("f") == 0
    assert query.count("f", 3) == 3
    query.done()


@pytest.mark.parametrize(
    "query_string",
    [b"a=1&a=2", b"a=%ff", b"a=\xff", b"&".join(b"a%d=1" % n for n in range(33))],
    ids=["twice", "not-utf8", "raw-bytes", "too-many"],
)
def test_a_query_that_cannot_be_read_is_refused(query_string: bytes) -> None:
    """Parameters given twice, bytes that are no text, and floods are errors."""
    with pytest.raises(Problem) as caught:
        Query(query_string)
    assert caught.value.status == 400


def test_what_nobody_asked_for_is_refused_by_name() -> None:
    """A parameter that the route does not know is named, escaped and cut."""
    query = Query(b"%0d%0a" + b"x" * 200 + b"=1")
    with pytest.raises(Problem) as caught:
        query.done()
    assert caught.value.members["field"] == "\\r\\n" + "x" * 62


@given(st.text(max_size=20))
def test_seconds_are_finite_numbers_within_bounds(text: str) -> None:
    """Whatever is given as seconds, the result is 0 to 60, or a problem of that name."""
    query = Query(b"")
    query._left["s"] = text
    try:
        seconds = query.seconds("s")
    except Problem as raised:
        problem: Problem | None = raised
    else:
        problem = None
        assert 0 <= seconds <= 60
        assert text.strip() == text
    assert problem is None or problem.members["field"] == "s"


@given(st.text(max_size=20), st.integers(1, 1000))
def test_counts_are_integers_within_bounds(text: str, most: int) -> None:
    """Whatever is given as a count, the result is 1 to the most, or a problem of that name."""
    query = Query(b"")
    query._left["c"] = text
    try:
        count = query.count("c", 1, most)
    except Problem as raised:
        problem: Problem | None = raised
    else:
        problem = None
        assert 1 <= count <= most
    assert problem is None or problem.members["field"] == "c"


@pytest.mark.parametrize(
    ("text", "count"), [("0", None), ("1", 1), ("50", 50), ("51", None), ("99", None)]
)
def test_a_count_has_its_bounds(text: str, count: int | None) -> None:
    """The most of a route, not what has as many digits."""
    query = Query(b"c=" + text.encode())
    if count is None:
        with pytest.raises(Problem):
            query.count("c", 1, 50)
    else:
        assert query.count("c", 7, 50) == count


@pytest.mark.parametrize("text", ["", "x" * 257, "a\0b"])
def test_a_text_has_its_limits(text: str) -> None:
    """A text has 1 to 256 characters, none of them NUL."""
    query = Query(b"")
    query._left["t"] = text
    with pytest.raises(Problem):
        query.text("t")


# --- bodies ---------------------------------------------------------------------------------------


async def test_a_body_is_its_parts() -> None:
    """Parts are joined in order."""
    receive = receiver(part(b"ab", more=True), part(b"", more=True), part(b"c"))
    assert await read_body(receive, {}, 3) == b"abc"
    assert await read_body(receiver(part(b"abc")), {}, 3) == b"abc"


@pytest.mark.parametrize(
    "messages",
    [
        (part(b"abcd"),),
        (part(b"ab", more=True), part(b"cd")),
        (part(b"abcd", more=True),),  # nothing more is asked for
    ],
)
async def test_a_body_over_the_limit_is_refused(messages: tuple[Message, ...]) -> None:
    """One byte too many is 413, as soon as it has come."""
    with pytest.raises(Problem) as caught:
        await read_body(receiver(*messages), {}, 3)
    assert caught.value.status == 413


async def test_a_declared_length_is_looked_at_first() -> None:
    """A length over the limit is refused without reading."""
    with pytest.raises(Problem) as caught:
        await read_body(receiver(), {b"content-length": b"4"}, 3)
    assert caught.value.status == 413


@pytest.mark.parametrize("messages", [(GONE,), (part(b"a", more=True), GONE)])
async def test_a_caller_that_hangs_up_has_sent_no_body(messages: tuple[Message, ...]) -> None:
    """Half a body is none."""
    with pytest.raises(ClientGoneError):
        await read_body(receiver(*messages), {}, 3)


@pytest.mark.parametrize(
    ("messages", "raised"),
    [
        ((part(b""),), None),
        ((part(b"", more=True), part(b"")), None),
        ((part(b"x", more=True),), Problem),
        ((part(b"", more=True), part(b"x")), Problem),
        ((part(b"", more=True), GONE), ClientGoneError),
    ],
)
async def test_a_request_that_takes_no_body_has_none(
    messages: tuple[Message, ...], raised: type[Exception] | None
) -> None:
    """One byte of it is 400: whoever sends a body means something by it."""
    with contextlib.nullcontext() if raised is None else pytest.raises(raised):
        await read_nothing(receiver(*messages))


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"identity, gzip", b"x"])
def test_encodings_are_refused(encoding: bytes) -> None:
    """Any encoding but identity is 415."""
    check_encoding({b"content-encoding": b" Identity "})
    with pytest.raises(Problem) as caught:
        check_encoding({b"content-encoding": encoding})
    assert caught.value.status == 415


def test_media_types_are_compared_without_parameters() -> None:
    """Case and parameters do not matter; absence is refused."""
    check_media_type({b"content-type": b" APPLICATION/Json ;charset=utf-8"}, b"application/json")
    for headers in ({}, {b"content-type": b"application/jsonp"}):
        with pytest.raises(Problem) as caught:
            check_media_type(headers, b"application/json")
        assert caught.value.status == 415


# --- answers --------------------------------------------------------------------------------------


class Wire:
    """Where answers go."""

    def __init__(self) -> None:
        """Be a server that knows the extension and is willing."""
        self.messages: list[Message] = []
        self.whole: list[tuple[int, dict[bytes, bytes], bytes]] = []
        self.willing = True

    async def send(self, message: Message) -> None:
        """Take a message."""
        self.messages.append(message)

    def take_whole(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Take a whole answer, when willing."""
        if self.willing:
            self.whole.append((status, dict(fields), body))
        return self.willing

    def answer(self) -> Answer:
        """Return an answer to a server that knows the extension."""
        return Answer({"extensions": {WHOLE_REPLY: self.take_whole}}, self.send)


START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"1")],
}


async def test_a_head_and_its_whole_body_leave_together() -> None:
    """What comes as two messages is one call of the server's extension."""
    wire = Wire()
    answer = wire.answer()
    await answer(START)
    assert not answer.begun
    await answer({"type": "http.response.body", "body": b"x"})
    assert answer.begun
    assert wire.whole == [(200, {b"content-length": b"1"}, b"x")]
    assert wire.messages == []


async def test_a_body_in_parts_is_passed_on() -> None:
    """A body that streams goes message by message, its head first."""
    wire = Wire()
    answer = wire.answer()
    parts = [
        {"type": "http.response.body", "body": b"x", "more_body": True},
        {"type": "http.response.body", "body": b"y"},
    ]
    for message in (START, *parts):
        await answer(message)
    assert wire.messages == [START, *parts]
    assert wire.whole == []


async def test_an_answer_without_a_length_is_left_to_the_server() -> None:
    """A head that does not say how long its body is gets its chunked form from the server."""
    wire = Wire()
    answer = wire.answer()
    await answer({"type": "http.response.start", "status": 200, "headers": []})
    await answer({"type": "http.response.body", "body": b""})
    assert len(wire.messages) == 2
    assert wire.whole == []


@pytest.mark.parametrize("known", [True, False])
async def test_a_server_that_cannot_gets_two_messages(*, known: bool) -> None:
    """Without the extension, or when it declines, an answer goes the common way."""
    wire = Wire()
    wire.willing = False
    answer = wire.answer() if known else Answer(SCOPE, wire.send)
    await answer.reply_json(201, b"{}", b"/jobs/x")
    start, body = wire.messages
    assert start["status"] == 201
    assert (b"location", b"/jobs/x") in start["headers"]
    assert (b"content-length", b"2") in start["headers"]
    assert body["body"] == b"{}"


async def test_a_problem_replaces_a_head_that_was_held_back() -> None:
    """As long as nothing was sent, the answer can still become a problem."""
    wire = Wire()
    answer = wire.answer()
    await answer(START)
    await answer.refuse(Problem("not-found", "gone", headers={"x": "y"}))
    ((status, headers, _),) = wire.whole
    assert status == 404
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"x"] == b"y"


async def test_no_answer_is_kept_by_a_cache_or_guessed_at_by_a_browser() -> None:
    """Jobs change, and payloads are anybody's text; so JSON, problem, stream and Starlette's."""
    wire = Wire()
    await wire.answer().reply_json(200, b"{}")
    await wire.answer().refuse(Problem("not-found", "gone"))
    whole = [headers for _, headers, _ in wire.whole]
    plain = {name.encode(): value.encode() for name, value in plain_headers().items()}
    for headers in (*whole, dict(common_headers(b"text/plain")), plain):
        assert headers[b"cache-control"] == b"no-store"
        assert headers[b"x-content-type-options"] == b"nosniff"


async def test_a_problem_in_the_middle_breaks_off() -> None:
    """An answer that has begun cannot become a problem."""
    wire = Wire()
    answer = wire.answer()
    await answer(START)
    await answer({"type": "http.response.body", "body": b"x", "more_body": True})
    with pytest.raises(BrokenOffError):
        await answer.refuse(Problem("internal", "x"))
