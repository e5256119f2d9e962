"""Asked to leave: while it starts, while it drains, twice."""

from __future__ import annotations

import asyncio

import pytest

from bananas.runtime.signals import Leave, drain_or_cut, start_or_drain


async def test_a_start_that_takes_long_is_given_up_when_it_is_time_to_leave() -> None:
    """A server that does not answer, a lifespan that hangs: it is cancelled, and nobody waits."""
    leave, cancelled = Leave(), asyncio.Event()

    async def start() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    asyncio.get_running_loop().call_later(0.02, leave.on_drain)
    async with asyncio.timeout(5):
        assert not await start_or_drain(leave, start)
    assert cancelled.is_set()


@pytest.mark.parametrize("how", ["refuses", "fails"])
async def test_a_start_that_takes_its_end_badly_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It refuses, or ends with an error of its own: the process leaves all the same."""
    monkeypatch.setattr("bananas.runtime.signals._GIVE_UP_S", 0.05)
    leave, release = Leave(), asyncio.Event()

    async def start() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if how == "fails":
                raise RuntimeError("on the way out") from None
            await release.wait()

    leave.on_drain()
    async with asyncio.timeout(5):
        assert not await start_or_drain(leave, start)
    release.set()
    await asyncio.sleep(0)


async def test_a_start_that_is_done_counts_even_if_it_is_time_to_leave() -> None:
    """What was started must be stopped; what could not be started is an error."""
    leave = Leave()

    async def fine() -> None:
        leave.on_cut()

    async def bad() -> None:
        raise RuntimeError("at boot")

    assert await start_or_drain(leave, fine)
    with pytest.raises(RuntimeError, match="at boot"):
        await start_or_drain(Leave(), bad)


async def test_the_cut_ends_the_grace() -> None:
    """`stop` is called again, with no grace left."""
    leave, stopped, calls = Leave(), asyncio.Event(), []

    async def stop(grace_s: float) -> None:
        calls.append(grace_s)
        if grace_s == 0:
            stopped.set()
        await stopped.wait()

    loop = asyncio.get_running_loop()
    loop.call_later(0.01, leave.on_drain)
    loop.call_later(0.03, leave.on_cut)
    async with asyncio.timeout(5):
        await drain_or_cut(leave, stop, 30.0)
    assert calls == [30.0, 0.0]
