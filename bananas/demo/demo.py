"""The story of the demo, from an empty folder to every flight stored once.

It starts what a user would start (`bananas up`), speaks to it as a user would (HTTP, the
client), plants bad rows, shows them in the dead-letter queue, repairs and replays them,
and checks the end against the input.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bananas.client import Client
from bananas.demo.dataset import ROWS, find, flights
from bananas.demo.feed import Fed, Feeder
from bananas.demo.planted import Planting
from bananas.demo.report import Summary, checksum, measure, plot, stored_checksum
from bananas.demo.tasks import DATA, DATABASE, open_database
from bananas.embedded import find_server, running
from bananas.errors import BananasError
from bananas.settings import Settings, redacted_url
from bananas.speedups import COMPILED

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

EXIT_OK: Final = 0
EXIT_INCOMPLETE: Final = 1
"""Rows in and rows stored differ."""

_BOOT_S: Final = 30.0
_STOP_S: Final = 40.0
_LOOK_S: Final = 0.2
_HOST: Final = "127.0.0.1"


class DemoError(BananasError):
    """The demo cannot go on; the message holds what its processes said last."""


def main(
    rows: int | None = None,
    keep: bool = False,
    json_output: bool = False,
    out_dir: Path | None = None,
) -> int:
    """Run the demo; returns the exit status.

    Args:
        rows: The first so many flights; None = all 336,776.
        keep: Leave the folder with the database, the server's data and the logs.
        json_output: Print the summary as JSON, and the story on standard error.
        out_dir: Where the plot goes; default: the working directory.
    """
    console = Console(stderr=json_output)
    folder = Path(tempfile.mkdtemp(prefix="bananas-demo-"))
    try:
        summary = _run(console, folder, rows, out_dir or Path.cwd())
    finally:
        if keep:
            console.print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if json_output:
        print(json.dumps(summary.to_dict()))  # noqa: T201 - it is what was asked for
    else:
        _show(console, summary)
    return EXIT_OK if summary.complete else EXIT_INCOMPLETE


def _run(console: Console, folder: Path, rows: int | None, out_dir: Path) -> Summary:
    with console.status("finding the flights of 2013"):
        data = find()
    rows = min(rows or ROWS, ROWS)
    database = folder / "flights.sqlite"
    settings = replace(Settings.from_sources(os.environ), data_dir=folder / "redis")
    summary = Summary(rows_in=rows, core="compiled" if COMPILED else "pure Python")
    summary.server = str(find_server())
    if settings.redis_url is not None:
        summary.server = redacted_url(settings.redis_url)
    summary.processes = settings.proc_count
    console.print(f"server: {summary.server} · core: {summary.core} · workers: {summary.processes}")
    open_database(database).close()
    planting = Planting(rows)
    with _running(settings, folder, data, database) as fleet:
        fleet.wait_ready()
        console.print(f"running: {summary.processes} workers, a warden, an API at {fleet.url}")
        expected = _submit(console, summary, fleet, data, planting)
        asyncio.run(_mend(console, summary, settings, fleet, planting))
        summary.cpu_s = fleet.cpu_by_role()
    measure(summary, database)
    summary.contents_equal = stored_checksum(database) == expected
    path = out_dir / "demo.png"
    if plot(summary, database, path):
        summary.plot = str(path)
    return summary


# --- the processes -----------------------------------------------------------------------------


class _Fleet:
    """`bananas up` as a child of ours, seen through its API."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._process = process
        self._log = log
        self.port = port
        self.url = f"http://{_HOST}:{port}"

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return what the API answers."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:  # noqa: S310 - ours
            return json.load(response)

    def ended(self) -> int:
        """Return how many jobs have ended, one way or the other."""
        stats = self.get("/stats")
        return int(stats.get("completed", 0)) + int(stats.get("failed", 0))

    def check(self) -> None:
        """Raise when the processes are gone.

        Raises:
            DemoError: With their last words.
        """
        if self._process.poll() is not None:
            raise DemoError(
                f"`bananas up` ended with status {self._process.returncode}\n{self._last_words()}"
            )

    def wait_ready(self) -> None:
        """Wait until the API says that the whole works.

        Raises:
            DemoError: It does not, in time.
        """
        deadline_s = time.monotonic() + _BOOT_S
        while time.monotonic() < deadline_s:
            self.check()
            with suppress(urllib.error.URLError, OSError):
                self.get("/readyz")
                return
            time.sleep(0.05)  # a port that does not listen yet has no event to wait for
        raise DemoError(f"not ready after {_BOOT_S:g} s\n{self._last_words()}")

    def cpu_by_role(self) -> dict[str, float]:
        """Return CPU seconds by role, from the titles that our processes carry."""
        spent = {"demo (reads CSV, writes NDJSON)": sum(psutil.Process().cpu_times()[:2])}
        for child in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):
                command = " ".join(child.cmdline())
                role = "Redis"
                if command.startswith("bananas: "):
                    role = command.removeprefix("bananas: ").split()[0]
                times = child.cpu_times()
                spent[role] = spent.get(role, 0.0) + times.user + times.system
        return {role: round(seconds, 2) for role, seconds in spent.items()}

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


@contextmanager
def _running(
    settings: Settings, folder: Path, data: Path, database: Path
) -> Generator[_Fleet, None, None]:
    """Run `bananas up` with a server, a port and files of its own."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]
    environ = {
        **os.environ,
        "BANANAS_DATA_DIR": str(settings.data_dir),
        "BANANAS_API_HOST": _HOST,
        "BANANAS_API_PORT": str(port),
        "BANANAS_PROCS": "auto",
        DATA: str(data),
        DATABASE: str(database),
    }
    command = [sys.executable, "-m", "bananas", "up", "bananas.demo.tasks:app"]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environ, stdout=file, stderr=file)  # noqa: S603
    try:
        yield _Fleet(process, port, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- the story ----------------------------------------------------------------------------------


def _submit(
    console: Console, summary: Summary, fleet: _Fleet, data: Path, planting: Planting
) -> int:
    """Stream every row to the API while its progress shows; returns the sum of their checksums."""
    expected = 0

    def spoiled() -> Iterator[dict[str, Any]]:
        nonlocal expected
        for row in flights(data, summary.rows_in):
            expected += checksum(row)
            yield planting.spoil(row)

    started_s = time.monotonic()
    feeder = Feeder(_HOST, fleet.port, spoiled())
    feeder.start()
    with _progress(console) as progress:
        submitted = progress.add_task("submitted over HTTP", total=summary.rows_in)
        stored = progress.add_task("validated, joined, stored", total=summary.rows_in)
        fed: Fed | None = None
        ended = 0
        while fed is None or ended < fed.accepted:
            if fed is None and feeder.done(_LOOK_S):
                fed = feeder.result()
                summary.submit_s = fed.elapsed_s
            elif fed is not None:
                time.sleep(_LOOK_S)  # the API has counters, not events
            fleet.check()
            ended = fleet.ended()
            progress.update(submitted, completed=fed.accepted if fed else feeder.written)
            progress.update(stored, completed=ended)
    summary.total_s = time.monotonic() - started_s
    if fed.rejected:
        raise DemoError(f"the API rejected {fed.rejected} rows")
    return expected


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        refresh_per_second=5,
    )


async def _mend(
    console: Console, summary: Summary, settings: Settings, fleet: _Fleet, planting: Planting
) -> None:
    """Show what failed, repair it from what the rows should have been, and run it again."""
    dead = fleet.get("/dead?limit=100")["jobs"]
    summary.dead_lettered = len(dead)
    table = Table(
        title=f"dead-letter queue: {len(dead)} of {len(planting)} planted", title_justify="left"
    )
    for heading in ("row", "job", "error"):
        table.add_column(heading, no_wrap=heading != "error")
    for job in dead:
        table.add_row(str(job["payload"].get("n")), job["id"], job["error"])
    console.print(table)
    server = running(settings.data_dir)
    url = settings.redis_url or (server.url if server is not None else None)
    async with Client(url, settings=settings) as client:
        for job in dead:
            real = planting.real[job["payload"]["n"]]
            await client.retry(job["id"], payload={**real, "sent_us": time.time_ns() // 1000})
            summary.repaired += 1
        with console.status("replaying the repaired rows"):
            audit = await client.audit()
            while audit.dead + audit.waiting + audit.leased + audit.scheduled:
                await asyncio.sleep(_LOOK_S)
                audit = await client.audit()
    console.print(f"repaired and replayed: {summary.repaired}")


def _show(console: Console, summary: Summary) -> None:
    """Print the summary for people."""
    table = Table(
        title="336,776 flights" if summary.rows_in == ROWS else "flights", show_header=False
    )
    table.add_column(style="bold")
    table.add_column(justify="right")
    check = "equal" if summary.complete else "NOT EQUAL"
    waits = (summary.wait_p50_ms, summary.wait_p99_ms, summary.wait_max_ms)
    total_cpu_s = sum(summary.cpu_s.values()) or 1.0
    lines = [
        ("rows in", f"{summary.rows_in:,}"),
        ("rows stored", f"{summary.rows_stored:,}  ({check})"),
        ("failed, repaired, replayed", f"{summary.dead_lettered}, {summary.repaired}"),
        ("accepted over HTTP", f"{summary.submitted_per_s:,.0f} rows/s"),
        ("validated, joined, stored", f"{summary.jobs_per_s:,.0f} jobs/s"),
        ("wait p50 · p99 · max", " · ".join(f"{wait:,.0f}" for wait in waits) + " ms"),
        ("total", f"{summary.total_s:.1f} s"),
    ]
    for name, value in lines:
        table.add_row(name, value)
    table.add_section()
    for role, seconds in sorted(summary.cpu_s.items(), key=lambda item: -item[1]):
        table.add_row(f"CPU of {role}", f"{seconds:.1f} s  ({seconds / total_cpu_s:.0%})")
    console.print(table)
    if summary.plot:
        console.print(f"plot: {summary.plot}")
    else:
        console.print("no plot: matplotlib is not installed (pip install 'bananas[demo]')")
