"""Bytes that are HTTP, almost HTTP and not HTTP at all, over plain sockets, from a seed.

Whatever comes, it is answered at most once, never by a 5xx, and every connection ends by
itself; the server goes on serving; and nothing that lies inside a body ever runs.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

from bananas.http import batch, protocol, server

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Api, MakeApi
    from servers import Server

SEED = int(os.environ.get("BANANAS_TEST_SEED", "20240601"))
LONG = bool(os.environ.get("BANANAS_TEST_LONG"))
CONNECTIONS = 20_000 if LONG else 1_200
AT_ONCE = 60
PATIENCE_S = 40.0

JOB = b'{"name":"fuzzed"}'
INNER = (
    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 19\r\n\r\n{"name":"smuggled"}'
)
"""A whole request, to lie in places where none may be."""


class Sent(NamedTuple):
    """What goes out on one connection, and what may come back."""

    data: bytes
    most: int
    """Answers at most."""


# --- what is sent ---------------------------------------------------------------------------------


def good(chance: random.Random) -> bytes:
    """Return a request that nothing is wrong with."""
    kind = chance.randrange(6)
    if kind == 0:
        path = chance.choice(["/livez", "/readyz", "/stats", "/queues", "/dead", "/nosuch"])
        method = chance.choice(["GET", "GET", "GET", "OPTIONS", "DELETE", "PUT"])
        return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    if kind == 1:
        return b"GET /jobs/x?wait_s=0.05 HTTP/1.1\r\nHost: localhost\r\nX: \xff\xfe\r\n\r\n"
    if kind == 2:
        # Its body is a request, and is no JSON.
        return post(INNER, "Content-Type: application/json")
    if kind == 3:
        # Of this body the last line but one is a job, rightly so.
        inner = INNER.replace(b"smuggled", b"a.line..")
        return post(inner + b"\n" + JOB, "Content-Type: application/x-ndjson", path="/jobs/batch")
    if kind == 4:
        return post(chunked(JOB, chance), "Content-Type: application/json", length=None)
    return post(JOB, "Content-Type: application/json", "Expect: 100-continue")


def post(body: bytes, *fields: str, path: str = "/jobs", length: int | None = -1) -> bytes:
    """Return a POST; length: -1 = the right one, None = chunked."""
    framing = (
        "Transfer-Encoding: chunked"
        if length is None
        else f"Content-Length: {len(body) if length < 0 else length}"
    )
    head = [f"POST {path} HTTP/1.1", "Host: localhost", *fields, framing, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def chunked(body: bytes, chance: random.Random, *, extension: str = "", trailer: str = "") -> bytes:
    """Return a body in chunks."""
    parts: list[bytes] = []
    while body:
        size = chance.randint(1, len(body))
        parts.append(f"{size:x}{extension}\r\n".encode() + body[:size] + b"\r\n")
        body = body[size:]
    return b"".join(parts) + f"0\r\n{trailer}\r\n".encode()


def framed_wrong(chance: random.Random) -> bytes:
    """Return a request whose end two servers might see in two places, with one behind it."""
    body = chunked(JOB, chance)
    json = "Content-Type: application/json"
    length, te = f"Content-Length: {len(JOB)}", "Transfer-Encoding: chunked"
    head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\n{json}\r\n"
    forms = [
        post(body, json, length, length=None),  # both
        post(JOB, json, te),
        post(JOB, json, f"Content-Length: {len(JOB) + 5}"),  # two lengths
        post(JOB, json, length.replace(": ", ": +")),
        post(JOB, json, f"Content-Length: {len(JOB)}, {len(JOB)}"),
        post(JOB, json, "Content-Length: 99999999999999999999999"),
        f"{head}Content-Length: 0x11\r\n\r\n".encode() + JOB,
        f"{head}Content-Length : {len(JOB)}\r\n\r\n".encode() + JOB,  # a space before the colon
        f"{head}Transfer-Encoding : chunked\r\n\r\n".encode() + body,
        f"{head}Transfer-Encoding: chunked, identity\r\n\r\n".encode() + body,
        f"{head}Transfer-Encoding: xchunked\r\n\r\n".encode() + body,
        f"{head}Transfer-Encoding: gzip\r\n\r\n".encode() + body,
        f"{head}Transfer-Encoding:\x0bchunked\r\n\r\n".encode() + body,
        f"{head}X: a\r\n {te}\r\n{length}\r\n\r\n".encode() + JOB,  # folded
        f"{head}{te}\r\n\r\n".encode() + body.replace(b"\r\n", b"\n"),  # bare line feeds
        f"{head}{te}\r\n\r\n".encode() + b"g\r\n" + body,
        f"{head}{te}\r\n\r\n".encode() + b"-1\r\n" + body,
        f"{head}{te}\r\n\r\n".encode() + b"11" + b" " * 9 + b"\r\n" + JOB + b"XX0\r\n\r\n",
        f"{head}{te}\r\n\r\n".encode() + b"1" * 17 + b"\r\n" + body,
        f"{head}{te}\r\n\r\n".encode() + chunked(JOB, chance)[:-4] + b"\r\n\x00\r\n\r\n",
        f"{head}\x00: 1\r\n{length}\r\n\r\n".encode() + JOB,
        f"{head}no colon\r\n{length}\r\n\r\n".encode() + JOB,
        f"{head}: empty\r\n{length}\r\n\r\n".encode() + JOB,
        head.replace("HTTP/1.1", "HTTP/1.1 ").encode() + f"{length}\r\n\r\n".encode() + JOB,
        head.replace("POST", "POST\t").encode() + f"{length}\r\n\r\n".encode() + JOB,
        head.replace("HTTP/1.1", "HTTP/1.0").encode() + f"{te}\r\n\r\n".encode() + body,
        head.replace("HTTP/1.1\r\n", "\r\n").encode() + f"{length}\r\n\r\n".encode() + JOB,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET \xc3\xbc HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes(chance.randrange(256) for _ in range(200)),
    ]
    return chance.choice(forms)


def odd(chance: random.Random) -> bytes:
    """Return a request that is HTTP, and that nobody in his right mind sends."""
    json = "Content-Type: application/json"
    forms = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        post(chunked(JOB, chance, extension=";x=" + "y" * 90_000), json, length=None),
        post(chunked(JOB, chance, trailer="X: " + "y" * 90_000 + "\r\n"), json, length=None),
        post(
            chunked(JOB, chance, trailer="Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            json,
            length=None,
        ),
    ]
    return chance.choice(forms)


def spoiled(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with some of them changed, gone, doubled or cut off."""
    spoilt = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(spoilt) + 1)
        kind = chance.randrange(5)
        if kind == 0 and at < len(spoilt):
            spoilt[at] = chance.randrange(256)
        elif kind == 1:
            del spoilt[at : at + chance.randint(1, 8)]
        elif kind == 2:
            spoilt[at:at] = spoilt[at : at + chance.randint(1, 30)]
        elif kind == 3:
            spoilt[at:at] = chance.choice([b"\r\n", b"\n", b"\r", b"\0", b" ", b"0\r\n\r\n", b":"])
        else:
            del spoilt[chance.randint(len(spoilt) * 3 // 4, len(spoilt)) :]
    return bytes(spoilt)


def made_up(chance: random.Random) -> Sent:
    """Return what one connection sends."""
    before = [good(chance) for _ in range(chance.choice([0, 0, 1, 2, 5, 90]))]
    kind = chance.randrange(5)
    if kind == 0:
        return Sent(b"".join([*before, good(chance)]), len(before) + 1)
    if kind == 2:
        return Sent(b"".join([*before, odd(chance), good(chance)]), len(before) + 2)
    if kind == 1:
        # What stands behind it can only be its body, or be thrown away.
        return Sent(b"".join([*before, framed_wrong(chance), INNER]), len(before) + 1)
    data = b"".join([*before[:3], good(chance), odd(chance), framed_wrong(chance)])
    data = spoiled(data.replace(b"smuggled", b"anything"), chance)
    return Sent(data, len(re.findall(rb"(?i)http", data)) + 1)


# --- what comes back ------------------------------------------------------------------------------


def statuses(answers: bytes) -> list[int]:
    """Return the statuses of answers that are whole, one after the other, or fail.

    A stream of verdicts may be cut off: that is how it says that it is not whole.
    """
    found: list[int] = []
    while answers:
        head, end, answers = answers.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [\w -]+", lines[0])
        assert end, head[:300]
        assert match, head[:300]
        fields = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b": ")
            assert colon, line
            assert re.fullmatch(rb"[\w-]+", name), line
            assert re.fullmatch(rb"[ -~]*", value), line
            fields[name.lower()] = value
        status = int(match[1])
        found.append(status)
        if status < 200:
            continue
        if fields.get(b"transfer-encoding") == b"chunked":
            assert b"content-length" not in fields
            _, zero, answers = answers.partition(b"0\r\n\r\n")
            if not zero:
                break
        else:
            length = int(fields[b"content-length"])
            assert len(answers) >= length, (head, answers)
            answers = answers[length:]
    return found


async def converse(api: Api, sent: Sent, chance: random.Random) -> list[int]:
    """Send it in pieces, and return the statuses of all that came until the server closed."""
    reader, writer = await api.connect()
    cuts = sorted(chance.randrange(len(sent.data) + 1) for _ in range(chance.choice([0, 0, 1, 4])))
    came = bytearray()

    async def read() -> None:
        while data := await reader.read(65536):
            came.extend(data)

    reading = asyncio.create_task(read())
    try:
        for begin, end in zip([0, *cuts], [*cuts, len(sent.data)], strict=True):
            if writer.is_closing():
                break
            writer.write(sent.data[begin:end])
            await asyncio.sleep(0)
        await asyncio.wait_for(reading, PATIENCE_S)
    except ConnectionError:
        pass  # reset while we still sent: what came before that counts
    finally:
        reading.cancel()
        writer.close()
    return statuses(bytes(came))


@pytest.mark.slow
@pytest.mark.timeout(900 if LONG else 240)
async def test_no_bytes_break_the_server(
    make_server: Callable[..., Server], run_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand connections from a seed: see the module; the seed is told when one fails."""
    for module, name, value in (
        (protocol, "HEAD_TIMEOUT_S", 0.4),
        (protocol, "BODY_TIMEOUT_S", 0.4),
        (protocol, "DISCARD_TIMEOUT_S", 0.2),
        (protocol, "LOOK_S", 0.05),
        (server, "KEEP_ALIVE_S", 0.4),
        (batch, "IDLE_S", 0.4),
    ):
        monkeypatch.setattr(module, name, value)
    redis_server = make_server()
    seen: dict[int, int] = {}
    async with run_api(redis_server) as api:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with room:
                chance = random.Random(f"{SEED} {number}")
                sent = made_up(chance)
                try:
                    got = await converse(api, sent, chance)
                    final = [status for status in got if status >= 200]
                    assert len(final) <= sent.most, (got, sent.most)
                    assert all(status < 500 for status in final), got
                except (AssertionError, TimeoutError) as error:
                    note = f"BANANAS_TEST_SEED={SEED} connection {number}: {sent.data[:600]!r}"
                    error.add_note(note)
                    raise
                for status in got:
                    seen[status] = seen.get(status, 0) + 1

        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(one(number))
        answer = await api.http.get("/readyz")
        assert answer.status_code == 200
        stats = await api.client.stats()
        assert stats["drift"] == 0
        assert stats["accepted"] >= seen[201]  # lines of batches too, and answers cut off
    with redis_server.client() as redis:
        records = [redis.get(key) or b"" for key in redis.scan_iter("*:job:*", count=1000)]
    assert not [record for record in records if b'"name":"smuggled"' in record]
    # The fuzzer itself: it has been where it was to go.
    assert {200, 201, 400, 404, 405, 408, 415, 431} <= set(seen)
