"""Commands under test: in this process, quick, or as programs with a fleet of real workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from bananas.cli.root import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from click.testing import Result

_BARE = ("REDIS_URL", "API_PORT", "JOB_TIMEOUT", "MAX_RETRIES", "LOG_LEVEL", "LOG_FORMAT")
_STOP_S = 20.0
_BOOT_S = 30.0

APP = """\
from bananas import Bananas

app = Bananas()


@app.task(result=True)
async def add(x: int, y: int) -> int:
    return x + y


@app.task(max_retries=1)
async def check(n: int) -> None:
    if n < 0:
        raise ValueError(f"negative: {n}")


@app.task
async def keep(**row: object) -> None: ...
"""


def plain_environ(**given: str) -> dict[str, str]:
    """Return our environment without settings, with those given."""
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith("BANANAS_") or name == "BANANAS_PURE"
    }
    for name in _BARE:
        kept.pop(name, None)
    # Commands run in folders of their own, and find the package of this very checkout.
    kept["PYTHONPATH"] = str(Path(__file__).parents[1])
    return kept | given


def invoke(
    *args: str,
    env: Mapping[str, str | None] | None = None,
    input: str | bytes | None = None,  # noqa: A002
) -> Result:
    """Run a command here; an exception that is no exit is raised."""
    blank: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("BANANAS_") and name != "BANANAS_PURE"
    }
    blank |= dict.fromkeys(_BARE)
    runner = CliRunner(env={**blank, **(env or {})})
    return runner.invoke(cli, list(args), input=input, catch_exceptions=False)


class Program:
    """A command that runs until it is told to stop; what it says goes to a file."""

    def __init__(self, args: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        """Start it in `folder`."""
        self.log = folder / f"{args[0]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bananas", *args],
                cwd=folder,
                env=plain_environ(**env),
                stdout=log,
                stderr=log,
            )

    def said(self) -> str:
        """Return all it has said."""
        return self.log.read_text("utf-8", "replace")

    def until(self, pattern: str) -> str:
        """Wait until it has said something that matches; returns all it said."""
        deadline = time.monotonic() + _BOOT_S
        while not re.search(pattern, self.said()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)  # a file that another process writes cannot be waited for
        return self.said()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextmanager
def program(*args: str, folder: Path, **env: str) -> Iterator[Program]:
    """Run a command beside the test."""
    running = Program(args, folder, env)
    try:
        yield running
    finally:
        running.stop()


def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait until a condition holds; fails when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)  # what another process does cannot be waited for


def members(result: Result) -> Any:  # noqa: ANN401 - JSON is what it is
    """Return the JSON that a command printed, and nothing else."""
    import json  # noqa: PLC0415 - beside its one use

    return json.loads(result.stdout)
