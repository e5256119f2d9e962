"""A handler that forks: the copy takes no part in the work of this process.

A copy may run what it was made for, in `multiprocessing` for example. If it comes back into
our code, by returning from the handler or by awaiting something, it ends there: its job is
the original's, and so are the other jobs, whose runners were copied with it.
"""

from __future__ import annotations

import logging
import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    import asyncio

    from bananas.worker.begun import BegunBoard

EXIT_COPY: Final = 70
"""EX_SOFTWARE: a handler came back in a process that was not meant to run it."""

log = logging.getLogger("bananas.worker")


def end_copies(board: BegunBoard, loop: asyncio.AbstractEventLoop) -> None:
    """Have each forked copy of this process end when it goes on with our work."""
    boards = weakref.ref(board)

    def in_copy() -> None:
        mine = boards()
        if mine is not None:
            mine.begin = mine.end = _end  # type: ignore[assignment]  # never returns
            _blind(loop)

    os.register_at_fork(after_in_child=in_copy)


def _end(*_: object) -> NoReturn:
    with suppress(Exception):
        log.error("a handler returned in a forked copy of its worker, which ends here")
    os._exit(EXIT_COPY)


def _blind(loop: Any) -> None:  # noqa: ANN401 - two kinds of loops, and private names in both
    """Let the copied loop find no poll set: the original's events are not for a copy."""
    with suppress(Exception):
        selector = getattr(loop, "_selector", None)
        fd = loop._get_backend_id() if selector is None else selector.fileno()  # noqa: SLF001
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, fd, inheritable=False)
        os.close(null)
