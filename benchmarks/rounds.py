"""Rounds of a case that are few and long, or need something made before each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture


class Rounds:
    """A fixed number of rounds, and figures noted beside their times."""

    def __init__(self, benchmark: BenchmarkFixture, *, quick: bool) -> None:
        """Make one round only when `quick`."""
        self._benchmark: Any = cast("Any", benchmark)  # `pedantic` has no types
        self._quick = quick

    def count(self, wanted: int) -> int:
        """Return how many rounds are made where so many are wanted."""
        return 1 if self._quick else wanted

    def time(
        self, act: Callable[[], object], wanted: int, before: Callable[[], object] | None = None
    ) -> None:
        """Time `act` in `count(wanted)` rounds, each after `before`, which does not count."""
        self._benchmark.pedantic(act, setup=before, rounds=self.count(wanted))

    def note(self, **figures: float) -> None:
        """Keep figures of the case."""
        self._benchmark.extra_info.update(
            {name: round(value, 2) for name, value in figures.items()}
        )
