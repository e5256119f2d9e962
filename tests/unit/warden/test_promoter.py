"""How long the promoter rests between two looks: by a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from bananas.broker import Promotion
from bananas.keys import Keys
from bananas.warden.promoter import REST_S, Promoter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bananas.clock import Clock

INTERVAL_S = 0.1


class Time:
    """A clock that moves when told; only what passed is asked of it."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.now_s = 1000.0

    def mono_s(self) -> float:
        """Return the time."""
        return self.now_s


class Broker:
    """Nothing is found, but for what the test leaves."""

    def __init__(self) -> None:
        """Have nothing scheduled."""
        self.keys = Keys("bananas")
        self.moved = 0
        self.woken = 0
        self.wait_ms: int | None = None

    async def promote(
        self, served: Sequence[str], placed: Mapping[bytes, str], *, limit: int
    ) -> Promotion:
        """Answer once with what was left."""
        del served, placed, limit
        found = Promotion(0, self.wait_ms, self.moved, self.woken, [])
        self.moved = self.woken = 0
        return found


class Scene:
    """A promoter, its time and what it asks."""

    def __init__(self) -> None:
        """Begin at rest for nothing."""
        self.time = Time()
        self.broker = Broker()
        self.promoter = Promoter(
            cast("Any", self.broker), (), interval_s=INTERVAL_S, clock=cast("Clock", self.time)
        )

    async def look_after(self, seconds: float) -> float:
        """Let time pass and look; returns the pause."""
        self.time.now_s += seconds
        return await self.promoter.promote()

    async def rest(self) -> list[float]:
        """Look after each whole pause until they grow no more; returns the pauses."""
        pauses = [await self.look_after(0)]
        while pauses[-1] < REST_S:
            pauses.append(await self.look_after(pauses[-1]))
        return pauses


@pytest.fixture
def scene() -> Scene:
    """Return one with nothing to find."""
    return Scene()


async def test_pauses_grow_while_nothing_is_found(scene: Scene) -> None:
    """What comes waits no longer than it was quiet before, and never longer than `REST_S`."""
    pauses = await scene.rest()
    assert pauses[0] == INTERVAL_S
    assert pauses == sorted(pauses)
    assert await scene.look_after(3600) == REST_S
    quiet_s = 0.0
    for pause_s in pauses:
        assert pause_s <= max(INTERVAL_S, quiet_s + 1e-9)
        quiet_s += pause_s


async def test_looks_that_came_early_lengthen_nothing(scene: Scene) -> None:
    """Bells, or due jobs that another warden took first: it is time that counts, not looks."""
    scene.broker.moved = 1
    await scene.promoter.promote()
    assert [await scene.look_after(0.003) for _ in range(9)] == [INTERVAL_S] * 9


@pytest.mark.parametrize("what", ["moved", "woken"])
async def test_what_is_found_ends_the_rest(scene: Scene, what: str) -> None:
    """A due job or a foreign push: more of it may come."""
    await scene.rest()
    setattr(scene.broker, what, 1)
    assert await scene.look_after(REST_S) == INTERVAL_S


async def test_no_pause_outlasts_the_next_due_job(scene: Scene) -> None:
    """The next one that is due is waited for, if that is sooner; no other wait is shorter."""
    scene.broker.wait_ms = 30
    assert await scene.look_after(3600) == 0.03
    scene.broker.wait_ms = 30_000
    assert await scene.look_after(0) == REST_S


async def test_an_interval_longer_than_the_rest_is_kept() -> None:
    """Whoever wants fewer looks gets them."""
    promoter = Promoter(cast("Any", Broker()), (), interval_s=60.0, clock=cast("Clock", Time()))
    assert await promoter.promote() == 60.0
