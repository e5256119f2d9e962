"""valgrind: how it is called, and what its log says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from benchmarks import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND: Final = (
    shutil.which("valgrind") or "valgrind",
    *("--fair-sched=yes", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
)
_RUN_S: Final = 500
"""Of a core; half a minute is usual."""


def here() -> bool:
    """Tell whether this machine has it."""
    return shutil.which("valgrind") is not None


def counted(words: Sequence[str], environment: Mapping[str, str]) -> tuple[str, dict[int, int]]:
    """Run a program; return what it wrote, and how many instructions each process of it took.

    Raises:
        click.ClickException: The program failed, or was not done in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        try:
            done = subprocess.run(
                [*COMMAND, f"--log-file={log}", *words],
                cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0", **environment},
                capture_output=True, text=True, timeout=_RUN_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise click.ClickException(f"{' '.join(words)}: not done after {_RUN_S} s") from None
        counts = read(log)
    if done.returncode:
        raise click.ClickException(f"{' '.join(words)} failed: {done.stderr[-1000:]}")
    return done.stdout, counts


def read(log: Path) -> dict[int, int]:
    """Return the counts in valgrind's log, by process; a forked one's begin with its parent's."""
    found: list[tuple[str, str]] = re.findall(
        r"^==(\d+)== I\s+refs:\s+([\d,]+)", log.read_text(errors="replace"), re.MULTILINE
    )
    return {int(process): int(count.replace(",", "")) for process, count in found}
