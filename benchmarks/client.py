"""The clients of the harness, each run as `python -m benchmarks.client VERB JSON`.

A client prints what it measured as one JSON object: `seconds` and `cpu_s` of the part that
counts, and latencies in ms where there are any.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bananas.runtime.processes import run_loop
from bananas.settings import Settings
from benchmarks.workload import (
    START,
    app,
    noop_async,
    noop_batch,
    noop_inline,
    noop_sync,
    noop_wait,
    probe,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

Options = dict[str, Any]
Measured = dict[str, Any]

_TASKS = {
    "async": noop_async,
    "sync": noop_sync,
    "inline": noop_inline,
    "batch": noop_batch,
    "wait": noop_wait,
}


class _Timing:
    seconds = 0.0
    cpu_s = 0.0

    def measured(self, **more: object) -> Measured:
        return {"seconds": self.seconds, "cpu_s": self.cpu_s, **more}


@contextmanager
def _timed() -> Iterator[_Timing]:
    timing = _Timing()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield timing
    timing.seconds = time.perf_counter() - wall_s
    timing.cpu_s = time.process_time() - cpu_s


def _payload(options: Options) -> dict[str, str]:
    return {"x": "x" * max(0, options["payload_bytes"] - len('{"x":""}'))}


async def enqueue_many(options: Options) -> Measured:
    """Enqueue `jobs` rows of a task of some kind by one call."""
    task: Any = _TASKS[options["kind"]]
    payload = _payload(options)
    warm = min(500, options["jobs"])
    async with app:
        await task.enqueue_many([payload] * warm)  # connects, loads the script
        with _timed() as timing:
            report = await task.enqueue_many(payload for _ in range(options["jobs"]))
    assert report.accepted == options["jobs"], report
    return timing.measured(accepted=report.accepted + warm)


async def batches(options: Options) -> Measured:
    """Enqueue `jobs` rows by calls of `batch` rows, one call after the other."""
    rows = [_payload(options)] * options["batch"]
    async with app:
        await noop_async.enqueue_many(rows)
        with _timed() as timing:
            for _ in range(options["jobs"] // options["batch"]):
                await noop_async.enqueue_many(rows)
    return timing.measured()


async def enqueue(options: Options) -> Measured:
    """Enqueue `jobs` jobs one by one from `callers` tasks at once."""
    payload = _payload(options)
    each = options["jobs"] // options["callers"]
    latencies_ms: list[float] = []

    async def caller() -> None:
        for _ in range(each):
            await noop_async.enqueue(**payload)

    async def timing_caller() -> None:
        for _ in range(each):
            began_s = time.perf_counter()
            await noop_async.enqueue(**payload)
            latencies_ms.append((time.perf_counter() - began_s) * 1e3)

    async with app:
        await noop_async.enqueue(**payload)
        call = timing_caller if options.get("timed") else caller
        with _timed() as timing:
            await asyncio.gather(*(call() for _ in range(options["callers"])))
    return timing.measured(**({"latencies_ms": latencies_ms} if latencies_ms else {}))


async def paced(options: Options) -> Measured:
    """Enqueue `per_s` jobs a second until SIGTERM: every 2 ms as many as are due by then.

    What was late is made up for, so `jobs` by `seconds` falls short only if this client cannot.
    """
    payload, jobs, stop = _payload(options), 0, asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with app:
        await noop_async.enqueue(**payload)
        with _timed() as timing:
            began_s = now_s = time.perf_counter()
            while not stop.is_set() and now_s < began_s + options["at_most_s"]:
                due = int((now_s - began_s) * options["per_s"]) - jobs
                await noop_async.enqueue_many([payload] * due)
                jobs += due
                await asyncio.sleep(max(0.0, now_s + 0.002 - time.perf_counter()))
                now_s = time.perf_counter()
    return timing.measured(jobs=jobs)


async def probes(options: Options) -> Measured:
    """Enqueue `jobs` probes one at a time, each after a rest, and hear when they began."""
    loop = asyncio.get_running_loop()
    latencies_ms: list[float] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as starts:
        starts.bind(options["starts"])
        starts.setblocking(False)
        async with app:
            with _timed() as timing:
                for number in range(options["jobs"] + 20):
                    await asyncio.sleep(0.003 + number % 7 / 1000)  # in step with nothing
                    await probe.enqueue(sent_ns=time.monotonic_ns())
                    sent_ns, started_ns = START.unpack(await loop.sock_recv(starts, START.size))
                    if number >= 20:  # the first ones meet cold paths
                        latencies_ms.append((started_ns - sent_ns) / 1e6)
    return timing.measured(latencies_ms=latencies_ms)


# --- HTTP ---------------------------------------------------------------------------------------


def _job(options: Options) -> bytes:
    return json.dumps({"name": "noop.async", "payload": _payload(options)}).encode()


def _request(path: str, kind: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ndjson(options: Options) -> Measured:
    """Post `jobs` lines in one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", options["port"])
    kind, path = "application/x-ndjson", "/jobs/batch?summary=1"
    line = _job(options) + b"\n"
    writer.write(_request(path, kind, line * 500))
    await _answer(reader)
    whole = _request(path, kind, line * options["jobs"])
    with _timed() as timing:
        writer.write(whole)
        answer = await _answer(reader)
    writer.close()
    assert str(options["jobs"]).encode() in answer, answer
    return timing.measured()


async def ndjson_batches(options: Options) -> Measured:
    """Post `jobs` lines by requests of `batch` lines, one request after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", options["port"])
    lines = (_job(options) + b"\n") * options["batch"]
    request = _request("/jobs/batch?summary=1", "application/x-ndjson", lines)
    writer.write(request)
    await _answer(reader)
    with _timed() as timing:
        for _ in range(options["jobs"] // options["batch"]):
            writer.write(request)
            await _answer(reader)
    writer.close()
    return timing.measured()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer, whichever way its length is told."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.split()[1] in (b"200", b"201"), head
    if b"content-length:" in head:
        return await reader.readexactly(int(head.split(b"content-length:")[1].split()[0]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


class _Poster(asyncio.Protocol):
    """One kept-alive connection that posts one job after another."""

    def __init__(self, request: bytes, left: deque[None], latencies_ms: list[float]) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._request = request
        self._left = left
        self._latencies_ms = latencies_ms
        self._seen = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire: Any = transport

    def post(self) -> None:
        """Send the next, or be done."""
        if not self._left:
            self._wire.close()
            self.done.set_result(None)
            return
        self._left.pop()
        self._sent_s = time.perf_counter()
        self._wire.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, found, body = self._seen.partition(b"\r\n\r\n")
        if not found:
            return
        assert head.startswith(b"HTTP/1.1 201"), head
        if len(body) >= int(head.lower().split(b"content-length:")[1].split(None, 1)[0]):
            self._latencies_ms.append((time.perf_counter() - self._sent_s) * 1000)
            self._seen = b""
            self.post()


async def post(options: Options) -> Measured:
    """Post `jobs` single jobs over `callers` connections."""
    loop = asyncio.get_running_loop()
    request = _request("/jobs", "application/json", _job(options))
    latencies_ms: list[float] = []
    left: deque[None] = deque([None] * options["jobs"])
    posters: list[_Poster] = []
    for _ in range(options["callers"]):
        _, poster = await loop.create_connection(
            lambda: _Poster(request, left, latencies_ms), "127.0.0.1", options["port"]
        )
        posters.append(poster)
    with _timed() as timing:
        for poster in posters:
            poster.post()
        await asyncio.gather(*(poster.done for poster in posters))
    return timing.measured(latencies_ms=latencies_ms)


VERBS: dict[str, Callable[[Options], Coroutine[Any, Any, Measured]]] = {
    verb.__name__: verb
    for verb in (enqueue_many, batches, enqueue, paced, probes, ndjson, ndjson_batches, post)
}


def main() -> None:
    """Run one verb and print what it measured."""
    verb, options = sys.argv[1], json.loads(sys.argv[2])
    app.configure(Settings(redis_url=options["url"], durability=options["durability"]))

    async def run() -> None:
        print(json.dumps(await VERBS[verb](options)))

    run_loop(run())


if __name__ == "__main__":
    main()
