"""Row 8: the append-only file ends at any command, or within one, as after a loss of power.

What a script did is one MULTI/EXEC unit in the file, so a server that loads a cut file stands
between two transitions, never within one.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from append_only import commands, copy_with, increments, whole
from bananas.errors import JobFailedError
from bananas.keys import Keys
from bananas.runtime.processes import run_loop
from whereabouts import Whereabouts, look
from workbench import Bench, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from append_only import Command
    from servers import Server

KEYS = Keys("p")
SAMPLE = 80


async def live(url: str) -> None:
    """Take jobs through what a worker, a warden and an operator do; some are left."""
    async with Bench(url, KEYS.prefix, retry_base_s=0.02) as bench:
        app = bench.app

        @app.task(result=True)
        async def good(n: int) -> int:
            return n

        @app.task(max_retries=2)
        async def bad() -> None:
            raise ValueError("no")

        @app.task(max_retries=1)
        async def worse() -> None:
            raise ValueError("never")

        @app.task
        async def held() -> None:
            await until(lambda: False, within_s=60)

        worker = await bench.worker(worker_concurrency=4)
        bench.warden()
        for n in range(8):
            await good.enqueue(n=n)
        await good.options(priority="high").enqueue_many([{"n": n} for n in range(30)])
        later = [await good.options(delay_s=0.01 * n).enqueue(n=n) for n in range(8)]
        failing = [await bad.enqueue() for _ in range(3)] + [await worse.enqueue()]
        for job in failing:
            with pytest.raises(JobFailedError):
                await job.result(timeout_s=10)
        for job in later:
            await job.result(timeout_s=10)
        await app.client.retry(failing[0].id)
        await bench.status(failing[0].id, "failed")
        await app.client.delete_dead(name="worse")
        await (await good.options(delay_s=600).enqueue(n=1)).cancel()
        await held.enqueue()
        await until(lambda: len(worker.worker._loop_lane.running()) == 1)
        for n in range(6):
            await good.enqueue(n=n)
        await worker.stop(0.0)  # what it ran goes back
        for n in range(6):
            await good.enqueue(n=n)


@pytest.fixture
def file(make_server: Callable[..., Server]) -> tuple[Path, bytes, list[Command]]:
    """Return the folder and the file of a server that saw a life, and the file's commands."""
    server = make_server(aof=True)
    run_loop(live(server.url))
    server.kill()
    data = increments(server.folder).read_bytes()
    found = list(commands(data))
    assert found[-1].end == len(data)
    assert sum(command.name == b"MULTI" for command in found) > 60
    return server.folder, data, found


@pytest.fixture
def loaded(
    make_server: Callable[..., Server], tmp_path: Path
) -> Callable[[Path, bytes], Iterator[Server]]:
    """Return a starter of servers with a given file; each is gone before the next."""
    count = 0

    def load(source: Path, data: bytes) -> Iterator[Server]:
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        copy_with(source, folder, data)
        server = make_server(aof=True, folder=folder)
        yield server
        server.discard()

    return load


def cuts(found: list[Command], *, sample: int | None) -> list[int]:
    """Return where to cut: after every command and in the middle of every one, or a sample."""
    after = [command.end for command in found]
    within = [(command.begin + command.end) // 2 for command in found]
    if sample is None:
        return sorted(after[-1000:] + within[-1000:])
    chance = random.Random(8)
    return sorted(chance.sample(after, 2 * sample // 3) + chance.sample(within, sample // 3))


def accepted(found: list[Command]) -> int:
    """Return how many jobs these commands accepted."""
    wanted = (b"HINCRBY", KEYS.counters.encode(), b"accepted")
    return sum(int(c.words[3]) for c in found if (c.name, *c.words[1:3]) == wanted)


def judge(
    file: tuple[Path, bytes, list[Command]],
    loaded: Callable[[Path, bytes], Iterator[Server]],
    where: list[int],
) -> None:
    """Load the file cut at each of these, and look at every job."""
    folder, data, found = file
    for cut in where:
        for server in loaded(folder, data[:cut]):
            with server.client() as client:
                seen = look(client, KEYS)
            assert seen.problems() == [], f"cut at {cut} of {len(data)}"
            # no more is lost than what was cut off
            assert seen.counters.get("accepted", 0) == accepted(whole(found, cut)), cut


def test_a_sample_of_cuts_leaves_whole_transitions(
    file: tuple[Path, bytes, list[Command]],
    loaded: Callable[[Path, bytes], Iterator[Server]],
) -> None:
    """After loading, every accepted job is in one place, and no more is lost than was cut off."""
    judge(file, loaded, cuts(file[2], sample=SAMPLE))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_cut_leaves_whole_transitions(
    file: tuple[Path, bytes, list[Command]],
    loaded: Callable[[Path, bytes], Iterator[Server]],
) -> None:
    """The same for every command of the last thousand, after it and within it."""
    judge(file, loaded, cuts(file[2], sample=None))


def test_without_units_a_cut_would_be_seen(
    file: tuple[Path, bytes, list[Command]],
    loaded: Callable[[Path, bytes], Iterator[Server]],
) -> None:
    """This very look finds half a transition: with the units taken out, some cuts leave one."""
    folder, data, found = file
    inner = [c for c in found if c.name not in (b"MULTI", b"EXEC")]
    bare = b"".join(data[c.begin : c.end] for c in inner)
    # a dequeue begins by trimming its list: what comes next is the lease
    trims = [n for n, command in enumerate(inner) if command.name == b"LTRIM"]
    assert trims
    for trim in trims[:3]:
        cut = sum(c.end - c.begin for c in inner[: trim + 1])
        for server in loaded(folder, bare[:cut]):
            with server.client() as client:
                assert look(client, KEYS).problems() != []


async def test_after_a_cut_the_rest_is_worked_off(
    file: tuple[Path, bytes, list[Command]],
    loaded: Callable[[Path, bytes], Iterator[Server]],
) -> None:
    """Another fleet takes over what the file still knows: all of it ends, nothing is left."""
    folder, data, found = file
    # in the middle of the life, right after jobs were leased
    middle = next(
        c.end for c in found[len(found) // 2 :] if c.name == b"EXEC" and leases(whole(found, c.end))
    )
    for server in loaded(folder, data[:middle]):
        async with Bench(server.url, KEYS.prefix, lease_ttl_s=1.2, retry_base_s=0.02) as bench:

            @bench.app.task(result=True)
            async def good(n: int) -> int:
                return n

            @bench.app.task(max_retries=2)
            async def bad() -> None:
                raise ValueError("no")

            @bench.app.task(max_retries=1)
            async def worse() -> None:
                raise ValueError("never")

            @bench.app.task
            async def held() -> None:
                return

            bench.warden()
            await bench.worker()
            await until(lambda: worked_off(bench))
            seen: Whereabouts = look(bench.redis, KEYS)
        assert seen.problems() == []
        assert seen.counters["accepted"] == accepted(whole(found, middle))
        assert seen.counters["reclaimed"] > 0


async def worked_off(bench: Bench) -> bool:
    """Tell whether nothing is left but what is due in ten minutes."""
    audit = await bench.audit()
    soon = bench.redis.zcount(KEYS.scheduled, "-inf", time.time() + 60)
    return audit.waiting + audit.leased + soon == 0


def leases(found: list[Command]) -> int:
    """Return how many jobs are leased after these commands."""
    lease = KEYS.lease("").encode()
    ours = [c for c in found if len(c.words) > 1 and c.words[1].startswith(lease)]
    took = sum(len(c.words) - 2 for c in ours if c.name == b"SADD")
    gave = sum(len(c.words) - 2 for c in ours if c.name == b"SREM")
    return took - gave
