"""Answers of batches: counts, lines, and the file between a fast server and a slow reader."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.http.exchange import Answer, ClientGoneError
from bananas.http.problems import Problem
from bananas.http.verdicts import Backlog, Summary, VerdictLines
from bananas.submission import Verdict

if TYPE_CHECKING:
    from starlette.types import Message


class Reader:
    """A client that may take its time."""

    def __init__(self) -> None:
        """Read at once, until told otherwise."""
        self.messages: list[Message] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def send(self, message: Message) -> None:
        """Take a message once reading."""
        await self.reading.wait()
        self.messages.append(message)

    def answer(self) -> Answer:
        """Return an answer to this client."""
        return Answer({}, self.send)

    @property
    def body(self) -> bytes:
        """All that was read."""
        return b"".join(m.get("body", b"") for m in self.messages)

    @property
    def ended(self) -> bool:
        """Whether the answer is whole."""
        return bool(self.messages) and not self.messages[-1].get("more_body", False)


def accepted(*ids: str) -> list[Verdict]:
    """Return verdicts on lines that became jobs."""
    return [Verdict(index, job_id, "accepted") for index, job_id in enumerate(ids)]


def open_files() -> int:
    """Return how many files this process has open."""
    return len([*Path("/proc/self/fd").iterdir()])


@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(1, 50))), st.integers(0, 60))
def test_a_backlog_is_a_queue(steps: list[bytes | int], memory: int) -> None:
    """Whatever is put and taken, bytes come out once, in order, from memory or file."""
    backlog = Backlog(memory)
    put = taken = b""
    for step in steps:
        if isinstance(step, bytes):
            backlog.put(step)
            put += step
        else:
            got = backlog.take(step)
            assert got or taken == put
            taken += got
    while got := backlog.take(7):
        taken += got
    assert taken == put
    assert backlog.file_bytes == 0
    backlog.close()


def test_a_backlog_keeps_little_in_memory() -> None:
    """Beyond its memory it writes to a file that has no name, gives the room back and closes it."""
    open_before = open_files()
    backlog = Backlog(100)
    for _ in range(1000):
        backlog.put(b"x" * 100)
    assert backlog.file_bytes == 99_900
    assert sum(map(len, backlog._memory)) <= 100
    while backlog.take(1000):
        pass
    assert backlog._file is not None
    assert os.fstat(backlog._file).st_size == 0
    assert os.fstat(backlog._file).st_nlink == 0
    backlog.put(b"y")
    backlog.close()
    assert backlog.take(10) == b""
    backlog.put(b"z")
    assert backlog.take(10) == b""
    assert open_files() == open_before


async def test_verdict_lines_are_json_in_order() -> None:
    """Each verdict is a line; hostile field names stay inside their strings."""
    reader = Reader()
    lines = VerdictLines(reader.answer())
    hostile = Verdict(1, None, "rejected", 'a"\n\u2028b', "unknown")
    await lines.take([1, 3], [*accepted("x"), hostile])
    await lines.take([4], [Verdict(0, "y", "duplicate")])
    await lines.finish({})
    assert reader.ended
    assert [json.loads(line) for line in reader.body.split(b"\n")[:-1]] == [
        {"line": 1, "id": "x", "status": "accepted"},
        {"line": 3, "status": "rejected", "field": 'a"\n\u2028b', "rule": "unknown"},
        {"line": 4, "id": "y", "status": "duplicate"},
    ]


async def test_verdicts_do_not_wait_for_their_reader() -> None:
    """While the reader sleeps verdicts pile up on disk, and all reach it afterwards."""
    reader = Reader()
    reader.reading.clear()
    lines = VerdictLines(reader.answer(), max_memory_bytes=100)
    async with asyncio.timeout(5):
        for number in range(1, 501):
            await lines.take([number], accepted(f"id-{number}"))
    assert lines._backlog.file_bytes > 10_000
    reader.reading.set()
    await lines.finish({})
    assert [json.loads(line)["line"] for line in reader.body.splitlines()] == [*range(1, 501)]


async def test_a_reader_a_whole_file_behind_holds_up_the_batch() -> None:
    """When the file is full the next verdict waits until the reader has taken some."""
    reader = Reader()
    reader.reading.clear()
    lines = VerdictLines(reader.answer(), max_memory_bytes=0, max_file_bytes=200)
    await lines.take([1], accepted("x"))
    await asyncio.sleep(0)  # the writer has the first and waits for its reader
    for number in range(2, 7):
        await lines.take([number], accepted("x"))
    waiting = asyncio.create_task(lines.take([7], accepted("x")))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    reader.reading.set()
    await waiting
    await lines.finish({})
    assert len(reader.body.splitlines()) == 7


async def test_a_reader_that_takes_nothing_is_gone() -> None:
    """A reader that stalls ends the batch, whether verdicts still come or not."""
    reader = Reader()
    lines = VerdictLines(reader.answer(), stall_s=0.02)
    await lines.take([1], accepted("x"))
    await asyncio.sleep(0)
    reader.reading.clear()
    await lines.take([2], accepted("x"))
    with pytest.raises(ClientGoneError):
        await lines.finish({})
    with pytest.raises(ClientGoneError):
        await lines.take([3], accepted("x"))
    await lines.abandon()


async def test_a_failure_after_the_first_verdict_is_the_last_line() -> None:
    """Once lines are out, a problem can only follow them."""
    reader = Reader()
    lines = VerdictLines(reader.answer())
    await lines.take([1], accepted("x"))
    await lines.fail(Problem("broker-full", "full", undecided_from=2))
    last = json.loads(reader.body.splitlines()[-1])
    assert last["type"] == "urn:bananas:problem:broker-full"
    assert last["undecided_from"] == 2
    assert reader.messages[0]["status"] == 200
    assert reader.ended


@pytest.mark.parametrize("outlet", [VerdictLines, Summary])
async def test_a_failure_before_any_verdict_is_the_status(
    outlet: type[VerdictLines | Summary],
) -> None:
    """As long as nothing is out, the response itself is the problem."""
    reader = Reader()
    await outlet(reader.answer()).fail(Problem("broker-full", "full", undecided_from=1))
    assert reader.messages[0]["status"] == 507
    assert json.loads(reader.body)["undecided_from"] == 1


async def test_an_abandoned_answer_stops_its_writer() -> None:
    """Nobody listens: the writer ends, the file is closed."""
    reader = Reader()
    reader.reading.clear()
    lines = VerdictLines(reader.answer(), max_memory_bytes=0)
    await lines.take([1], accepted("x"))
    await lines.abandon()
    assert reader.messages == []
    assert lines._backlog._file is None
    await VerdictLines(reader.answer()).abandon()


async def test_a_summary_lists_a_hundred_rejections_and_counts_all() -> None:
    """Counts are whole, lists are bounded."""
    reader = Reader()
    summary = Summary(reader.answer())
    await summary.take([1, 2], [*accepted("x"), Verdict(1, "y", "duplicate")])
    bad = [Verdict(n, None, "rejected", "name", "is required") for n in range(150)]
    await summary.take(range(3, 153), bad)
    await summary.finish({"lines": 152})
    counts = json.loads(reader.body)
    assert (counts["accepted"], counts["duplicates"], counts["rejected"]) == (1, 1, 150)
    assert [r["line"] for r in counts["rejections"]] == list(range(3, 103))
    assert counts["lines"] == 152
