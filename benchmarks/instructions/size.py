"""How much a piece is done: what all pieces, and who counts them, agree on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

BATCH: Final = 250
"""Jobs of a batch."""
FEW: Final = 4
MANY: Final = 20
"""Batches of the two runs whose difference is counted; what is prepared is for `MANY` in both."""

Piece: TypeAlias = Callable[[int], Awaitable[None]]
"""Does a piece of work for so many batches, at most `MANY`."""
