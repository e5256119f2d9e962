"""How a body becomes chunks, whatever its pieces, and how few of them are under way."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bananas.errors import BrokerFullError
from bananas.http import batch
from bananas.http.batch import Batch
from bananas.http.exchange import ClientGoneError
from bananas.http.operations import Context
from bananas.settings import Settings
from bananas.submission import Verdict
from bananas.tokens import Grant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Message

    from bananas.client import Client
    from bananas.http.problems import Problem

LIMIT = 64 + 16 * 1024
SETTINGS = Settings(redis_url="redis://nowhere.invalid", max_payload_bytes=64)


class Jobs:
    """A client that accepts objects with a name, when it is let."""

    def __init__(self) -> None:
        """Accept at once."""
        self.chunks: list[list[Any]] = []
        self.under_way = self.most_under_way = 0
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def submit_chunk(
        self,
        items: list[Any],
        *,
        durability: str | None = None,  # noqa: ARG002 - the real client's
    ) -> list[Verdict]:
        """Judge a chunk."""
        self.chunks.append(items)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await self.open.wait()
        self.under_way -= 1
        if self.error is not None:
            raise self.error
        return [
            Verdict(index, item.get("id", "made"), "accepted")
            if isinstance(item, dict)
            else Verdict(index, None, "rejected", "item", "must be an object")
            for index, item in enumerate(items)
        ]


class Outlet:
    """Remembers the verdicts."""

    def __init__(self) -> None:
        """Begin empty."""
        self.verdicts: list[tuple[int, str]] = []
        self.members: dict[str, Any] | None = None
        self.problem: Problem | None = None

    async def take(self, lines: Sequence[int], verdicts: Sequence[Verdict]) -> None:
        """Take verdicts."""
        self.verdicts += [(n, v.status) for n, v in zip(lines, verdicts, strict=True)]

    async def finish(self, members: dict[str, Any]) -> None:
        """Take the end."""
        self.members = members

    async def fail(self, problem: Problem) -> None:
        """Take the problem."""
        self.problem = problem

    async def abandon(self) -> None:
        """Do nothing."""


class Sender:
    """A body that comes in parts, one when it is asked for."""

    def __init__(self, *parts: bytes, then: str = "end") -> None:
        """Send the parts, then end, hang up ("gone") or fall silent ("silence")."""
        self.parts = list(parts)
        self.then = then
        self.asked = 0

    async def receive(self) -> Message:
        """Give the next part."""
        self.asked += 1
        if self.parts:
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": True}
        if self.then == "gone":
            return {"type": "http.disconnect"}
        if self.then == "silence":
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": b"", "more_body": False}


async def run(
    sender: Sender, jobs: Jobs | None = None, key: bytes | None = None
) -> tuple[Outlet, Jobs, Context]:
    """Submit a batch to its end."""
    jobs = jobs or Jobs()
    context = Context(cast("Client", jobs), SETTINGS)
    outlet = Outlet()
    under_test = Batch(context, outlet, key)
    try:
        async with asyncio.timeout(10):
            await under_test.run(sender.receive)
    finally:
        await under_test.close()
    return outlet, jobs, context


LINES = st.lists(
    st.one_of(
        st.just(b""),
        st.just(b"  "),
        st.just(b'{"a":1}'),
        st.just(b'{"b":"\xc3\xbc\\n"}'),
        st.just(b"[]"),
        st.just(b"{"),
        st.just(b"\xff"),
        st.just(b'"' + b"x" * LIMIT + b'"'),
        st.just(b"{" + b" " * (LIMIT - 2) + b"}"),
    ),
    max_size=12,
)


def expected(lines: list[bytes]) -> list[tuple[int, str]]:
    """Return the verdicts on lines, one by one."""
    verdicts: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if len(line) > LIMIT:
            verdicts.append((number, "rejected"))
        elif line.strip():
            try:
                item = json.loads(line)
            except ValueError:
                item = None
            status = "accepted" if isinstance(item, dict) else "rejected"
            verdicts.append((number, status))
    return verdicts


@given(LINES, st.booleans(), st.booleans(), st.lists(st.integers(0, 4 * LIMIT), max_size=8))
@settings(deadline=None, max_examples=150)
def test_pieces_do_not_matter(lines: list[bytes], crlf: bool, ended: bool, cuts: list[int]) -> None:
    """However a body is cut, every line has the verdict it has by itself, in order."""
    body = (b"\r\n" if crlf else b"\n").join(lines) + (b"\n" if ended else b"")
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    parts = [body[a:b] for a, b in pairwise(edges)]
    outlet, _, _ = asyncio.run(run(Sender(*parts)))
    assert outlet.verdicts == expected(lines)
    assert outlet.members is not None


async def test_chunks_are_full_but_not_over_full() -> None:
    """A flood goes in chunks of 500 lines, at most four of them under way."""
    body = b'{"name":"t"}\n' * 5_001
    outlet, jobs, _ = await run(Sender(*(body[i : i + 9_999] for i in range(0, len(body), 9_999))))
    assert [n for n, _ in outlet.verdicts] == list(range(1, 5_002))
    assert max(map(len, jobs.chunks)) == 500
    assert jobs.most_under_way <= 4
    assert outlet.members is not None
    assert outlet.members["lines"] == 5_001


async def test_the_body_is_read_only_as_fast_as_chunks_land() -> None:
    """While four chunks are under way nothing more of the body is asked for."""
    jobs = Jobs()
    jobs.open.clear()
    sender = Sender(*[b'{"name":"t"}\n' * 500] * 20)
    running = asyncio.create_task(run(sender, jobs))
    for _ in range(200):
        await asyncio.sleep(0)
    assert sender.asked <= 6
    assert jobs.under_way == 4
    jobs.open.set()
    outlet, _, _ = await running
    assert len(outlet.verdicts) == 10_000


async def test_large_lines_make_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk holds about as many bytes as it may, however few lines that is."""
    monkeypatch.setattr(batch, "CHUNK_BYTES", 1_000)
    _, jobs, _ = await run(Sender((b'{"a":"%b"}\n' % (b"x" * 300)) * 10))
    assert [len(chunk) for chunk in jobs.chunks] == [4, 4, 2]


async def test_lines_that_are_all_broken_are_bounded_too() -> None:
    """Rejected lines count towards a chunk: a body of nothing else takes no memory."""
    outlet, jobs, _ = await run(Sender(b"{\n" * 2_000))
    assert len(outlet.verdicts) == 2_000
    assert jobs.chunks == [[], [], [], []]


async def test_lines_that_are_all_too_long_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither their number nor their length takes memory."""
    monkeypatch.setattr(batch, "CHUNK_LINES", 3)
    outlet, jobs, _ = await run(Sender((b"x" * (LIMIT + 1) + b"\n") * 6, b"x" * (LIMIT + 1)))
    assert outlet.verdicts == [(number, "rejected") for number in range(1, 8)]
    assert jobs.chunks == [[], [], []]


async def test_of_a_line_that_is_too_long_nothing_is_kept() -> None:
    """Its end is awaited, and what follows is a line again."""
    under_test = Batch(Context(cast("Client", Jobs()), SETTINGS), Outlet(), None)
    for data, kept in ((b"x" * LIMIT, LIMIT), (b"x", 0), (b"x" * 99, 0), (b"x\n{", 1)):
        await under_test._feed(data)
        assert len(under_test._rest) == kept
    assert len(under_test._chunk.rejected) == 1


async def test_lines_for_other_queues_are_rejected_alone() -> None:
    """A caller's token allows some; what is no object is judged by its form."""
    body = b'{"routing_key":"gpu"}\n{"routing_key":"cpu"}\n{}\n[]\n'
    jobs, outlet = Jobs(), Outlet()
    grant = Grant.of(["enqueue:gpu"])
    under_test = Batch(Context(cast("Client", jobs), SETTINGS), outlet, None, grant)
    await under_test.run(Sender(body).receive)
    await under_test.close()
    assert [status for _, status in outlet.verdicts] == ["accepted", *["rejected"] * 3]
    assert jobs.chunks == [[{"routing_key": "gpu"}, []]]


async def test_a_key_names_lines_without_an_id() -> None:
    """Under a key each line's job has an id by its number; ids of the lines' own stay."""
    body = b'{"name":"t"}\n\n{"name":"t","id":"x"}\n{"name":"t","id":null}\n'
    _, jobs, _ = await run(Sender(body), key=b"k")
    (items,) = jobs.chunks
    ids = [item["id"] for item in items]
    assert ids == [batch.derived_id(b"k", 1), "x", batch.derived_id(b"k", 4)]


async def test_a_failure_names_the_first_line_without_a_verdict() -> None:
    """What Redis refuses ends the batch; lines before have their verdicts."""
    jobs = Jobs()
    running = asyncio.create_task(run(Sender(*[b'{"name":"t"}\n' * 500] * 10), jobs))
    while not jobs.chunks:  # noqa: ASYNC110 - ticks, no time
        await asyncio.sleep(0)
    jobs.error = BrokerFullError("enqueue", "OOM")
    outlet, _, _ = await running
    assert outlet.problem is not None
    assert outlet.problem.kind == "broker-full"
    assert outlet.problem.members["undecided_from"] == len(outlet.verdicts) + 1
    assert len(outlet.verdicts) < 5_000


async def test_nothing_is_sent_after_a_failure() -> None:
    """A line without a verdict is repeated: it must not have become a job meanwhile."""
    jobs = Jobs()
    jobs.error = BrokerFullError("enqueue", "OOM")
    outlet, _, _ = await run(Sender(b"{}\n" * 501, then="silence"), jobs)
    assert [len(chunk) for chunk in jobs.chunks] == [500]
    assert outlet.problem is not None
    assert outlet.problem.members["undecided_from"] == 1


async def test_a_defect_of_ours_is_not_hidden() -> None:
    """An error that is nobody's but ours goes up as it is."""
    jobs = Jobs()
    jobs.error = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError):
        await run(Sender(b"{}\n"), jobs)


async def test_a_sender_that_hangs_up_ends_the_batch() -> None:
    """No answer is attempted to somebody who is gone."""
    with pytest.raises(ClientGoneError):
        await run(Sender(b"{}\n", then="gone"))


async def test_a_sender_that_falls_silent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time without a byte the batch ends with 408; what came before has its verdicts."""
    monkeypatch.setattr(batch, "IDLE_S", 0.05)
    outlet, _, _ = await run(Sender(b'{}\n{}\n{"half', then="silence"))
    assert outlet.verdicts == [(1, "accepted"), (2, "accepted")]
    assert outlet.problem is not None
    assert outlet.problem.kind == "request-timeout"
    assert outlet.problem.members["undecided_from"] == 3
