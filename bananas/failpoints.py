"""Named points at which a test ends this process as `kill -9` would: `BANANAS_FAIL=point:n`.

The n-th passage of the point, counted in this process, is its last instruction. With the
variable unset, `around_calls` and `around_begin` give back what they were given, at import:
nothing of this stands in the way of a job then.

Around every script call: `before_<script>` (nothing was sent), `after_<script>_sent` (it was
sent; its answer finds nobody), `after_<script>_reply`. Around the start of a job:
`before_start`, and `mid_job`, where the job has begun.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

C = TypeVar("C", bound="Callable[..., Any]")

_chosen, _, _count = os.environ.get("BANANAS_FAIL", "").partition(":")
ACTIVE: Final = bool(_chosen)

_WRITTEN_S: Final = 0.001
"""A write takes a turn of the loop; an answer that comes meanwhile is seen by nobody."""

_left = int(_count or 1)


def reach(point: str) -> None:
    """End the process if this is the passage that was asked for."""
    global _left  # noqa: PLW0603 - one count a process
    if point == _chosen:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def around_calls(call: C) -> C:
    """Put points around a transport's method that calls a script."""
    if not ACTIVE:
        return call

    @functools.wraps(call)
    async def called(transport: Any, script: Any, *args: Any) -> Any:  # noqa: ANN401 - as the method
        reach(f"before_{script.name}")
        if _chosen == f"after_{script.name}_sent":
            answer = asyncio.ensure_future(call(transport, script, *args))
            await asyncio.sleep(_WRITTEN_S)
            reach(_chosen)
            return await answer
        reply = await call(transport, script, *args)
        reach(f"after_{script.name}_reply")
        return reply

    return called  # type: ignore[return-value]  # the same signature


def around_begin(begin: C) -> C:
    """Put points around the note that a job begins."""
    if not ACTIVE:
        return begin

    @functools.wraps(begin)
    def begun(*args: Any) -> None:  # noqa: ANN401 - as the method
        reach("before_start")
        begin(*args)
        reach("mid_job")

    return begun  # type: ignore[return-value]  # the same signature
