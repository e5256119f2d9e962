"""A server, supervised processes and clients: each a process of its own, made for one measurement.

Nothing here works while the clock runs except a look at a counter every few ms.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final, Self

import psutil

from bananas.keys import Keys
from benchmarks import ROOT
from benchmarks.records import PLACE
from benchmarks.workload import STARTS_VARIABLE
from servers import Server

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.setup import Setup

PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.003
_SENT: Final = ("evalsha", "eval", "blpop")


class BedError(Exception):
    """A process did not come up or did not end its work; holds its last words."""


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU time that processes have used, seconds; the kernel counts in 10 ms."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


class Bed:
    """Everything of one measurement, ended with it."""

    def __init__(self, setup: Setup) -> None:
        """Prepare; entering starts the server."""
        self.setup = setup
        policy = {"none": None, "aof": "everysec", "synced": "always"}[setup.persistence]
        aof = () if policy is None else ("--appendonly", "yes", "--appendfsync", policy)
        self._replicated = setup.durability == "replica"
        self.server = Server(setup.server, arguments=aof, tcp=self._replicated)
        self.workers: list[psutil.Process] = []
        self.others: list[psutil.Process] = []
        """Supervisor and warden."""
        self._stack = ExitStack()
        self._env = {name: text for name, text in os.environ.items() if "BANANAS" not in name}
        self._env[STARTS_VARIABLE] = str(self.server.folder / "starts")
        if setup.core == "pure":
            self._env["BANANAS_PURE"] = "1"

    def __enter__(self) -> Self:
        """Start the server."""
        self._stack.callback(self.server.discard)
        self.server.start()
        self.redis = self._stack.enter_context(self.server.client())
        if self._replicated:
            self._start_replica()
        return self

    def _start_replica(self) -> None:
        """Start a server that follows ours, and wait until it does."""
        self.redis.config_set("repl-diskless-sync-delay", 0)
        following = ("--replicaof", f"127.0.0.1 {self.server.port}")
        replica = Server(self.setup.server, arguments=following)
        self._stack.callback(replica.discard)
        replica.start()
        deadline_s = time.monotonic() + PATIENCE_S
        while dict(self.redis.info("replication")).get("slave0", {}).get("state") != "online":
            if time.monotonic() > deadline_s:
                raise BedError("the replica does not follow")
            time.sleep(_LOOK_S)

    def __exit__(self, *_: object) -> None:
        """End all that was started; who is held still could not end."""
        self.thaw_workers()
        self._stack.close()

    # --- processes ----------------------------------------------------------------------------

    def start_workers(self) -> None:
        """Start supervised workers and wait until all have an epoch."""
        setup = self.setup
        procs = len(os.sched_getaffinity(0)) if setup.procs == "auto" else int(setup.procs)
        supervisor = self._start(
            "worker", "benchmarks.workload:app",
            "--procs", str(procs), "--concurrency", str(setup.concurrency),
            "--retention-completed", f"{setup.retention_s}s",
        )  # fmt: skip
        registered: dict[Any, Any] = {}
        deadline_s = time.monotonic() + PATIENCE_S
        while len(registered) < procs:
            self._look(supervisor, deadline_s)
            registered = self.redis.hgetall("bananas:workers")
        pids = [json.loads(info)["pid"] for info in registered.values()]
        self.workers = [psutil.Process(pid) for pid in pids]
        family = psutil.Process(supervisor.pid)
        self.others = [
            each for each in (family, *family.children(recursive=True)) if each.pid not in pids
        ]

    def start_api(self) -> tuple[psutil.Process, int]:
        """Start one API process; returns it and its port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        supervisor = self._start("api", "--host", "127.0.0.1", "--port", str(port))
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self._look(supervisor, deadline_s)
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
        family = psutil.Process(supervisor.pid).children(recursive=True)
        return max(family, key=lambda each: each.memory_info().rss), port

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.server.folder / "bananas.log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", "bananas", *arguments,
             "--redis-url", self.server.url, "--log-level", "warning"],
            cwd=ROOT, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        self._stack.callback(_end, process)
        return process

    def _look(self, process: subprocess.Popen[bytes], deadline_s: float) -> None:
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise BedError((self.server.folder / "bananas.log").read_text()[-2000:])
        time.sleep(0.01)

    # --- clients ------------------------------------------------------------------------------

    def client(self, verb: str, **arguments: object) -> dict[str, Any]:
        """Run a client to its end and return what it measured."""
        return self.finish(self.begin_client(verb, **arguments))

    def begin_client(self, verb: str, **arguments: object) -> subprocess.Popen[bytes]:
        """Start a client; `finish` gives what it measured."""
        arguments |= {
            "url": self.server.url,
            "payload_bytes": self.setup.payload_bytes,
            "durability": self.setup.durability,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.client", verb, json.dumps(arguments)],
            cwd=ROOT, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._stack.callback(process.kill)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Wait for a client."""
        said, complaint = process.communicate(timeout=PATIENCE_S)
        if process.returncode:
            raise BedError(complaint.decode()[-2000:])
        measured: dict[str, Any] = json.loads(said)
        return measured

    # --- looking ------------------------------------------------------------------------------

    def server_cpu_s(self) -> float:
        """Return the CPU time of the server's process, seconds, in us."""
        info: dict[str, Any] = self.redis.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def commands(self) -> int:
        """Return how many commands the server has run, those inside of scripts included."""
        info: dict[str, Any] = self.redis.info("stats")
        return int(info["total_commands_processed"])

    def sent(self) -> int:
        """Return how many scripts and waits processes of ours have asked the server for."""
        stats: dict[str, Any] = self.redis.info("commandstats")
        return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in _SENT)

    def used_bytes(self) -> int:
        """Return the memory that the server has allocated."""
        info: dict[str, Any] = self.redis.info("memory")
        return int(info["used_memory"])

    def record_bytes(self) -> int:
        """Return how long the record of some job that waits is."""
        keys = Keys()
        job_id = self.redis.lindex(keys.waiting(PLACE), 0)
        return int(self.redis.strlen(keys.job(job_id.decode())))

    def freeze_workers(self) -> None:
        """Hold the worker processes still, as they wait for work."""
        for worker in self.workers:
            os.kill(worker.pid, signal.SIGSTOP)

    def thaw_workers(self) -> None:
        """Let them go on."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGCONT)

    def await_completed(self, count: int) -> int:
        """Wait until so many jobs are completed; returns how many are."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (done := int(self.redis.hget("bananas:counters", "completed") or 0)) < count:
            if time.monotonic() > deadline_s:
                raise BedError((self.server.folder / "bananas.log").read_text()[-2000:])
            time.sleep(_LOOK_S)
        return done


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
