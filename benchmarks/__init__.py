"""Measurements: cases (`bench_*.py`) for pytest-benchmark, a harness (`python -m benchmarks`)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Private servers are started in one way everywhere; that module lies with the tests.
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))
