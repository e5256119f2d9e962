"""How many calls the fetcher keeps under way, and what becomes of their answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bananas.broker import Batch, Fenced, Group, Specials
from bananas.errors import BrokerUnavailableError
from bananas.settings import Settings
from bananas.worker.fetcher import ROOM_BYTES, Fetcher
from bananas.worker.places import Service

BATCH = 10


class Bench:
    """A fetcher, and a server that answers when it is told to."""

    def __init__(self) -> None:
        """Want a great deal."""
        self.calls: list[tuple[str, int, asyncio.Future[Batch | Fenced | None]]] = []
        self.came: asyncio.Event = asyncio.Event()
        self.appetite = 100 * BATCH
        self.admitted: list[str] = []
        self.fenced: list[str] = []
        self.idle = asyncio.Event()
        self.specials = Specials()
        settings = Settings(dequeue_batch=BATCH)
        server: Any = self
        self.fetcher = Fetcher(
            server,
            server,
            Service.of(settings),
            server,
            settings,
            known=frozenset({"t"}),
            appetite=lambda: self.appetite,
            admit=lambda batch: self.admitted.append(batch.request),
            fenced=self._on_fenced,
        )
        self.fetcher.start("e")

    def _on_fenced(self, epoch: str) -> None:
        self.fenced.append(epoch)
        self.fetcher.epoch = ""
        self.fetcher.closed = True

    async def dequeue(
        self, request: str, epoch: str, places: list[str], *, limit: int, room_bytes: int
    ) -> Batch | Fenced | None:
        """Stand in for the broker's."""
        del epoch, places, room_bytes
        answer: asyncio.Future[Batch | Fenced | None] = asyncio.get_running_loop().create_future()
        self.calls.append((request, limit, answer))
        self.came.set()
        return await answer

    async def sort(self) -> bool:
        """Stand in for the sorter: reached when there is no work."""
        self.idle.set()
        await asyncio.Event().wait()
        return False

    async def asked(self, count: int) -> None:
        """Wait until so many calls were made."""
        while len(self.calls) < count:
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), 10)

    async def settled(self) -> None:
        """Let everything run that can."""
        for _ in range(10):
            await asyncio.sleep(0)

    def answer(self, number: int, jobs: int, *, record: bytes = b"{}") -> None:
        """Answer a call with so many jobs."""
        request, _, future = self.calls[number]
        ids = [b"%d" % n for n in range(jobs)]
        group = Group("queue:normal", ids, [record] * jobs, [])
        future.set_result(Batch(request, 0, [group] if jobs else []))

    def names(self, *numbers: int) -> list[str]:
        """Return the requests of these calls."""
        return [self.calls[number][0] for number in numbers]


@pytest.fixture
async def bench() -> Any:  # noqa: ANN401 - pytest's generators of fixtures are not worth a type
    """Return a bench whose fetcher is cut in the end."""
    bench = Bench()
    yield bench
    bench.fetcher.cut()
    await asyncio.gather(*bench.fetcher.tasks, return_exceptions=True)


async def test_a_second_call_goes_behind_the_first_while_answers_come_full(bench: Bench) -> None:
    """One call, as nobody knows whether more waits; then two, and never three."""
    await bench.asked(1)
    await bench.settled()
    assert len(bench.calls) == 1
    bench.answer(0, BATCH)
    await bench.asked(3)
    await bench.settled()
    assert [limit for _, limit, _ in bench.calls] == [BATCH] * 3
    assert bench.fetcher.in_flight == {*bench.names(1, 2)}
    bench.answer(1, BATCH)
    await bench.asked(4)
    await bench.settled()
    assert len(bench.calls) == 4
    assert bench.fetcher.in_flight == {*bench.names(2, 3)}
    assert bench.admitted == bench.names(0, 1)


async def test_a_short_answer_ends_it(bench: Bench) -> None:
    """Nothing is left there: the call behind is awaited, and one at a time follows."""
    await bench.asked(1)
    bench.answer(0, BATCH)
    await bench.asked(3)
    bench.answer(1, BATCH - 1)
    await bench.settled()
    assert len(bench.calls) == 3
    bench.answer(2, 1)
    await bench.asked(4)
    await bench.settled()
    assert len(bench.calls) == 4
    assert bench.admitted == bench.names(0, 1, 2)
    bench.answer(3, 0)
    await asyncio.wait_for(bench.idle.wait(), 10)
    assert len(bench.calls) == 4


async def test_an_answer_full_of_bytes_is_full(bench: Bench) -> None:
    """It had no room for more jobs."""
    await bench.asked(1)
    bench.answer(0, 3, record=b"x" * (ROOM_BYTES // 4))
    await bench.asked(3)
    assert len(bench.fetcher.in_flight) == 2


async def test_no_second_call_for_less_than_a_batch(bench: Bench) -> None:
    """What the first is to bring counts."""
    bench.appetite = 2 * BATCH - 1
    await bench.asked(1)
    bench.answer(0, BATCH)
    await bench.asked(2)
    await bench.settled()
    assert len(bench.calls) == 2
    bench.appetite = 2 * BATCH
    bench.answer(1, BATCH)
    await bench.asked(4)
    # two are under way: with one answered, what the other is to bring leaves less than a batch
    bench.answer(2, BATCH)
    bench.appetite = 2 * BATCH - 1
    await bench.settled()
    assert len(bench.calls) == 4


async def test_stopping_admits_what_both_calls_bring(bench: Bench) -> None:
    """And asks for nothing more."""
    await bench.asked(1)
    bench.answer(0, BATCH)
    await bench.asked(3)
    stopping = asyncio.create_task(bench.fetcher.stop(10))
    await bench.settled()
    bench.answer(1, BATCH)
    await bench.settled()
    assert not stopping.done()
    bench.answer(2, BATCH)
    await asyncio.wait_for(stopping, 10)
    assert bench.admitted == bench.names(0, 1, 2)
    assert len(bench.calls) == 3


async def test_a_cut_drops_both(bench: Bench) -> None:
    """Neither is waited for, nor held to be under way."""
    await bench.asked(1)
    bench.answer(0, BATCH)
    await bench.asked(3)
    bench.fetcher.cut()
    await bench.settled()
    assert bench.fetcher.in_flight == set()
    assert all(future.cancelled() for _, _, future in bench.calls[1:])


async def test_closing_lets_the_calls_under_way_end(bench: Bench) -> None:
    """A quiet worker admits what was asked for before, and rests."""
    await bench.asked(1)
    bench.answer(0, BATCH)
    await bench.asked(3)
    bench.fetcher.closed = True
    bench.answer(1, BATCH)
    bench.answer(2, BATCH)
    await bench.settled()
    assert bench.admitted == bench.names(0, 1, 2)
    assert len(bench.calls) == 3
    assert bench.fetcher.starved


async def test_a_failed_call_costs_the_one_behind_it_nothing(bench: Bench) -> None:
    """Its jobs are admitted when they come; the pause after the failure ends with a stir."""
    await bench.asked(1)
    bench.answer(0, BATCH)
    await bench.asked(3)
    bench.calls[1][2].set_exception(BrokerUnavailableError("dequeue", "planted"))
    bench.answer(2, BATCH)
    await bench.settled()
    assert bench.admitted == bench.names(0, 2)
    assert len(bench.calls) == 3
    bench.fetcher.stir()
    await bench.asked(4)


async def test_jobs_behind_a_fence_are_not_admitted(bench: Bench) -> None:
    """They belong to an epoch that is given up; its end is told once."""
    await bench.asked(1)
    bench.answer(0, BATCH)
    await bench.asked(3)
    bench.calls[1][2].set_result(Fenced("e"))
    bench.answer(2, BATCH)
    await bench.settled()
    assert bench.fenced == ["e"]
    assert bench.admitted == bench.names(0)
    assert bench.fetcher.in_flight == set()
