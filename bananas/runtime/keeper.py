"""The process around an embedded server: the server outlives everybody who needs it.

A supervisor that is killed leaves workers that finish their jobs and give back the rest, for
which they need the server. So it is no child of the supervisor but of its keeper, which ends
it when told to, or when the supervisor is gone and the last sibling has left.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import setproctitle

if TYPE_CHECKING:
    from types import FrameType

    from bananas.embedded import PreparedServer
    from bananas.supervisor import Child

ROLE: Final = "redis"

_LOOK_S: Final = 0.1
_MARGIN_S: Final = 15.0
"""What siblings get on top of their grace, the warden's own patience with them included."""


def keep(prepared: PreparedServer, child: Child, *, grace_s: float) -> int:
    """Run the server as a child of this process; return its exit status when it has ended."""
    setproctitle.setproctitle(f"bananas: {ROLE} {child.number}")
    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGTERM, _heed)
    signal.signal(signal.SIGCHLD, _heed)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    prepared.wait_gone()
    keeper = os.getpid()
    server = os.fork()
    if server == 0:
        try:
            signal.set_wakeup_fd(-1)
            prepared.exec(parent_pid=keeper)
        finally:
            os._exit(1)
    return _attend(server, child, woken, grace_s)


def _heed(number: int, frame: FrameType | None) -> None:
    """Have the number written to the wake-up pipe, which the interpreter does."""


def _attend(server: int, child: Child, woken: int, grace_s: float) -> int:
    deadline_s: float | None = None  # known once the supervisor is gone
    told = False
    while True:
        watched = [woken] if deadline_s is not None else [woken, child.lifeline_fd]
        select.select(watched, [], [], None if deadline_s is None else _LOOK_S)
        signals = b""
        with suppress(BlockingIOError):
            signals = os.read(woken, 4096)
        ended, status = os.waitpid(server, os.WNOHANG)
        if ended:
            return _as_it_ended(os.waitstatus_to_exitcode(status))
        if deadline_s is None and child.supervisor_gone():
            deadline_s = time.monotonic() + grace_s + _MARGIN_S
        if deadline_s is None:
            leave = signal.SIGTERM in signals
        else:  # the signal of our parent's death is no order: those who drain need the server
            leave = not child.living_siblings() or time.monotonic() > deadline_s
        if leave and not told:
            told = True
            os.kill(server, signal.SIGTERM)


def _as_it_ended(code: int) -> int:
    """Return an exit status, or end as the server did when a signal ended it."""
    if code < 0:
        with suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code
