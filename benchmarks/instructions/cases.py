"""All pieces by name, and the process in which they are counted.

Each is done twice, few and many times, in two children that are forked one after the other:
both have the imports, the preparation and the addresses of their parent, so that nothing but
the work itself is in the difference. For each piece a line says which children did it:

    python -m benchmarks.instructions.cases NAME...
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Final

from benchmarks.instructions import api, core, producer, reference, worker
from benchmarks.instructions.size import FEW, MANY

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.instructions.size import Piece

CASES: Final[dict[str, Callable[[], Piece]]] = {
    "decode": core.decode,
    "finish": core.finish,
    "ids": core.ids,
    "submit": producer.submit,
    "enqueue": producer.enqueue,
    "lone": producer.lone,
    "calls": producer.calls,
    "intake": worker.intake,
    "work": worker.work,
    "retry": worker.retry,
    "threads": worker.threads,
    "request": api.request,
    "post": api.post,
    "ndjson": api.ndjson,
}
REFERENCE: Final = "reference"
_ALL_S: Final = 480
"""Less than the counter waits: a child that hangs is named, and does not outlive its parent."""


def _child(name: str, piece: Piece, count: int, ends_at: float) -> int:
    """Do a piece in a child, and return its process id once it has ended well."""
    child = os.fork()
    if not child:
        signal.alarm(max(1, int(ends_at - time.monotonic())))
        try:
            asyncio.run(_once(piece, count))
        except BaseException:  # noqa: BLE001 - nothing of the parent's may run on in the child
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        late = f"not done {_ALL_S} s after the first began"
        sys.exit(f"{name}: {late if code == -signal.SIGALRM else f'a child ended with {code}'}")
    return child


async def _once(piece: Piece, count: int) -> None:
    await piece(count)
    os._exit(0)  # what ends a loop is no part of any piece


def main() -> None:
    """Do some pieces."""
    sys.setswitchinterval(1000)  # a thread goes on until it waits, not until a time has passed
    ends_at = time.monotonic() + _ALL_S
    for name in sys.argv[1:]:
        piece = reference.reference() if name == REFERENCE else CASES[name]()
        gc.collect()
        gc.freeze()
        few, many = (_child(name, piece, count, ends_at) for count in (FEW, MANY))
        print(name, few, many, flush=True)
        gc.unfreeze()


if __name__ == "__main__":
    main()
