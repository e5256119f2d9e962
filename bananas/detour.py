"""The node that a slot is moving to: takes the calls that its old node sends there (ASK).

It answers them while the slot is not yet its own, each behind an ASKING of its own. What it
cannot do now goes back to where it came from, to be asked there again later. Calls come here that
are about one key: any other that the node has not got yet it would show as if there were none.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bananas.errors import BrokerUnavailableError
from bananas.link import Link, as_eval, connect, fail, pack
from bananas.replies import Verdict, classify, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.address import Address
    from bananas.link import Call, Counters

_ASKING = "ASKING"


class Detour:
    """One connection beside the transport's own, made when a call needs it, kept until `drop`."""

    def __init__(
        self,
        give_back: Callable[[Call, str], None],
        counters: Counters,
        *,
        client_name: str,
        timeout_s: float,
        now: Callable[[], float],
    ) -> None:
        """Open nothing yet; `give_back` takes what is to be asked again, and why."""
        self._give_back = give_back
        self.counters = counters
        self._client_name = client_name
        self._timeout_s = timeout_s
        self._now = now
        self._address: Address | None = None
        self._waiting: list[Call] = []
        self._opening: asyncio.Task[None] | None = None
        self.link: Link | None = None

    @property
    def outstanding(self) -> int:
        """Calls without an answer so far."""
        asked = sum(call[3] != _ASKING for call in self.link.pending) if self.link else 0
        return len(self._waiting) + asked

    def take(self, call: Call, address: Address) -> None:
        """Ask this node."""
        if self.link is not None and address == self._address:
            self._send(self.link, call)
            return
        self._waiting.append(call)
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(
                self._open(address), name="bananas.detour"
            )

    def drop(self, reason: str) -> None:
        """End the connection; what it owes is given back."""
        if self.link is not None:
            self.link.drop(reason)

    async def close(self) -> None:
        """End for good; calls without an answer fail, their outcome unknown."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            fail(call, BrokerUnavailableError(call[3], "the transport was closed"))
        self.drop("the transport was closed")

    async def _open(self, address: Address) -> None:
        self.drop("the slot moves to another node")
        link = Link(self, self._now)
        why = f"no connection to {address.label} within {self._timeout_s:g} s"
        try:
            async with asyncio.timeout(self._timeout_s):
                await connect(link, address, self._client_name)
        except BaseException as error:
            self._opening = None
            link.drop(str(error))
            if isinstance(error, asyncio.CancelledError):
                raise
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                self._give_back(call, str(error) or why)
            return
        self._opening = None
        self.counters.connects += 1
        self.link, self._address = link, address
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self._send(link, call)

    def _send(self, link: Link, call: Call) -> None:
        first = asyncio.get_running_loop().create_future()
        link.send([(first, pack((_ASKING,)), None, _ASKING, call[4], call[5], False), call])

    # --- reports of the link ------------------------------------------------------------------

    def on_refused(self, link: Link, call: Call, text: str) -> None:
        """Do with a call what its error reply asks for."""
        _, data, script, operation, *_ = call
        match classify(text):
            case _ if operation == _ASKING:
                call[0].cancel()
            case Verdict.NOSCRIPT if script is not None:
                self.counters.script_loads += 1
                self._send(link, (call[0], as_eval(data, script.source), *call[2:]))
            case Verdict.RETRY | Verdict.RECONNECT | Verdict.MOVED | Verdict.ASK:
                self._give_back(call, text)
            case _:
                fail(call, refusal(operation, text, in_script=script is not None))

    def on_lost(self, link: Link, reason: str, *, refused: bool) -> None:  # noqa: ARG002 - an `Owner`'s
        """Give back what a dead connection owes."""
        if link is self.link:
            self.link = None
            self.counters.drops += 1
        owed = [call for call in link.pending if not call[0].done()]
        link.pending.clear()
        for call in owed:
            if call[3] == _ASKING:
                call[0].cancel()
            elif call[6]:
                self._give_back(call, reason)
            else:
                fail(call, BrokerUnavailableError(call[3], f"the answer was lost: {reason}"))

    def on_writable(self) -> None:
        """Nothing was held back: what is sent here is little."""
