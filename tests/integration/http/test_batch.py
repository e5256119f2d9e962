"""Batches over HTTP: verdicts in order, in constant memory, at the pace of Redis and the reader."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from bananas.http.idempotency import derived_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from redis import Redis

    from conftest import Api, MakeApi
    from servers import Server

    Body = bytes | AsyncIterator[bytes]

NDJSON = {"content-type": "application/x-ndjson"}


def lines(*items: object) -> bytes:
    """Return a batch; bytes stand for themselves."""
    return b"".join(
        (item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in items
    )


async def verdicts(api: Api, body: Body, **headers: str) -> list[dict[str, Any]]:
    """Submit a batch and return its verdict lines."""
    answer = await api.http.post("/jobs/batch", content=body, headers=NDJSON | headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def summary(api: Api, body: Body, **headers: str) -> dict[str, Any]:
    """Submit a batch and return its counts."""
    answer = await api.http.post("/jobs/batch?summary=1", content=body, headers=NDJSON | headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    counts: dict[str, Any] = answer.json()
    return counts


async def test_each_line_has_its_verdict_in_order(api: Api, redis: Redis, prefix: str) -> None:
    """Good lines become jobs, bad ones are rejected alone, empty ones count and say nothing."""
    got = await verdicts(
        api,
        lines({"name": "a", "id": "1"}, b"", {"name": "a b"}, b"{broken", b"  \r", b"[]")
        + lines({"name": "b", "id": "1"}, {"name": "c", "id": "2", "what": 1}, b'"text"')
        + b'{"name":"d","id":"3"}',
    )
    assert [(v["line"], v["status"], v.get("field")) for v in got] == [
        (1, "accepted", None),
        (3, "rejected", "name"),
        (4, "rejected", "line"),
        (6, "rejected", "item"),
        (7, "duplicate", None),
        (8, "rejected", "what"),
        (9, "rejected", "item"),
        (10, "accepted", None),
    ]
    assert got[1]["rule"] == "must match ^[A-Za-z0-9._:-]{1,128}$"
    assert got[2]["rule"].startswith("must be JSON: ")
    assert redis.lrange(f"{prefix}:queue:normal", 0, -1) == [b"3", b"1"]
    assert json.loads(redis.get(f"{prefix}:job:1"))["name"] == "a"


async def test_a_summary_counts_and_lists_what_was_rejected(api: Api) -> None:
    """With `summary` the answer has counts, and the first hundred rejected lines."""
    good = [{"name": "t", "id": str(n % 900)} for n in range(1000)]
    bad = [{"name": ""}] * 150
    counts = await summary(api, lines(*good, *bad))
    assert counts["lines"] == 1150
    assert counts["accepted"] == 900
    assert counts["duplicates"] == 100
    assert counts["rejected"] == 150
    assert len(counts["rejections"]) == 100
    assert counts["rejections"][0] == {
        "line": 1001,
        "field": "name",
        "rule": "must match ^[A-Za-z0-9._:-]{1,128}$",
    }
    assert counts["elapsed_s"] > 0
    stats = await api.client.stats()
    assert (stats["accepted"], stats["drift"]) == (900, 0)


async def test_an_empty_batch_is_a_batch(api: Api) -> None:
    """No lines, no verdicts, no error."""
    async with asyncio.timeout(5):
        assert await verdicts(api, b"") == []
    assert (await summary(api, b""))["lines"] == 0
    assert (await summary(api, b"\n\n"))["lines"] == 2


async def test_a_line_may_come_in_pieces(api: Api) -> None:
    """Where the body is cut on its way changes nothing: lines are lines."""
    body = lines(*({"name": "t", "id": f"p{n}", "payload": "ü" * n} for n in range(20)))

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(body), 7):
            yield body[begin : begin + 7]

    got = await verdicts(api, pieces())
    assert [(v["line"], v["id"]) for v in got] == [(n + 1, f"p{n}") for n in range(20)]


async def test_a_line_that_is_too_long_is_rejected_alone(make_api: MakeApi) -> None:
    """Lines around one that breaks the limit go through, whether it ends early or never."""
    async with make_api(max_payload_bytes=1000) as api:
        limit = api.settings.max_payload_bytes + 16 * 1024
        long = json.dumps({"name": "t", "payload": "x" * 300_000}).encode()
        just = b'{"name":"t","id":"just"' + b" " * (limit - 24) + b"}"
        over = b'{"name":"t","id":"over"' + b" " * (limit - 23) + b"}"
        assert len(just) == limit
        got = await verdicts(
            api,
            lines({"name": "t", "id": "a"}, long, {"name": "t", "id": "b"}, just, over)
            + lines({"name": "t", "id": "c"})
            + long,
        )
        assert [(v["line"], v["status"]) for v in got] == [
            (1, "accepted"),
            (2, "rejected"),
            (3, "accepted"),
            (4, "accepted"),
            (5, "rejected"),
            (6, "accepted"),
            (7, "rejected"),
        ]
        assert got[1]["field"] == "line"
        assert got[1]["rule"] == f"must be at most {limit} bytes"


async def test_a_payload_that_is_too_large_or_too_deep_is_rejected_alone(make_api: MakeApi) -> None:
    """Limits of a payload hold for each line by itself."""
    async with make_api(max_payload_bytes=1000, max_depth=3) as api:
        got = await verdicts(
            api,
            lines(
                {"name": "t", "payload": "x" * 1000},
                {"name": "t", "payload": [[[[]]]]},
                b'{"name":"t","payload":' + b"[" * 10_000,
                {"name": "t", "payload": "x" * 998},
            ),
        )
        assert [v["status"] for v in got] == ["rejected"] * 3 + ["accepted"]
        assert [v.get("field") for v in got] == ["payload", "payload", "line", None]


async def test_a_batch_repeated_under_its_key_makes_no_job_twice(api: Api) -> None:
    """With an idempotency key each line's job is named by key and line; a repeat finds it."""
    body = lines({"name": "t"}, {"name": "t", "id": "own"}, {"name": "t"})
    first = await verdicts(api, body, **{"idempotency-key": "upload-7"})
    again = await verdicts(api, body, **{"idempotency-key": "upload-7"})
    assert [v["status"] for v in first] == ["accepted"] * 3
    assert [v["status"] for v in again] == ["duplicate"] * 3
    ids = [derived_id(b"upload-7", 1), "own", derived_id(b"upload-7", 3)]
    assert [v["id"] for v in first] == [v["id"] for v in again] == ids


async def test_a_trickle_is_answered_line_by_line(api: Api) -> None:
    """A sender that waits for each verdict before its next line gets each one at once."""
    reader, writer = await api.connect()
    writer.write(
        b"POST /jobs/batch HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-ndjson\r\n\r\n"
    )
    head = b""
    for number in range(1, 6):
        line = lines({"name": "t", "id": f"t{number}"})
        writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        if not head:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
        size = int(await reader.readline(), 16)
        verdict = json.loads((await reader.readexactly(size + 2))[:-2])
        assert verdict == {"line": number, "id": f"t{number}", "status": "accepted"}
    writer.write(b"0\r\n\r\n")
    assert await reader.readline() == b"0\r\n"
    writer.close()


async def test_a_reader_may_wait_until_all_is_sent(api: Api) -> None:
    """A client that reads nothing before it has sent everything gets all its verdicts."""
    count = 60_000  # their verdicts are more than all buffers on the way hold
    got = await verdicts(api, lines({"name": "t"}) * count)
    assert [v["line"] for v in got] == list(range(1, count + 1))
    assert {v["status"] for v in got} == {"accepted"}


async def test_a_connection_that_breaks_leaves_whole_jobs(api: Api) -> None:
    """When the sender dies midway, lines it had sent may be jobs, and the rest are none."""
    _, writer = await api.connect()
    writer.write(
        b"POST /jobs/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        b"Content-Type: application/x-ndjson\r\n\r\n" + lines({"name": "t"}) * 100 + b'{"na'
    )
    await writer.drain()
    while (await api.client.stats()).get("accepted", 0) == 0:  # noqa: ASYNC110 - a store
        await asyncio.sleep(0.01)
    writer.transport.abort()
    api.stop.set()
    await asyncio.wait_for(api.done, 10)
    stats = await api.client.stats()
    assert stats["accepted"] == 100
    assert stats["drift"] == 0


async def test_a_server_that_stops_says_where_to_go_on(api: Api) -> None:
    """At shutdown a batch ends with a problem that names the first line without a verdict."""
    reader, writer = await api.connect()
    writer.write(
        b"POST /jobs/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        b"Content-Type: application/x-ndjson\r\n\r\n" + lines({"name": "t"}) * 3
    )
    await reader.readuntil(b'"line":3')
    api.stop.set()
    rest = await reader.read()
    (problem,) = [json.loads(line) for line in rest.splitlines() if b"urn:bananas" in line]
    assert problem["type"] == "urn:bananas:problem:stopping"
    assert problem["undecided_from"] == 4
    writer.close()


async def test_a_full_redis_ends_the_batch_with_507(
    make_server: Callable[..., Server], run_api: MakeApi
) -> None:
    """At maxmemory the answer is 507 with what was accepted and where to go on; nothing is lost."""
    server = make_server(arguments=("--maxmemory", "12mb"))
    async with run_api(server) as api:
        body = lines({"name": "t", "payload": "x" * 2000}) * 20_000
        answer = await api.http.post("/jobs/batch?summary=1", content=body, headers=NDJSON)
        assert answer.status_code == 507
        problem = answer.json()
        assert problem["type"] == "urn:bananas:problem:broker-full"
        assert answer.headers["retry-after"] == "1"
        assert 0 < problem["accepted"] < 20_000
        assert problem["undecided_from"] == problem["accepted"] + 1
        assert (await api.client.stats())["accepted"] >= problem["accepted"]

        with server.client() as redis:
            redis.config_set("maxmemory", "1mb")
        answer = await api.http.post("/jobs/batch", content=body, headers=NDJSON)
        assert answer.status_code == 507
        single = await api.http.post("/jobs", json={"name": "t", "payload": "x" * 2000})
        assert single.status_code == 507
        assert single.headers["retry-after"] == "1"
        assert (await api.http.get("/livez")).status_code == 200


@pytest.mark.parametrize("query", ["?summary=yes", "?sumary=1", "?summary=1&summary=1"])
async def test_a_query_with_a_mistake_is_refused(api: Api, query: str) -> None:
    """A misspelt option is an error, and nothing of the body is taken."""
    answer = await api.http.post(
        f"/jobs/batch{query}", content=lines({"name": "t"}), headers=NDJSON
    )
    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:bananas:problem:invalid-parameter"
    assert (await api.client.stats()).get("accepted", 0) == 0


_SERVE = """
import asyncio, signal, sys
import uvloop
from bananas.http.server import serve
from bananas.settings import Settings

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings(redis_url=sys.argv[1], key_prefix=sys.argv[2], api_port=0)
    await serve(settings, stop=stop,
                on_ready=lambda sockets: print(sockets[0].getsockname()[1], flush=True))

uvloop.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("query", ["?summary=1", ""])
async def test_memory_does_not_grow_with_the_batch(server: Server, prefix: str, query: str) -> None:
    """Two hundred thousand lines leave the server's memory where two thousand left it."""
    process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
        [sys.executable, "-c", _SERVE, server.url, prefix],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},  # noqa: PTH109
    )
    try:
        assert process.stdout is not None
        port = int(await asyncio.to_thread(process.stdout.readline))
        memory = psutil.Process(process.pid).memory_info
        line = lines({"name": "t", "payload": {"x": "y" * 200}})

        async def submit(count: int) -> int:
            """Send a batch, reading only afterwards; returns the peak of memory meanwhile."""
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST /jobs/batch%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n"
                % (query.encode(), len(line) * count)
            )
            peak = 0
            for _ in range(count // 1000):
                writer.write(line * 1000)
                await writer.drain()
                peak = max(peak, memory().rss)
            last = b""
            while chunk := await reader.read(2**16):
                last = (last + chunk)[-2000:]
                peak = max(peak, memory().rss)
            writer.close()
            assert (b'"lines":%d' if query else b'"line":%d') % count in last
            return peak

        before = await submit(2_000)
        after = await submit(200_000)
        assert after - before < 24 * 2**20
    finally:
        process.terminate()
        assert await asyncio.to_thread(process.wait, 15) == 0
        process.stdout.close()
