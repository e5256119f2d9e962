"""What the pure twin's run leaves out, so that a round of both cores stays short.

The first run tells all of it already: these tests go through the core, if at all, as many
others do that stay. `--all` leaves nothing out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent

LEFT_OUT: Final = (
    "docs",
    "faults",
    "integration/cli",
    "integration/http/test_durability.py",
    "integration/lua",
    "integration/test_durability.py",
    "integration/test_embedded.py",
    "model",
    "security",
    "source/test_deployment.py",
    "source/test_docs.py",
    "source/test_documents.py",
    "source/test_floors.py",
    "source/test_lua_headers.py",
    "system/fleet",
    "system/supervisor",
    "unit/benchmarks",
    "unit/chaos",
    "unit/cli",
    "unit/demo",
    "unit/supervisor",
)
"""Folders and files of `tests/`; what is marked `slow` is left out wherever it is."""


def is_left_out(path: Path, *, slow: bool) -> bool:
    """Tell whether the twin can do without a test of this file."""
    return slow or any(path.is_relative_to(HERE / part) for part in LEFT_OUT)
