"""The proxy of a run, one process: stands before the server and fails on cue.

`python -m chaos.wire UPSTREAM LEDGER SEED` prints its address and obeys lines on its
standard input: `lose P` (answers are lost, connections cut, by this chance), `silence`,
`refuse`, `cut-off` (workers get no answer to their next dequeue, and no new connection),
`calm`. It counts the requests that came a second time after their answer was lost.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import Any, Final
from weakref import WeakSet

from bananas.scripts import load
from chaos.ledger import Pen
from faults.proxy import Fault, FaultProxy, Plan

LOSSES: Final = (
    Fault.DROP_REPLY,
    Fault.CUT_AFTER,
    Fault.RESET_MID_REPLY,
    Fault.DUPLICATE,
)
LOOK_S: Final = 0.2
_NAMES_WORKER: Final = b"\r\nbananas:worker:"
_NO_JOBS: Final = b"*2\r\n"  # 'ok' and the time; places with their jobs would follow
REMEMBERED: Final = 5000


class Repeats:
    """Which requests of a script came again, by the id in their first key."""

    def __init__(self) -> None:
        """Know the scripts by content."""
        self.counts = {"enqueue": 0, "dequeue": 0, "settle": 0}
        self._names = {load(name).sha.encode(): name for name in self.counts}
        self._seen: dict[tuple[str, bytes], None] = {}

    def look(self, frame: bytes) -> None:
        """Look at one request."""
        words = frame.split(b"\r\n", 8)
        if len(words) < 8 or words[2].upper() != b"EVALSHA":
            return
        name = self._names.get(words[4], "")
        if name not in self.counts:
            return
        # a settle carries its lease in the first key, and that comes often: the whole call counts
        mark = (name, frame if name == "settle" else words[8].split(b"\r\n", 1)[0])
        if mark in self._seen:
            self.counts[name] += 1
        self._seen[mark] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]


class _IfJobs(Plan):
    """A fault that is meant for an answer with jobs in it."""


class Wire(FaultProxy):
    """A proxy that knows which connections are those of workers."""

    def __init__(self, upstream: str, seed: int) -> None:
        """Stand before the server."""
        super().__init__(upstream, tcp=True, seed=seed)
        self._workers: WeakSet[asyncio.Task[None]] = WeakSet()
        self._dequeue = load("dequeue").sha.encode()
        self.cutting_off = False

    def _fate_of(self, frame: bytes) -> Plan | None:
        task = asyncio.current_task()
        assert task is not None
        if _NAMES_WORKER in frame:
            self._workers.add(task)
            if self.cutting_off:
                return Plan(Fault.CUT_BEFORE, 0, None, 0.0)
        if self.cutting_off and task in self._workers and self._dequeue in frame:
            return _IfJobs(Fault.DROP_REPLY, 0, None, 0.0)
        return super()._fate_of(frame)

    async def _answer(self, wire: Any, frame: bytes, fate: Plan | Fault | None) -> bool:  # noqa: ANN401 - the proxy's own
        if isinstance(fate, _IfJobs) and frame.startswith(_NO_JOBS):
            fate = None
        return await super()._answer(wire, frame, fate)

    def obey(self, words: list[bytes]) -> None:
        """Do what a line says."""
        match words:
            case [b"lose", chance]:
                self.chaos(float(chance), LOSSES)
            case [b"silence"]:
                self.silence()
            case [b"refuse"]:
                self.refuse()
            case [b"cut-off"]:
                self.cutting_off = True
            case [b"calm"]:
                self.cutting_off = False
                self.calm()
                self.speak()
            case _:
                raise ValueError(words)


async def count(wire: Wire, pen: Pen) -> None:
    """Count what comes again, and forget what came."""
    repeats = Repeats()
    told = Counter[str]()
    while True:
        await asyncio.sleep(LOOK_S)
        seen, wire.seen = wire.seen, []
        for frame in seen:
            repeats.look(frame)
        counts = Counter({**repeats.counts, "fired": wire.fired})
        if more := counts - told:
            told = counts
            pen.note("wire", **more)


async def main(upstream: str, ledger: str, seed: int) -> None:
    """Serve until the standard input ends."""
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with Wire(upstream, seed) as wire:
        print(wire.url, flush=True)  # noqa: T201 - that is how its starter learns it
        counting = asyncio.ensure_future(count(wire, Pen(ledger)))
        while line := await commands.readline():
            wire.obey(line.split())
        counting.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
