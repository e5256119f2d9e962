"""What a hostile or broken client may send, over a plain socket: refused at little cost."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from bananas.http import protocol

if TYPE_CHECKING:
    from conftest import Api, MakeApi

JOB = b'{"name":"t","id":"j"}'


def request(*fields: str, body: bytes = b"", target: str = "/jobs", method: str = "POST") -> bytes:
    """Return a request on one connection, as a string of bytes."""
    head = [f"{method} {target} HTTP/1.1", "Host: localhost", *fields, "Connection: close", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def status_of(answer: bytes) -> int:
    """Return the status of a response."""
    return int(answer.split(b" ", 2)[1])


def problem_of(answer: bytes) -> dict[str, Any]:
    """Return the problem of a response, whose media type is checked."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    problem: dict[str, Any] = json.loads(body)
    assert problem["status"] == status_of(answer)
    return problem


async def accepted(api: Api) -> int:
    """Return how many jobs there ever were."""
    return (await api.client.stats()).get("accepted", 0)


# --- bodies ---------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_is_refused_by_its_length(make_api: MakeApi) -> None:
    """A declared length over the limit is 413 before anything of the body is read."""
    async with make_api(max_payload_bytes=1000) as api:
        limit = 1000 + 16 * 1024
        answer = await api.raw(
            request("Content-Type: application/json", f"Content-Length: {limit + 1}")
        )
        assert status_of(answer) == 413
        problem = problem_of(answer)
        assert problem["type"] == "urn:bananas:problem:body-too-large"
        assert problem["limit_bytes"] == limit


async def test_a_body_is_counted_while_it_comes(make_api: MakeApi) -> None:
    """A chunked body, which declares no length, is cut off at the same limit."""
    async with make_api(max_payload_bytes=1000) as api:
        reader, writer = await api.connect()
        writer.write(request("Content-Type: application/json", "Transfer-Encoding: chunked"))
        for _ in range(30):
            writer.write(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        answer = await reader.readuntil(b"}")
        assert status_of(answer) == 413
        writer.close()
        small = b"%x\r\n%b\r\n0\r\n\r\n" % (len(JOB), JOB)
        answer = await api.raw(
            request("Content-Type: application/json", "Transfer-Encoding: chunked", body=small)
        )
        assert status_of(answer) == 201


async def test_a_body_at_the_limit_is_taken(make_api: MakeApi) -> None:
    """The limit itself is allowed, one byte more is not."""
    async with make_api(max_payload_bytes=1000) as api:
        limit = 1000 + 16 * 1024
        for size, status in ((limit, 201), (limit + 1, 413)):
            body = JOB + b" " * (size - len(JOB))
            answer = await api.http.post(
                "/jobs", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == status


async def test_a_length_that_lies_short_makes_no_job_of_the_rest(api: Api) -> None:
    """What follows a body that is shorter than it said is no request, and nothing of it runs."""
    smuggled = request("Content-Type: application/json", "Content-Length: 21", body=JOB)
    answer = await api.raw(
        request("Content-Type: application/json", "Content-Length: 5", body=b'{"nam' + JOB)
    )
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status_of(answer) == 400
    answer = await api.raw(
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled
    )
    assert status_of(answer) == 400
    assert await accepted(api) == 0


async def test_a_length_that_lies_long_is_no_job(api: Api) -> None:
    """A body that ends before its length, with the connection, is thrown away."""
    reader, writer = await api.connect()
    writer.write(request("Content-Type: application/json", "Content-Length: 99", body=JOB))
    writer.write_eof()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    assert await accepted(api) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /jobs/x HTTP/1.1\r\nHost: localhost\r\nBad Header: 1\r\n\r\n",
    ],
    ids=["tls", "version", "nul", "length", "two-lengths", "negative", "chunk", "header"],
)
async def test_what_is_not_http_is_400_and_closed(api: Api, data: bytes) -> None:
    """Bytes that are no request get one answer, and the connection is closed."""
    async with asyncio.timeout(10):
        answer = await api.raw(data)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status_of(answer) == 400
    assert await accepted(api) == 0


async def test_encoded_bodies_are_not_taken(api: Api) -> None:
    """A `Content-Encoding` is 415 on every route: nothing is ever unpacked."""
    for path in ("/jobs", "/jobs/batch", "/dead/retry"):
        answer = await api.http.post(
            path, content=b"\x1f\x8b", headers={"content-encoding": "gzip"}
        )
        assert answer.status_code == 415
        assert answer.json()["type"] == "urn:bananas:problem:unsupported-encoding"


@pytest.mark.parametrize(
    "media_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
)
async def test_only_json_is_taken(api: Api, media_type: str | None) -> None:
    """A body of another media type, or of none, is 415: a browser may send those unasked."""
    headers = {} if media_type is None else {"content-type": media_type}
    for path in ("/jobs", "/jobs/batch"):
        answer = await api.http.post(path, content=JOB, headers=headers)
        assert answer.status_code == 415
        assert answer.json()["type"] == "urn:bananas:problem:unsupported-media-type"
    answer = await api.http.post(
        "/jobs", content=JOB, headers={"content-type": "Application/JSON; charset=utf-8"}
    )
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"name":"t","payload":' + b"[" * 100_000, 400),
        (b'{"name":"t","payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"name":"t","payload":' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"}", 422),
        (b'{"name":"t","payload":' + b"[" * 64 + b"]" * 64 + b"}", 201),
        (b'{"name":"t","payload":' + b"9" * 100_000 + b"}", 400),
        (b'{"name":"t","payload":-' + b"9" * 4300 + b"}", 201),
        (b'{"name":"t","delay_s":' + b"9" * 4000 + b"}", 422),
        (b'{"name":"t","max_retries":' + b"9" * 400 + b"}", 422),
        (b'{"name":"t","payload":1e400}', 400),
        (b'{"name":"t","payload":' + b"1" * 100_000 + b"e-100000}", 201),
        (b'{"name":"t","payload":NaN}', 400),
        (b'{"name":"t","payload":[Infinity]}', 400),
        (b'{"name":"t","payload":-Infinity}', 400),
        (b'{"name":"t","payload":"\\ud800"}', 400),
        (b'{"name":"t","payload":"\xff"}', 400),
        (b'{"name":"t","payload":"\x00"}', 400),
        (b'\xef\xbb\xbf{"name":"t"}', 400),
        (b'{"name":"t"}'.decode().encode("utf-16"), 400),
        (b'{"name":"t"}{"name":"t"}', 400),
        (b'{"name":"' + b"t" * 129 + b'"}', 422),
        (b'{"name":"t","id":"a{b}"}', 422),
        (b'{"name":"t","id":"a\\r\\nX: y"}', 422),
        (b'{"name":"os.system\\u001b[2J"}', 422),
    ],
)
async def test_json_has_its_limits(api: Api, body: bytes, status: int) -> None:
    """Depth, digits, and what is no number or no text are refused, alone and in a batch."""
    answer = await api.http.post(
        "/jobs", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status, answer.text[:300]
    assert len(answer.content) < 20_000
    answer = await api.http.post(
        "/jobs/batch",
        content=body + b'\n{"name":"last"}',
        headers={"content-type": "application/x-ndjson"},
    )
    verdicts = [json.loads(line)["status"] for line in answer.text.splitlines()]
    assert verdicts == ["accepted" if status == 201 else "rejected", "accepted"]


async def test_of_a_member_given_twice_the_last_counts(api: Api) -> None:
    """The record has one of them, the one that was looked at, so that no reader sees another."""
    answer = await api.http.post(
        "/jobs",
        content=b'{"name":"a","routing_key":"x","name":"b","payload":{"k":1,"k":2},'
        b'"routing_key":"y"}',
        headers={"content-type": "application/json"},
    )
    record = answer.json()
    assert (record["name"], record["routing_key"], record["payload"]) == ("b", "y", {"k": 2})
    assert answer.text.count('"name"') == 1


# --- heads ----------------------------------------------------------------------------------------


async def test_a_head_over_the_limit_is_431(api: Api) -> None:
    """A head of more than 16 KiB is refused, complete or endless, in one field or in many."""
    whole = await api.raw(request("X: " + "y" * 16_500, target="/livez", method="GET"))
    many = await api.raw(
        request(*(f"X{n}: y" for n in range(4_000)), target="/livez", method="GET")
    )
    reader, writer = await api.connect()
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ")
    for _ in range(20):
        writer.write(b"y" * 1000)
        await writer.drain()
        await asyncio.sleep(0)
    endless = await reader.readuntil(b"}")
    writer.close()
    for answer in (whole, many, endless):
        assert status_of(answer) == 431
        assert problem_of(answer)["type"] == "urn:bananas:problem:headers-too-large"


async def test_a_head_within_the_limit_is_taken(api: Api) -> None:
    """Long but allowed heads are no reason to refuse, nor is one that follows a long body."""
    answer = await api.raw(request("X: " + "y" * 15_000, target="/livez", method="GET"))
    assert status_of(answer) == 200
    body = JOB + b" " * 100_000
    first = (
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    reader, writer = await api.connect()
    writer.write(first + b"GET /livez HTTP/1.1\r\nHo")
    await reader.readuntil(b'"max_retries":3}')
    writer.write(b"st: localhost\r\nConnection: close\r\n\r\n")
    assert status_of(await reader.read()) == 200
    writer.close()


@pytest.mark.parametrize("target", ["/jobs/%0d%0aX-Evil:1", "/%0d%0aX:1", "/jobs?wait_s=%0d%0aX:1"])
async def test_no_header_can_be_injected(api: Api, target: str) -> None:
    """Line breaks in what a client sends come back escaped or not at all."""
    answer = await api.raw(
        request("Content-Type: application/json", "Content-Length: 2", target=target, body=b"{}")
    )
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"evil" not in head.lower()
    assert b"\nX:" not in head
    assert status_of(answer) in (400, 404, 405)


async def test_no_log_line_can_be_injected(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path with line breaks is logged escaped when its request breaks on a defect of ours."""

    async def broken(_: str) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(type(api.client), "get_job", lambda _, job_id: broken(job_id))
    answer = await api.http.get("/jobs/x%0aINJECTED")
    assert answer.status_code == 400
    answer = await api.http.get("/jobs/x")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:bananas:problem:internal"
    assert "defect" not in answer.text
    assert "/jobs/x' failed" in caplog.text
    assert "a defect" in caplog.text


# --- time -----------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the limits on time short."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(protocol, "BODY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(protocol, "DISCARD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(protocol, "LOOK_S", 0.05)


@pytest.mark.usefixtures("hasty")
async def test_a_slow_head_is_408(api: Api) -> None:
    """A head that does not end is answered 408 and closed; one that never began is just closed."""
    async with asyncio.timeout(10):
        slow = await api.raw(b"POST /jobs HTTP/1.1\r\nHost: lo")
        silent = await api.raw(b"")
    assert status_of(slow) == 408
    assert problem_of(slow)["type"] == "urn:bananas:problem:request-timeout"
    assert silent == b""


@pytest.mark.usefixtures("hasty")
async def test_a_slow_second_head_is_408_too(api: Api) -> None:
    """The limit holds for every request of a connection."""
    reader, writer = await api.connect()
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"}")
    writer.write(b"GET /li")
    async with asyncio.timeout(10):
        assert status_of(await reader.read()) == 408
    writer.close()


@pytest.mark.usefixtures("hasty")
async def test_a_slow_body_is_408(api: Api) -> None:
    """A body that comes too slowly is answered 408, and makes no job."""
    async with asyncio.timeout(10):
        answer = await api.raw(
            request("Content-Type: application/json", "Content-Length: 500", body=b'{"name"')
        )
    assert status_of(answer) == 408
    assert await accepted(api) == 0


@pytest.mark.usefixtures("hasty")
async def test_the_rest_of_a_refused_body_is_not_taken_for_ever(api: Api) -> None:
    """After an early answer the rest of the body is thrown away for a while, then it is closed."""
    reader, writer = await api.connect()
    writer.write(
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        b"Content-Length: 100000\r\n\r\n" + b"x" * 100
    )
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert status_of(answer) == 415
    writer.close()


@pytest.mark.usefixtures("hasty")
async def test_a_pipelined_mess_does_not_spoil_the_answer_before_it(api: Api) -> None:
    """A good request is answered although garbage follows it; then the connection is closed."""
    job = await api.client.submit("t", result=True)
    good = f"GET /jobs/{job.id}/result?wait_s=0.5 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for mess in (b"\x00\x01garbage\r\n\r\n", b"GET /li", b"X: " + b"y" * 20_000):
        async with asyncio.timeout(10):
            answer = await api.raw(good.encode() + mess)
        assert status_of(answer) == 202
        assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.usefixtures("hasty")
async def test_a_body_that_began_quickly_must_go_on(api: Api) -> None:
    """What came at once does not pay for a pause without end."""
    reader, writer = await api.connect()
    writer.write(request("Content-Type: application/json", "Content-Length: 900000"))
    writer.write(b" " * 800_000)
    async with asyncio.timeout(20):
        assert status_of(await reader.read()) == 408
    writer.close()


async def test_a_reader_that_takes_nothing_is_cut_off(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that lie here untaken end their connection, and with it what they take of memory."""
    monkeypatch.setattr(protocol, "STALL_S", 0.5)
    monkeypatch.setattr(protocol, "LOOK_S", 0.05)
    job = await api.client.submit("t", payload={"x": "y" * 500_000})
    asked = f"GET /jobs/{job.id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stuck, ("127.0.0.1", api.port))
        await loop.sock_sendall(stuck, asked * 30)
        port = stuck.getsockname()[1]

        def held() -> bool:
            """Whether this process, the server's, has the other end."""
            ends = psutil.Process().net_connections("tcp4")
            return any(end.raddr and end.raddr.port == port for end in ends)

        assert held()
        async with asyncio.timeout(30):
            while held():  # noqa: ASYNC110 - the kernel's table
                await asyncio.sleep(0.05)
    # One that takes its time, and takes something, gets all of it.
    reader, writer = await api.connect()
    writer.write(asked * 5)
    came = 0
    while came < 2_500_000:
        came += len(await reader.read(100_000))
        await asyncio.sleep(0.05)
    writer.close()


async def test_fields_after_a_body_are_no_fields_of_its_head(make_api: MakeApi) -> None:
    """A trailer brings neither a token nor a media type, whatever it says."""
    async with make_api(token="a-token-of-sixteen-and-more") as api:  # noqa: S106 - of this test
        trailer = b"Authorization: Bearer a-token-of-sixteen-and-more\r\n"
        body = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(JOB), JOB, trailer)
        json = "Content-Type: application/json"
        answer = await api.raw(request(json, "Transfer-Encoding: chunked", body=body))
        assert status_of(answer) == 401
        assert await accepted(api) == 0


@pytest.mark.parametrize("filler", [b"1;x=%b\r\n \r\n", b"0\r\nX: %b\r\n"])
async def test_framing_that_is_no_body_has_an_end(api: Api, filler: bytes) -> None:
    """Chunk extensions and trailers are counted too: they come to nobody, and cost memory."""
    reader, writer = await api.connect()
    writer.write(request("Content-Type: application/json", "Transfer-Encoding: chunked"))
    before, _, _ = filler.partition(b"%b")
    writer.write(before)
    answer = b""
    async with asyncio.timeout(30):
        reading = asyncio.create_task(reader.read())
        for _ in range(400):
            if writer.is_closing() or reading.done():
                break
            writer.write(b"x" * 10_000)
            await asyncio.sleep(0.001)  # pieces, as a network makes them
        answer = await reading
    writer.close()
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_the_rest_of_a_body_gets_no_answer_of_its_own(api: Api) -> None:
    """A body that has been refused and then breaks its framing is answered once."""
    reader, writer = await api.connect()
    writer.write(request("Content-Type: text/plain", "Transfer-Encoding: chunked"))
    refused = await reader.readuntil(b"}")
    assert status_of(refused) == 415
    if not writer.is_closing():
        writer.write(b"not a chunk\r\n" * 10)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    "mess",
    [
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["target", "no-target", "chunk"],
)
async def test_what_came_before_a_mess_gets_its_own_answers(api: Api, mess: bytes) -> None:
    """Two requests under way are answered, each as it is; what is wrong behind them is not."""
    job = await api.client.submit("t", result=True)
    slow = f"GET /jobs/{job.id}/result?wait_s=0.3 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    quick = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with asyncio.timeout(20):
        answer = await api.raw(slow + quick + mess)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"202", b"200"]


@pytest.mark.parametrize("to", ["h2c", "websocket", "x"])
async def test_an_upgrade_is_not_made(api: Api, to: str) -> None:
    """A request is answered without it, a body after it is nobody's; then the connection ends."""
    job = await api.client.submit("t", result=True)
    for method, path, body in (
        ("GET", f"/jobs/{job.id}/result?wait_s=0.2", b""),
        ("POST", "/jobs", JOB),
    ):
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: {to}\r\n"
            f"Connection: Upgrade\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        async with asyncio.timeout(20):
            answer = await api.raw(head.encode() + body + b"GET /livez HTTP/1.1\r\n\r\n")
        assert status_of(answer) == (202 if method == "GET" else 400)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in answer


async def test_requests_wait_for_each_other_up_to_a_number(api: Api) -> None:
    """Of a long pipeline the first are answered, then the connection is closed."""
    job = await api.client.submit("t", result=True)
    slow = f"GET /jobs/{job.id}/result?wait_s=0.3 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    quick = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for count in (protocol.MAX_PIPELINED, protocol.MAX_PIPELINED + 1):
        last = b"GET /nosuch HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        async with asyncio.timeout(20):
            answer = await api.raw(slow + quick * (count - 1) + last)
        assert answer.count(b"HTTP/1.1 200") == protocol.MAX_PIPELINED - (
            count == protocol.MAX_PIPELINED
        )


@pytest.mark.timeout(120)
async def test_slow_connections_do_not_keep_others_out(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With four hundred slow senders on it the server answers, and gets rid of them."""
    monkeypatch.setattr(protocol, "LOOK_S", 0.05)
    slow = [await api.connect() for _ in range(400)]
    for number, (_, writer) in enumerate(slow):
        writer.write(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\n")
        if number % 2:
            writer.write(b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n")

    async def trickle() -> None:
        while True:
            for _, writer in slow:
                if not writer.is_closing():
                    writer.write(b" ")
            await asyncio.sleep(0.2)

    trickling = asyncio.create_task(trickle())
    try:
        for _ in range(5):
            answer = await api.http.post("/jobs", json={"name": "t"}, timeout=30)
            assert answer.status_code == 201
        monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.3)
        monkeypatch.setattr(protocol, "BODY_TIMEOUT_S", 0.3)
        async with asyncio.timeout(60):
            for reader, _ in slow:
                assert status_of(await _all_of(reader)) in (400, 408)
    finally:
        trickling.cancel()
        for _, writer in slow:
            writer.close()
    assert await accepted(api) == 5


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    """Return what came, although what was still being sent then met a closed connection."""
    try:
        return await reader.read()
    except (BrokenPipeError, ConnectionResetError):
        return bytes(reader._buffer)  # type: ignore[attr-defined]


async def test_too_many_connections_are_told_so(
    monkeypatch: pytest.MonkeyPatch, make_api: MakeApi
) -> None:
    """Beyond the limit a connection is answered 503 with Retry-After, and closed."""
    from bananas.http import server  # noqa: PLC0415 - what is patched

    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    async with make_api() as api:
        held = [await api.connect() for _ in range(3)]
        async with asyncio.timeout(10):
            answer = await api.raw(b"")
        assert status_of(answer) == 503
        assert problem_of(answer)["type"] == "urn:bananas:problem:overloaded"
        assert b"retry-after: 1" in answer
        for _, writer in held:
            writer.close()
