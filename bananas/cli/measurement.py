"""A quick self-measurement: a private server, real worker processes, three figures."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bananas.cli.bench_tasks import app, nothing, stamp
from bananas.cli.options import VARIABLE_PREFIX, variables_of
from bananas.cli.screen import jobs, note, progress
from bananas.cli.session import run
from bananas.embedded import start
from bananas.errors import BananasError
from bananas.settings import Settings, available_cores
from bananas.speedups import COMPILED

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_BOOT_S: Final = 30.0
_STALL_S: Final = 30.0
_LOOK_S: Final = 0.01
_STOP_S: Final = 20.0
_FILLER: Final = "x" * 150


class BenchError(BananasError):
    """The measurement broke off; the message says at what."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured.

    Attributes:
        enqueue_per_s: Jobs a second through `enqueue_many`, one process.
        drain_per_s: Jobs a second, from the first completed to the last.
        server_cpu_us: CPU of the server for a job, enqueue to completion, microseconds.
        start_ms: From submission to the handler's start in an idle fleet, sorted, ms.
        result_ms: From submission to the result in the producer's hand, sorted, ms.
    """

    enqueue_per_s: float
    drain_per_s: float
    server_cpu_us: float
    start_ms: list[float]
    result_ms: list[float]

    def told(self) -> dict[str, float]:
        """Return the figures by name."""
        return {
            "enqueue_many_per_s": round(self.enqueue_per_s),
            "drain_per_s": round(self.drain_per_s),
            "server_cpu_us_per_job": round(self.server_cpu_us, 2),
            "start_p50_ms": round(percentile(self.start_ms, 50), 3),
            "start_p99_ms": round(percentile(self.start_ms, 99), 3),
            "result_p50_ms": round(percentile(self.result_ms, 50), 3),
            "result_p99_ms": round(percentile(self.result_ms, 99), 3),
        }


def percentile(ordered: list[float], share: int) -> float:
    """Return the value that `share` per cent of the sorted ones do not exceed."""
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


def measure(
    number: int, samples: int, procs: str, *, quiet: bool
) -> tuple[Figures, dict[str, Any]]:
    """Measure on a private server in a folder that is removed afterwards.

    Args:
        number: Of jobs to enqueue and drain.
        samples: Of single jobs for the latency.
        procs: Worker processes, as the setting has it.
        quiet: Say nothing meanwhile.

    Returns:
        The figures, and the conditions they were measured under.

    Raises:
        BenchError: The workers did not do their work.
        EmbeddedServerError: No server can be started.
        SettingsError: `procs` is wrong.
    """
    folder = Path(tempfile.mkdtemp(prefix="bananas-bench-"))
    try:
        with start(folder / "redis") as server:
            settings = Settings.from_sources({}, redis_url=server.url, procs=procs)
            app.configure(settings)
            conditions = {
                "server": f"{server.binary}, append-only file every second, unix socket",
                "core": "compiled" if COMPILED else "pure Python",
                "workers": settings.proc_count,
                "cores": available_cores(),
                "load_before": round(os.getloadavg()[0], 2),
                "jobs": number,
                "payload_bytes": len(next(_rows(1))["note"]) + 50,
                "python": platform.python_version(),
                "settings": "defaults: every guarantee on, records kept for 24 h",
            }
            return run(_measure(number, samples, settings, folder, quiet=quiet)), conditions
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rows(number: int) -> Iterator[dict[str, Any]]:
    for index in range(number):
        yield {"index": index, "user": "user@example.com", "note": _FILLER}


async def _measure(
    number: int, samples: int, settings: Settings, folder: Path, *, quiet: bool
) -> Figures:
    async with app:
        if not quiet:
            note(f"enqueueing {jobs(number)}")
        cpu_before_s = await _server_cpu_s()
        report = await nothing.enqueue_many(_rows(number), keep_verdicts=False)
        with _workers(settings, folder) as process:
            drained_per_s = await _drain(number, process, folder, quiet=quiet)
            cpu_s = await _server_cpu_s() - cpu_before_s
            if not quiet:
                note(f"timing {jobs(samples, 'single')}")
            start_ms, result_ms = await _latency(samples)
    return Figures(
        enqueue_per_s=report.rate,
        drain_per_s=drained_per_s,
        server_cpu_us=cpu_s / number * 1e6,
        start_ms=sorted(start_ms),
        result_ms=sorted(result_ms),
    )


async def _server_cpu_s() -> float:
    transport = (await app.client.session()).broker.transport
    text: bytes = await transport.command("INFO", "cpu", repeat=True)
    lines = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    return float(lines["used_cpu_sys"]) + float(lines["used_cpu_user"])


@contextmanager
def _workers(settings: Settings, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run worker processes, and have them leave afterwards."""
    ours = {variable for item in fields(Settings) for variable in variables_of(item.name)}
    environ = {
        name: text
        for name, text in os.environ.items()
        if name not in ours and not name.startswith(VARIABLE_PREFIX)
    }
    environ["BANANAS_REDIS_URL"] = settings.redis_url or ""
    environ["BANANAS_LOG_LEVEL"] = "warning"
    command = [sys.executable, "-m", "bananas", "worker", "bananas.cli.bench_tasks:app"]
    with (folder / "workers.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [*command, "--procs", str(settings.procs)],
            env=environ,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C ends us, and we end them
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _drain(
    number: int, process: subprocess.Popen[bytes], folder: Path, *, quiet: bool
) -> float:
    """Watch the workers; return jobs a second from the first completed to the last.

    Raises:
        BenchError: They stand still, or have left.
    """
    first: tuple[float, int] | None = None
    last_s, last_done, patience_s = time.perf_counter(), 0, _BOOT_S
    with progress("draining", number, "jobs", quiet=quiet) as bar:
        while True:
            stats = await app.client.stats()
            now_s, done = time.perf_counter(), stats.get("completed", 0)
            if done > last_done:
                last_s, last_done, patience_s = now_s, done, _STALL_S
                bar.to(done, jobs=jobs(done))
                if first is None:
                    first = (now_s, done)
            if done >= number:
                began_s, begun = first or (now_s, 0)
                return (done - begun) / max(1e-9, now_s - began_s) if done > begun else 0.0
            if process.poll() is not None or now_s - last_s > patience_s:
                tail = (folder / "workers.log").read_text("utf-8", "replace")[-1500:]
                raise BenchError(f"the workers did {done} of {number} jobs and stopped:\n{tail}")
            await asyncio.sleep(_LOOK_S)


async def _latency(samples: int) -> tuple[list[float], list[float]]:
    """Time single jobs in an idle fleet: (until the start, until the result), ms."""
    start_ms: list[float] = []
    result_ms: list[float] = []
    for _ in range(samples):
        await asyncio.sleep(0.005)  # idle again
        wall_s, begun_s = time.time(), time.perf_counter()
        job = await stamp.enqueue()
        started_s = await job.result(timeout_s=_STALL_S)
        result_ms.append((time.perf_counter() - begun_s) * 1e3)
        start_ms.append((started_s - wall_s) * 1e3)
    return start_ms, result_ms


def summary_ms(ordered: list[float]) -> str:
    """Return sorted times for a person."""
    p99, mean = percentile(ordered, 99), statistics.fmean(ordered)
    return f"{percentile(ordered, 50):.2f} ms p50, {p99:.2f} ms p99, {mean:.2f} ms mean"
