"""Row 48: looking at a very long queue reads it in pages, and holds nobody up."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from bananas.cli.checkup import examine
from bananas.client import Client
from bananas.keys import Keys, place
from bananas.settings import Settings
from bananas.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from servers import Server

KEYS = Keys("m")
NORMAL = place("normal")
PAGE = 1000
_LOAD = 4_000


def load(redis: Redis, count: int) -> None:
    """Make jobs, a quarter each waiting, foreign and waiting, scheduled, and dead."""
    now_s = time.time()
    redis.sadd(KEYS.places(), NORMAL)
    ours = b'{"id":"%s","name":"x","payload":{},"status":"%s","error":"e%d","list":"queue:normal"}'
    foreign = b'{"id":"%s","name":"x","payload":{}}'
    for begin in range(0, count, _LOAD):
        pipeline = redis.pipeline(transaction=False)
        ids = [b"%08d" % n for n in range(begin, begin + _LOAD)]
        for n, job_id in enumerate(ids):
            key = KEYS.job_prefix.encode() + job_id
            status = (b"pending", b"", b"scheduled", b"failed")[n % 4]
            record = ours % (job_id, status, n % 7) if status else foreign % job_id
            pipeline.set(key, record, ex=600 if n % 4 == 3 else None)
        pipeline.lpush(KEYS.waiting(NORMAL), *ids[0::4], *ids[1::4])
        scores = cast("Any", dict.fromkeys(ids[2::4], now_s + 600))
        pipeline.zadd(KEYS.scheduled, scores)
        pipeline.zadd(KEYS.dead, cast("Any", dict.fromkeys(ids[3::4], now_s)))
        pipeline.execute()
    redis.hset(KEYS.counters, "accepted", count // 4 * 3)  # the foreign ones are not counted yet


async def read_everything(server: Server) -> list[str]:
    """Look at the queue in every way there is; returns what the doctor found wrong."""
    settings = Settings(redis_url=server.url, key_prefix=KEYS.prefix)
    async with Client(settings=settings) as client:
        await client.queues()
        await client.stats()
        page = await client.dead(limit=100)
        await client.dead(limit=100, cursor=page.cursor)
        assert await client.dead_count(error="e3") > 0
        assert len(await client.dead_groups()) == 7
    # with a repair: that one goes through every record
    report = await asyncio.to_thread(examine, settings, audit=True, mend=True)
    assert report.repaired == []
    return [finding.what for finding in report.findings if finding.grade == "wrong"]


def watch_replies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how long the answers are that the product gets."""
    lengths: list[int] = []
    for name in ("call", "command"):
        original = getattr(Transport, name)

        async def noted(self: Transport, *args: Any, _original: Any = original, **more: Any) -> Any:  # noqa: ANN401
            reply = await _original(self, *args, **more)
            if isinstance(reply, list):
                lengths.append(max([len(reply), *(len(r) for r in reply if isinstance(r, list))]))
            return reply

        monkeypatch.setattr(Transport, name, noted)
    return lengths


def check(server: Server, lengths: list[int], count: int) -> str:
    """No answer longer than a page, no command slow on average; returns the figures."""
    assert max(lengths) <= PAGE
    assert len(lengths) > count / PAGE, "who read all that?"
    with server.client() as client:
        stats = cast("Any", client.info("commandstats"))
        slow = cast("Any", client.slowlog_len())
    means = {name[8:]: values["usec_per_call"] for name, values in stats.items()}
    assert max(means.values()) < 5_000, means
    worst = sorted(means.items(), key=lambda item: -item[1])[:3]
    calls = sum(values["calls"] for values in stats.values())
    return f"{calls:,} commands, {slow} over 5 ms; slowest on average, us: {dict(worst)}"


async def look_at(server: Server, count: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Fill, read, check."""
    with server.client(timeout_s=60) as client:
        load(client, count)
        client.config_set("slowlog-log-slower-than", 5_000)
        client.slowlog_reset()
        client.config_resetstat()
    lengths = watch_replies(monkeypatch)
    wrong = await read_everything(server)
    # nobody works here, so jobs wait for workers; nothing else is wrong
    assert len(wrong) == 1, wrong
    return check(server, lengths, count)


async def test_twenty_thousand_are_read_in_pages(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists, pages, groups, the audit and the repair: no answer holds more than a thousand ids."""
    await look_at(make_server(), 20_000, monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_million_are_read_in_pages(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same."""
    print(await look_at(make_server(), 1_000_000, monkeypatch))  # noqa: T201 - for the page
