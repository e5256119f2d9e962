"""The producer without a server: what becomes of jobs that were lost before they were safe."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bananas.broker import Specials
from bananas.errors import BrokerFullError, DurabilityUnconfirmedError
from bananas.producer import Draft, Producer
from bananas.submission import Drafter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bananas.producer import Entry


class Scene:
    """A producer whose server answers as it is told, and the calls that it made."""

    def __init__(self, accepted: Sequence[list[bool]], kept: Sequence[bool]) -> None:
        """Answer calls by `accepted`, and waits for their safety by `kept`."""
        self.calls: list[list[str]] = []
        self.requests: list[str] = []
        self.waits: list[str] = []
        self._accepted = iter(accepted)
        self._kept = iter(kept)
        broker: Any = SimpleNamespace(specials=Specials(), enqueue=self._enqueue)
        self.producer = Producer(broker)
        confirmer: Any = SimpleNamespace(able=True, check=self._check, confirm=self._confirm)
        self.producer._confirmers["fsync"] = confirmer

    async def _enqueue(self, request: str, entries: Sequence[Entry]) -> list[bool]:
        self.requests.append(request)
        self.calls.append([entry.job_id for entry in entries])
        return next(self._accepted)

    async def _check(self) -> None:
        pass

    async def _confirm(self, request: str) -> bool:
        self.waits.append(request)
        return next(self._kept)


def drafts() -> list[Draft]:
    """Return two jobs that are to be on disk, one with an id of its caller's."""
    drafter = Drafter(max_payload_bytes=100, max_depth=4, durability="fsync")
    return [drafter.draft({"name": "t"}), drafter.draft({"name": "t", "id": "mine"})]


@pytest.mark.parametrize(
    ("accepted", "kept", "final"),
    [
        ([[True, False]], [True], [True, False]),
        ([[True, True], [True, True]], [False, True], [True, True]),
        ([[True, True], [False, False]], [False, True], [True, True]),  # its request alone was lost
        ([[True, False], [True, True]], [False, True], [True, True]),
        ([[True, False], [True, False]], [False, True], [True, False]),
    ],
)
async def test_what_was_lost_is_sent_again_under_its_ids(
    accepted: list[list[bool]], kept: list[bool], final: list[bool]
) -> None:
    """Accepted at any time is accepted: the caller's own job is no duplicate of itself."""
    scene = Scene(accepted, kept)
    receipt = await scene.producer.submit_chunk(drafts())
    assert receipt.accepted == final
    assert scene.calls == [receipt.ids] * len(accepted)
    assert scene.waits == scene.requests
    assert receipt.ids[1] == "mine"


async def test_what_is_lost_again_and_again_is_told() -> None:
    """With the ids, so that whoever asked can go on."""
    scene = Scene([[True, True]] * 9, [False] * 9)
    with pytest.raises(DurabilityUnconfirmedError) as caught:
        await scene.producer.submit_chunk(drafts())
    assert list(caught.value.job_ids) == scene.calls[0]
    assert scene.waits == scene.requests


@pytest.mark.parametrize("kept", [(True, False), (False, True), (False, False)])
async def test_one_request_that_was_lost_is_enough(kept: tuple[bool, bool]) -> None:
    """Several are confirmed together only if the server knows them all."""
    scene = Scene([], kept)
    with pytest.raises(DurabilityUnconfirmedError, match="does not know of them"):
        await scene.producer.confirm("fsync", ("r", "s"), ("a", "b"))


async def test_the_failure_of_a_call_without_a_caller_is_nobodys() -> None:
    """The first of a tick is cancelled, its job is sent and fails: no error is left unheard."""
    scene = Scene([], [])
    called = asyncio.Event()

    async def refuse(*_: object) -> list[bool]:
        called.set()
        raise BrokerFullError("enqueue", "planted")

    scene.producer._broker.enqueue = refuse  # type: ignore[method-assign]  # a stand-in
    loop = asyncio.get_running_loop()
    unheard: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    try:
        drafter = Drafter(max_payload_bytes=100, max_depth=4)
        caller = asyncio.ensure_future(scene.producer.submit(drafter.draft({"name": "t"})))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        await called.wait()
        while scene.producer._in_flight:
            await asyncio.wait(scene.producer._in_flight)
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert caller.cancelled()
    assert unheard == []
