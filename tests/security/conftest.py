"""Fleets for the tests of this folder; every process and key is gone afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fleets import Fleet, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Return an empty ledger."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def fleet(ledger: Ledger, tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Return a maker of fleets on a URL; what the test leaves running is ended, its log shown."""
    made: list[Fleet] = []

    def make(url: str, **env: Any) -> Fleet:  # noqa: ANN401
        made.append(Fleet(tmp_path, url, ledger, **env))
        return made[-1]

    yield make
    for one in made:
        one.end()
        print(one.text()[-6000:])  # noqa: T201 - pytest shows it when the test failed
