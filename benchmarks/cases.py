"""Runs the cases of pytest-benchmark for the harness and takes over their figures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT

Cases = dict[str, dict[str, Any]]
"""By case, its times in us and what it noted."""

_LIVES: Final = {
    "scripts": "scripts",
    "pipelined": "native commands, one for each thing done to a job, pipelined",
    "fewest": "fewest native commands, many jobs each",
}
_BATCHES: Final = (1, 10, 100, 250, 500)
_QUICK: Final = (
    "--bench-quick",
    "--benchmark-min-rounds=1",
    "--benchmark-max-time=0.02",
    "--benchmark-warmup=off",
)


def run_cases(*, quick: bool, server: str) -> Cases:
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


def server_us(cases: Cases, life: str, batch: int) -> float | None:
    """Return the server's CPU for a whole life by calls of so many jobs, us a job."""
    found = cases.get(f"bench_scripts.py::bench_life[{life}-{batch}]", {})
    return found.get("server_us_per_job")


def promotion(cases: Cases) -> dict[str, float]:
    """Return `promoted_per_s` and `slowest_ms`."""
    return cases.get("bench_promotion.py::bench_promotion", {})


def said_cases(cases: Cases) -> str:
    """Return what the server's CPU is by batch size, beside native commands, and of due jobs."""
    costs = {
        life: [cost for batch in _BATCHES if (cost := server_us(cases, life, batch)) is not None]
        for life in _LIVES
    }
    promoted = promotion(cases)
    if not promoted or any(len(of_life) < len(_BATCHES) for of_life in costs.values()):
        return ""
    lines = [
        f"| jobs a call | {' | '.join(map(str, _BATCHES))} |",
        "|---" + "|---:" * len(_BATCHES) + "|",
    ]
    for life, title in _LIVES.items():
        lines.append(_line(title, costs[life]))
        if life != "scripts":
            pairs = zip(costs["scripts"], costs[life], strict=True)
            lines.append(_line("… ratio", [ours / theirs for ours, theirs in pairs]))
    return "\n".join(lines) + (
        f"\n\nDue jobs were promoted at {round(promoted['promoted_per_s'], -3):,.0f}/s of the "
        f"server's time, the slowest call took {promoted['slowest_ms']:.1f} ms."
    )


def _line(title: str, figures: list[float]) -> str:
    return f"| {title} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |"
