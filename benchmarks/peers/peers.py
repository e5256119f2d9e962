"""The peers: version, settings in words (so that their authors can object), and commands.

The settings are the fastest found on two cores; a peer's own defaults are kept where a
change made no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

PROCESSES: Final = 2
"""Worker processes of each peer: as many as the machine has cores."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One task queue.

    Attributes:
        name: As its authors write it.
        version: What is installed, exactly.
        packages: Further requirements, exact too.
        workers: By kind of job, the command of one worker, and how many of them are started.
        bulk: Whether it has a call for many jobs at once.
        settings: How it is set up, in words.
        node: Runs on node, installed by npm.
    """

    name: str
    version: str
    workers: dict[str, tuple[int, tuple[str, ...]]]
    settings: str
    packages: tuple[str, ...] = ()
    bulk: bool = False
    node: bool = False
    extras: str = field(default="")

    @property
    def key(self) -> str:
        """Its name in files and on the command line."""
        return self.name.lower()

    @property
    def requirements(self) -> tuple[str, ...]:
        """What pip or npm installs."""
        if self.node:
            return (f"{self.key}@{self.version}", *self.packages)
        return (f"{self.key}{self.extras}=={self.version}", *self.packages)

    @property
    def program(self) -> str:
        """The file of its program."""
        return f"with_{self.key}.{'mjs' if self.node else 'py'}"


def _all(kinds: str, count: int, *command: str) -> dict[str, tuple[int, tuple[str, ...]]]:
    return dict.fromkeys(kinds.split(), (count, command))


_CELERY: Final = (
    *("celery", "-A", "with_celery", "worker", "-l", "error"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)

PEERS: Final = (
    Peer(
        "bananas",
        "",
        _all(
            "async sync sleep probe",
            1,
            "bananas",
            "worker",
            "with_bananas:app",
            "--procs",
            str(PROCESSES),
            "--concurrency",
            "50",
            "--log-level",
            "warning",
        ),
        "2 supervised processes, concurrency 50, all guarantees on, completed records not kept",
        bulk=True,
    ),
    Peer(
        "BullMQ",
        "6.7.0",
        _all("async sleep probe", PROCESSES, "work", "200"),
        "2 processes of node, concurrency 200 each, removeOnComplete",
        packages=("ioredis@6.0.0",),
        bulk=True,
        node=True,
    ),
    Peer(
        "Dramatiq",
        "2.2.1",
        _all("sync probe", 1, "dramatiq", "with_dramatiq", "-p", "2", "-t", "8")
        | _all("sleep-sync", 1, "dramatiq", "with_dramatiq", "-p", "2", "-t", "50"),
        "2 processes of 8 threads (50 for jobs of 1 ms); at least once",
        extras="[redis]",
    ),
    Peer(
        "taskiq",
        "0.13.0",
        _all(
            "async sync sleep probe",
            1,
            "taskiq",
            "worker",
            "with_taskiq:broker",
            "--workers",
            "2",
            "--max-async-tasks",
            "100",
            "--log-level",
            "ERROR",
        ),
        "ListQueueBroker, 2 workers, 100 tasks at once each; at most once",
        packages=("taskiq-redis==1.2.4",),
    ),
    Peer(
        "huey",
        "3.5.4",
        _all("sync probe", 1, "huey_consumer", "with_huey.huey", "-k", "process", "-w", "2", "-q")
        | _all(
            "sleep-sync", 1, "huey_consumer", "with_huey.huey", "-k", "thread", "-w", "100", "-q"
        ),
        "2 processes (100 threads for jobs of 1 ms), results off; at most once",
        packages=("redis",),
    ),
    Peer(
        "SAQ",
        "0.26.4",
        _all("async sleep probe", PROCESSES, "saq", "with_saq.settings", "--quiet"),
        "2 workers, 100 jobs at once each, results not kept",
        extras="[redis,hiredis]",
        packages=("typing_extensions",),  # which it imports and does not ask for
    ),
    Peer(
        "arq",
        "0.28.0",
        _all("async sleep probe", PROCESSES, "arq", "with_arq.WorkerSettings"),
        "2 workers, 100 jobs at once each, polled every 10 ms, results not kept",
    ),
    Peer(
        "streaQ",
        "7.2.0",
        _all("async sleep probe", 1, "streaq", "run", "with_streaq:worker", "--workers", "2"),
        "2 workers, 100 tasks at once each, results not kept",
        bulk=True,
    ),
    Peer(
        "Celery",
        "5.7.0",
        _all("sync probe", 1, *_CELERY, "-c", "2")
        | _all("sleep-sync", 1, *_CELERY, "-P", "threads", "-c", "100"),
        "prefork of 2, prefetch 100 (100 threads for jobs of 1 ms), results off, no gossip, "
        "acknowledged early (its default)",
        extras="[redis]",
    ),
    Peer(
        "RQ",
        "3.0.0",
        _all("sync sleep-sync probe", PROCESSES, "python", "with_rq.py", "work"),
        "2 SimpleWorkers (no fork a job), one job at a time each, results not kept",
        bulk=True,
    ),
)
