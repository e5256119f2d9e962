"""Bad rows, planted among the real ones: each spoils one field in a way seen in the wild."""

from __future__ import annotations

from typing import Any, Final

SPOILED: Final[tuple[tuple[str, Any], ...]] = (
    ("carrier", "ZZ"),
    ("month", 13),
    ("origin", "???"),
    ("distance", "far"),
    ("hour", 24),
    ("flight", None),
    ("dest", 7),
)
"""(field, value) of each planted row."""


class Planting:
    """Which rows are spoiled, and what they were."""

    def __init__(self, rows: int) -> None:
        """Spread the spoiled rows over `rows`."""
        step = max(1, rows // (len(SPOILED) + 1))
        numbers = [step * (index + 1) for index in range(len(SPOILED))]
        self._spoiled = dict(zip(numbers, SPOILED, strict=True)) if rows > len(SPOILED) else {}
        self.real: dict[int, dict[str, Any]] = {}
        """The rows as they should have been, by number: what repairs them."""

    def __len__(self) -> int:
        """Return how many rows are spoiled."""
        return len(self._spoiled)

    def spoil(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row, spoiled if it is one of those."""
        found = self._spoiled.get(row["n"])
        if found is None:
            return row
        field, value = found
        self.real[row["n"]] = row
        return {**row, field: value}
