"""How a child hears that it should leave: by signal, or by the end of its supervisor."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from bananas.supervisor import Child


_GIVE_UP_S: Final = 1.0
"""How long a start may take to be given up."""


class Leave:
    """Two stages: `drain` asks to finish what runs, `cut` to leave now."""

    def __init__(self) -> None:
        """Start with neither."""
        self.drain = asyncio.Event()
        self.cut = asyncio.Event()

    def on_drain(self) -> None:
        """Finish what runs."""
        self.drain.set()

    def on_cut(self) -> None:
        """Leave now."""
        self.cut.set()
        self.drain.set()

    def listen(self, child: Child) -> None:
        """Hear SIGTERM, SIGQUIT and the lifeline of a supervised child."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.on_drain)
        loop.add_signal_handler(signal.SIGQUIT, self.on_cut)

        def orphaned() -> None:
            loop.remove_reader(child.lifeline_fd)
            self.on_drain()

        loop.add_reader(child.lifeline_fd, orphaned)


async def start_or_drain(leave: Leave, start: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Run `start()`; returns False when it was given up because it is time to leave.

    Raises:
        Exception: What `start` raises.
    """
    starting = asyncio.ensure_future(start())
    leaving = asyncio.ensure_future(leave.drain.wait())
    await asyncio.wait((starting, leaving), return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,), timeout=_GIVE_UP_S)
        if not starting.done() or starting.cancelled() or starting.exception() is not None:
            return False
    await starting
    return True


async def drain_or_cut(
    leave: Leave, stop: Callable[[float], Coroutine[Any, Any, None]], grace_s: float
) -> None:
    """Run `stop(grace_s)`; when the cut comes meanwhile, `stop` sees no more grace."""
    await leave.drain.wait()
    stopping = asyncio.ensure_future(stop(0.0 if leave.cut.is_set() else grace_s))
    cut = asyncio.ensure_future(leave.cut.wait())
    await asyncio.wait((stopping, cut), return_when=asyncio.FIRST_COMPLETED)
    cut.cancel()
    if not stopping.done():
        await stop(0.0)
    await stopping
