"""The fault matrix of `docs/guarantees.md` is whole, and names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
ROWS = range(1, 49)


def rows() -> dict[int, str]:
    """Return the rows of the matrix by their number."""
    section = re.search(r"^## 2\. .*?(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section, "the page lost its fault matrix"
    found = re.findall(r"^\| (\d+) \|(.*)\|$", section[0], re.MULTILINE)
    assert len(found) == len({number for number, _ in found}), "a row stands there twice"
    return {int(number): rest for number, rest in found}


def test_every_row_has_a_line() -> None:
    """No fault is passed over in silence."""
    assert sorted(rows()) == list(ROWS)


def test_every_row_names_its_tests_or_says_why_not() -> None:
    """A line names files of tests, or says in words that it is not shown."""
    untold = [
        number
        for number, rest in rows().items()
        if "`tests/" not in rest and "not shown" not in rest
    ]
    assert untold == []


def test_every_test_it_names_is_there() -> None:
    """A renamed test is renamed in the matrix, too."""
    named = set(re.findall(r"`(tests/[^`]+)`", PAGE.read_text()))
    assert len(named) > 20
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_every_test_of_a_row_is_in_the_matrix() -> None:
    """A file that shows a row is found from the row."""
    text = "\n".join(rows().values())
    files = {
        str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "faults").glob("test_row_*.py")
    }
    assert files
    assert sorted(name for name in files if f"`{name}`" not in text) == []
