"""Rows over HTTP: repeated while it may help, given up when it will not."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from bananas.cli.post import Answer, ApiRefusedError, ApiUnavailableError, Poster

if TYPE_CHECKING:
    from collections.abc import Iterator

LINES = [b'{"id":"a"}', b'{"id":"b"}', b'{"id":"c"}']


class Api:
    """A stand-in that plays the answers it was given, and keeps what it was asked."""

    def __init__(self) -> None:
        """Listen; `play` says what to answer."""
        self.play: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, str | None, int]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                api.asked.append((self.path, self.headers["Authorization"], body.count(b"\n")))
                status, headers, answer = api.play.pop(0) if api.play else (200, {}, good(body))
                self.send_response(status)
                for name, text in headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address, mounted under a path."""
        return f"http://127.0.0.1:{self._server.server_port}/bananas/"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def good(body: bytes) -> bytes:
    """Accept every line."""
    number = body.count(b"\n")
    return b"".join(b'{"line":%d,"id":"x","status":"accepted"}\n' % n for n in range(number))


@pytest.fixture
def api() -> Iterator[Api]:
    """Return a stand-in."""
    api = Api()
    yield api
    api.close()


def post(api: Api, token: str | None = None, *, patience_s: float = 10.0) -> list[Answer]:
    """Post the lines; return their verdicts."""
    took: list[Answer] = []
    with Poster(api.url, token, patience_s=patience_s) as poster:
        poster.post(LINES, took.extend)
    return took


def test_lines_go_where_the_api_is_mounted_with_the_token(api: Api) -> None:
    """One request, all lines, the bearer token."""
    assert post(api, "t") == [Answer("accepted")] * 3
    assert api.asked == [("/bananas/jobs/batch", "Bearer t", 3)]


def test_only_lines_without_a_verdict_are_repeated(api: Api) -> None:
    """An answer that ends in a problem is gone on with, behind its last verdict."""
    verdict = b'{"line":1,"status":"rejected","field":"name","rule":"is required"}\n'
    problem = json.dumps({"title": "stopping", "undecided_from": 2}).encode() + b"\n"
    api.play = [(200, {}, verdict + problem)]
    assert post(api) == [Answer("rejected", "name", "is required"), *[Answer("accepted")] * 2]
    assert [lines for _, _, lines in api.asked] == [3, 2]


def test_an_answer_that_breaks_off_is_gone_on_with(api: Api) -> None:
    """Verdicts that came count."""
    api.play = [(200, {}, b'{"line":1,"id":"a","status":"duplicate"}\n')]
    assert post(api)[0] == Answer("duplicate")
    assert [lines for _, _, lines in api.asked] == [3, 2]


@pytest.mark.parametrize("status", [429, 503])
def test_no_room_is_waited_for(api: Api, status: int) -> None:
    """As long as the API asks for."""
    api.play = [(status, {"Retry-After": "0"}, b"{}"), (status, {}, b"no json")]
    assert len(post(api)) == 3
    assert len(api.asked) == 3


def test_waiting_ends(api: Api) -> None:
    """With the reason of the last answer."""
    api.play = [(503, {}, b'{"detail":"Redis is full"}')] * 50
    with pytest.raises(ApiUnavailableError, match="503 Redis is full"):
        post(api, patience_s=0.3)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b'{"detail":"who are you"}', "who are you"),
        (404, b"<html>", "404"),
        (200, b"<html>\n", "not answer as a bananas API does"),
        (200, b"[1]\n", "not answer as a bananas API does"),
    ],
)
def test_a_refusal_is_not_repeated(api: Api, status: int, body: bytes, words: str) -> None:
    """It would be the same again."""
    api.play = [(status, {}, body)]
    with pytest.raises(ApiRefusedError, match=words):
        post(api)
    assert len(api.asked) == 1


def test_a_refused_token_has_a_hint(api: Api) -> None:
    """The variable that holds it."""
    api.play = [(403, {}, b"{}")]
    with pytest.raises(ApiRefusedError) as caught:
        post(api)
    assert "BANANAS_API_TOKEN" in (caught.value.hint or "")


def test_a_post_can_be_broken_off(api: Api) -> None:
    """Ctrl-C does not wait for an API that has no room."""
    api.play = [(503, {"Retry-After": "60"}, b"{}")] * 5
    poster = Poster(api.url, None)
    failures: list[Exception] = []

    def work() -> None:
        try:
            poster.post(LINES, lambda _: None)
        except ApiUnavailableError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not api.asked:
        thread.join(0.01)
    poster.abort()
    thread.join(10)
    assert len(failures) == 1


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8080", "http://", ""])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ApiRefusedError, match="--url"):
        Poster(url, None)
