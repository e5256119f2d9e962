"""The tasks that `bananas bench` has its workers run."""

from __future__ import annotations

import time
from typing import Any

from bananas.app import Bananas

app = Bananas()


@app.task(name="bench.nothing")
async def nothing(**row: Any) -> None:  # noqa: ANN401 - whatever was sent
    """Do nothing: what is measured is all the rest."""


@app.task(name="bench.stamp", result=True)
async def stamp() -> float:
    """Return the time at which this began, Unix seconds."""
    return time.time()
