"""Whether the process lives, and whether it can serve.

Ready means that a script of ours has run on the server lately: a PING would also be
answered by a replica, by a server at its memory limit, or by one whose scripts are denied.
And where workers run beside it, that none of them has stopped asking for jobs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from bananas.errors import BananasError
from bananas.http.problems import Problem, from_error
from bananas.stalls import find_stalls, patience_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.http.operations import Context

LATELY_S: Final = 2.0
PROBE_TIMEOUT_S: Final = 2.0
_PROBE_ID: Final = "bananas-readiness-probe"


class Readiness:
    """Runs a script when asked, at most once in two seconds, however many ask."""

    def __init__(self, context: Context, now: Callable[[], float] = time.monotonic) -> None:
        """Probe through the context's client."""
        self._context = context
        self._now = now
        self._succeeded_at: float | None = None
        self._took_s = 0.0
        self._probe: asyncio.Task[None] | None = None

    async def check(self) -> dict[str, Any]:
        """Return when a script ran last, or raise why none does, or which workers stand still.

        Raises:
            Problem: 503.
        """
        if self._context.stopping.is_set():
            raise Problem("stopping", "it takes no new work")
        if not self._fresh:
            await self._run()
        self._look_at_workers()
        age_s = self._now() - (self._succeeded_at or self._now())
        return {"script_age_s": round(age_s, 3), "script_took_s": round(self._took_s, 6)}

    def _look_at_workers(self) -> None:
        table = self._context.table
        if table is None:
            return
        limit_s = patience_s(self._context.settings)
        stalls = find_stalls(table, limit_s, time.monotonic_ns())
        if stalls:
            raise Problem("not-ready", "; ".join(map(str, stalls)))

    @property
    def _fresh(self) -> bool:
        at = self._succeeded_at
        return at is not None and self._now() - at < LATELY_S

    async def _run(self) -> None:
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._script())
            self._probe.add_done_callback(_seen)
        probe = self._probe
        done, _ = await asyncio.wait({probe}, timeout=PROBE_TIMEOUT_S)
        if not done:
            raise Problem("not-ready", f"no script has run for {PROBE_TIMEOUT_S:g} s")
        error = probe.exception()
        if error is not None:
            if isinstance(error, BananasError):
                raise Problem("not-ready", from_error(error).detail)
            raise error

    async def _script(self) -> None:
        began = self._now()
        await self._context.client.get_jobs([_PROBE_ID])
        await self._context.client.check_durability()
        self._succeeded_at = self._now()
        self._took_s = self._succeeded_at - began


def _seen(probe: asyncio.Task[None]) -> None:
    """Look at a probe's end, so that one nobody waited for to the end is not reported."""
    if not probe.cancelled():
        probe.exception()
