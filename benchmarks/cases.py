"""Runs the cases of pytest-benchmark for the harness and takes over their figures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT

_QUICK: Final = (
    "--bench-quick",
    "--benchmark-min-rounds=1",
    "--benchmark-max-time=0.02",
    "--benchmark-warmup=off",
)


def run_cases(*, quick: bool, server: str) -> dict[str, dict[str, Any]]:
    """Run every `bench_*.py` and return, by case, its times in us and what it noted.

    Raises:
        subprocess.CalledProcessError: A case failed; pytest has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "cases.json"
        options = _QUICK if quick else ("--benchmark-max-time=0.5",)
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "benchmarks", "-o", "python_files=bench_*.py",
             "-o", "python_functions=bench_*",
             f"--bench-server={server}", f"--benchmark-json={told}",
             "--benchmark-columns=min,median,max,rounds", "--benchmark-sort=name", *options],
            cwd=ROOT, check=True, stdout=sys.stderr,
        )  # fmt: skip
        found = json.loads(told.read_text())["benchmarks"]
    return {
        case["fullname"].removeprefix("benchmarks/"): {
            **{
                f"{figure}_us": round(case["stats"][figure] * 1e6, 3)
                for figure in ("min", "median", "max")
            },
            **case["extra_info"],
        }
        for case in found
    }
