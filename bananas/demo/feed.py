"""The producer's side: one HTTP request that streams every row as NDJSON."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bananas.codec import encode_payload
from bananas.errors import BananasError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CHUNK_BYTES: Final = 256 * 1024
TASK: Final = "load_flights"


class FeedError(BananasError):
    """The API did not take the rows."""


@dataclass(frozen=True, slots=True)
class Fed:
    """What the API answered."""

    accepted: int
    rejected: int
    elapsed_s: float


class Feeder:
    """A thread that feeds; look at `written` and `done` while it runs."""

    def __init__(self, host: str, port: int, rows: Iterable[dict[str, Any]]) -> None:
        """Prepare to send `rows` to the API there."""
        self.written = 0
        self._fed: Fed | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(host, port, rows), name="feed")

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def done(self, wait_s: float) -> bool:
        """Return whether the API has answered, waiting at most so long for it."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def result(self) -> Fed:
        """Return what the API answered.

        Raises:
            FeedError: It refused, or the connection broke.
        """
        if self._fed is None:
            raise FeedError("the API did not take the rows") from self._error
        return self._fed

    def _run(self, host: str, port: int, rows: Iterable[dict[str, Any]]) -> None:
        try:
            self._fed = feed(host, port, rows, self._wrote)
        except Exception as error:  # noqa: BLE001 - `result` tells it to the other thread
            self._error = error

    def _wrote(self, count: int) -> None:
        self.written = count


def feed(
    host: str, port: int, rows: Iterable[dict[str, Any]], on_rows: Callable[[int], None]
) -> Fed:
    """POST rows to /jobs/batch in one chunked request; memory does not grow with their number.

    Args:
        host: Of the API.
        port: Of the API.
        rows: The payloads.
        on_rows: Told how many have been written so far.

    Raises:
        FeedError: The API refused the request.
    """
    connection = http.client.HTTPConnection(host, port, timeout=600)
    started_s = time.monotonic()
    try:
        connection.request(
            "POST",
            "/jobs/batch?summary=1",
            body=_lines(rows, on_rows),
            headers={"content-type": "application/x-ndjson"},
            encode_chunked=False,
        )
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise FeedError(
            f"the API answered {response.status}: {body[:500].decode(errors='replace')}"
        )
    answer = json.loads(body)
    return Fed(answer["accepted"], answer["rejected"], time.monotonic() - started_s)


def _lines(rows: Iterable[dict[str, Any]], on_rows: Callable[[int], None]) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = count = 0
    head = b'{"name":"%b","payload":' % TASK.encode()
    for row in rows:
        row["sent_us"] = time.time_ns() // 1000
        line = head + encode_payload(row) + b"}\n"
        parts.append(line)
        size += len(line)
        count += 1
        if size >= CHUNK_BYTES:
            yield b"".join(parts)
            on_rows(count)
            parts.clear()
            size = 0
    if parts:
        yield b"".join(parts)
        on_rows(count)
