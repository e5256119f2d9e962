"""What a figure depends on and is nobody's knob: machine, versions, load. No names, no paths."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bananas import speedups
from benchmarks import ROOT
from servers import KINDS, MORE_KINDS, available, version_line

if TYPE_CHECKING:
    from collections.abc import Mapping

_SPIN_S: Final = 0.2
_PACKAGES: Final = ("uvloop", "hiredis", "orjson", "uvicorn", "starlette")


def conditions() -> dict[str, Any]:
    """Return the conditions of a run that begins now."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "system": f"{platform.system()} {platform.machine()}",
        "load_at_start": load(),
        "free_share": free_share(),
        "python": platform.python_version(),
        "core": "compiled" if speedups.COMPILED else "pure",
        "packages": {name: version(name) for name in _PACKAGES},
        "servers": [version_line(kind).split(" (")[0] for kind in available((*KINDS, *MORE_KINDS))],
    }


def load() -> list[float]:
    """Return the load averages of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def free_share() -> float:
    """Return which share of all cores processes get here that are busy on each: 1.0 when quiet.

    Takes a fifth of a second. The load average tells the last minute, this the moment.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    reading, writing = os.pipe()
    children: list[int] = []
    for _ in range(cores - 1):
        child = os.fork()
        if child == 0:
            _spin(writing)
            os._exit(0)
        children.append(child)
    _spin(writing)
    for child in children:
        os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return round(sum(map(float, pipe)) / cores, 2)


def _spin(writing: int) -> None:
    """Be busy and write which share of a core that got."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall_s < _SPIN_S:
        pass
    share = (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)
    os.write(writing, f"{share}\n".encode())


def commit() -> tuple[str, bool]:
    """Return the commit and whether the package differs from it; ("", True) outside of git."""
    git = shutil.which("git")
    if git is None:
        return "", True
    head = _said(git, "rev-parse", "--short=12", "HEAD")
    changed = _said(git, "status", "--porcelain", "--", "bananas")
    return head, bool(changed) or not head


def _said(*argv: str) -> str:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def machine_kind(known: dict[str, Any]) -> str:
    """Return the name of the history that figures of such machines go to."""
    text = f"{known['system']} {known['cpu']} {known['cores']} cores".lower()
    text = re.sub(r"\((?:r|tm)\)|@.*?ghz|processor|cpu", " ", text)
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def said(run: Mapping[str, Any]) -> str:
    """Return the conditions of a run of curves or of a budget, for people."""
    known, knobs, free = run["conditions"], run["parameters"], sorted(run["free_shares"])
    dirty = " and changes" if run["dirty"] else ""
    shares = f"{free[len(free) // 2]:.0%} ({free[0]:.0%} to {free[-1]:.0%})" if free else "some"
    missing = f" {len(run['failures'])} points are missing." if run["failures"] else ""
    return (
        f"{run['date']}, commit {run['commit'] or 'unknown'}{dirty}. {known['cpu']}, "
        f"{known['cores']} cores, {known['system']}; load at start {known['load_at_start'][0]}, at "
        f"the end {run['load_at_end'][0]}; before each sample {shares} of the cores were free. "
        f"Python {known['python']}, {known['core']} core; {known['servers'][0]}, unix socket, no "
        f"persistence. At most {knobs['jobs']:,} jobs a sample, of {knobs['payload_bytes']} bytes "
        f"where nothing else is said, {run['repeats']} repeats, interleaved: median (min to max)."
        f"{missing} CPU in µs a job."
    )
