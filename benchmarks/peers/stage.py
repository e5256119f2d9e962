"""One measurement of one peer: a fresh server, its workers, its client; ended with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final, Self

import psutil

from benchmarks.peers import homes
from benchmarks.peers.board import Board
from servers import Server

if TYPE_CHECKING:
    from benchmarks.peers.peers import Peer, Way

Figures = dict[str, float]

_LOOK_S: Final = 0.002
_BOOT_S: Final = 60.0
_STILL_S: Final = 20.0
"""How long a worker may make no progress before it is given up."""


class StageError(Exception):
    """A peer did not do its work; holds its last words."""


class Stage:
    """A server on loopback and the processes of one peer."""

    def __init__(self, peer: Peer) -> None:
        """Prepare; entering starts the server."""
        self._peer = peer
        self._stack = ExitStack()
        self._workers: list[psutil.Process] = []

    def __enter__(self) -> Self:
        """Start the server and lay out the board."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._folder = folder
        self.server = Server("redis", tcp=True)
        self._stack.callback(self.server.discard)
        self.server.start()
        self.redis = self._stack.enter_context(self.server.client())
        self.board = Board.create(folder / "board")
        self._stack.callback(self.board.close)
        return self

    def __exit__(self, *_: object) -> None:
        """End all that was started."""
        self._stack.close()

    # --- what is measured ---------------------------------------------------------------------

    def enqueue(self, kind: str, count: int, how: str) -> Figures:
        """Submit jobs from one process; nobody works."""
        before_s = self._server_cpu_s()
        said = self._client("enqueue", kind, str(count), how)
        return {
            "per_s": count / said["seconds"],
            "client_us": said["cpu_s"] / count * 1e6,
            "server_us": (self._server_cpu_s() - before_s) / count * 1e6,
        }

    def waiting_bytes(self, kind: str, count: int) -> Figures:
        """Return what a waiting job takes in Redis, `used_memory`; in bulk if that can be."""
        how = "many" if self._peer.bulk else "one"
        self._client("enqueue", kind, "100", how)
        before = int(self._info("memory")["used_memory"])
        self._client("enqueue", kind, str(count), how)
        after = int(self._info("memory")["used_memory"])
        return {"bytes": (after - before) / count}

    def drain(self, kind: str, count: int, way: Way) -> Figures:
        """Jobs wait; workers start. The clock runs from the tenth part done to the last.

        So neither the start of processes counts, nor an import; CPU is of the same stretch.
        """
        how = "many" if self._peer.bulk else "one"
        self._client("enqueue", kind, str(count), how)
        self._start_workers(way)
        first = self._await(count // 10)
        began_s, worker_s, server_s = time.perf_counter(), self._cpu_s(), self._server_cpu_s()
        self._await(count)
        seconds = time.perf_counter() - began_s
        done = count - first
        if not done:
            raise StageError(f"{count} jobs were done before a look: give it more")
        return {
            "per_s": done / seconds,
            "worker_us": (self._cpu_s() - worker_s) / done * 1e6,
            "server_us": (self._server_cpu_s() - server_s) / done * 1e6,
            "processes": way.processes,
        }

    def latency(self, count: int) -> Figures:
        """Submit one job at a time to idle workers; from before the call to the first line."""
        self._start_workers(self._peer.workers["probe"][-1])
        self._client("enqueue", "probe", "20", "one")
        self._await(20)
        self.board.clear()
        latencies = sorted(self._client("probe", str(count), "0.01")["latencies_ms"])
        cuts = quantiles(latencies, n=100)
        return {"p50_ms": median(latencies), "p99_ms": cuts[98]}

    # --- processes ----------------------------------------------------------------------------

    def _environment(self, number: int) -> dict[str, str]:
        board = self._folder / "board"
        return homes.environment(self._peer, self.server.port, board, number)

    def _start_workers(self, way: Way) -> None:
        log = self._stack.enter_context((self._folder / "log").open("ab"))
        for number in range(way.count):
            process = subprocess.Popen(
                homes.command(self._peer, way.words),
                cwd=homes.PROGRAMS,
                env=self._environment(number),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self._stack.callback(_end, process)
            self._workers.append(psutil.Process(process.pid))

    def _client(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            homes.program(self._peer, *words),
            cwd=homes.PROGRAMS,
            env=self._environment(0),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise StageError(done.stderr[-1000:])
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    # --- looking ------------------------------------------------------------------------------

    def _await(self, count: int) -> int:
        """Wait until so many are done; returns how many are."""
        seen, changed_s, patience_s = 0, time.monotonic(), _BOOT_S
        while (done := self.board.done) < count:
            now_s = time.monotonic()
            if done != seen:
                seen, changed_s, patience_s = done, now_s, _STILL_S
            elif now_s - changed_s > patience_s:
                words = (self._folder / "log").read_text(errors="replace")[-1000:]
                raise StageError(f"{done} of {count} done, then nothing: {words}")
            time.sleep(_LOOK_S)
        return done

    def _cpu_s(self) -> float:
        total = 0.0
        for worker in self._workers:
            for each in (worker, *worker.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += sum(each.cpu_times()[:2])
        return total

    def _server_cpu_s(self) -> float:
        info = self._info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def _info(self, section: str) -> dict[str, Any]:
        found: dict[str, Any] = self.redis.info(section)
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, patience_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            if number == signal.SIGKILL:
                return
