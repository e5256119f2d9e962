"""The peers: version, settings in words (so that their authors can object), and commands.

The settings are the fastest found on two cores; a peer's own defaults are kept where a
change made no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Way:
    """One way to set a peer's workers up.

    Attributes:
        processes: Worker processes in all.
        count: How often the command is started.
        words: The command.
    """

    processes: int
    count: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """One task queue.

    Attributes:
        name: As its authors write it.
        version: What is installed, exactly; empty = this project.
        workers: By kind of job, the ways to be tried; the best counts.
        settings: How it is set up, in words.
        scale: How many times the jobs of the run it gets, so that all drain for about as long.
        packages: Further requirements, exact too.
        bulk: Whether it has a call for many jobs at once.
        node: Runs on node, installed by npm.
        extras: Of its package.
        variables: Of its processes' environment.
        file: The stem of its program, where its name is not.
    """

    name: str
    version: str
    workers: dict[str, tuple[Way, ...]]
    settings: str
    scale: float = 1.0
    packages: tuple[str, ...] = ()
    bulk: bool = False
    node: bool = False
    extras: str = ""
    variables: dict[str, str] = field(default_factory=dict[str, str])
    file: str = ""

    @property
    def key(self) -> str:
        """Its name in files and on the command line."""
        return self.name.lower().replace(" ", "-")

    @property
    def requirements(self) -> tuple[str, ...]:
        """What pip or npm installs."""
        if self.node:
            return (f"{self.key}@{self.version}", *self.packages)
        return (f"{self.key}{self.extras}=={self.version}", *self.packages)

    @property
    def program(self) -> str:
        """The file of its program."""
        return f"with_{self.file or self.key}.{'mjs' if self.node else 'py'}"


Workers = dict[str, tuple[Way, ...]]


def _words(command: str) -> tuple[str, ...]:
    return tuple(command.split())


def _inside(kinds: str, command: str) -> Workers:
    """One command that makes one process or two: `{n}` says how many."""
    ways = tuple(Way(n, 1, _words(command.format(n=n))) for n in (1, 2))
    return dict.fromkeys(kinds.split(), ways)


def _beside(kinds: str, command: str) -> Workers:
    """A command that makes one process, started once or twice."""
    ways = tuple(Way(n, n, _words(command)) for n in (1, 2))
    return dict.fromkeys(kinds.split(), ways)


_BANANAS: Final = _inside(
    "async sync sleep probe",
    "bananas worker with_bananas:app --procs {n} --concurrency 100 --log-level warning",
)
_CELERY: Final = (
    "celery -A with_celery worker -l error --without-gossip --without-mingle --without-heartbeat"
)
_SOLO: Final = _beside("solo", f"{_CELERY} -P solo")["solo"]
_PREFORK: Final = _inside("prefork", f"{_CELERY} -c {{n}}")["prefork"][1:]

PEERS: Final = (
    Peer(
        "bananas",
        "",
        _BANANAS,
        "supervised processes, concurrency 100 each, all guarantees on, completed records not kept",
        scale=20,
        bulk=True,
    ),
    Peer(
        "bananas pure",
        "",
        _BANANAS,
        "the same without its compiled core",
        scale=10,
        bulk=True,
        variables={"BANANAS_PURE": "1"},
        file="bananas",
    ),
    Peer(
        "BullMQ",
        "6.7.0",
        _beside("async sleep probe", "work 200"),
        "processes of node, concurrency 200 each, removeOnComplete",
        scale=4,
        packages=("ioredis@6.0.0",),
        bulk=True,
        node=True,
    ),
    Peer(
        "Dramatiq",
        "2.2.1",
        _inside("sync probe", "dramatiq with_dramatiq -p {n} -t 8")
        | _inside("sleep-sync", "dramatiq with_dramatiq -p {n} -t 100"),
        "8 threads a process (100 for jobs of 1 ms), 1,000 messages prefetched; at least once",
        scale=4,
        variables={"dramatiq_queue_prefetch": "1000"},  # 2 to 3 times the default's rate
        extras="[redis]",
    ),
    Peer(
        "taskiq",
        "0.13.0",
        _inside(
            "async sync sleep probe",
            "taskiq worker with_taskiq:broker --workers {n} --max-async-tasks 100 "
            "--max-prefetch 100 --log-level ERROR",
        ),
        "ListQueueBroker, 100 tasks at once and 100 prefetched a worker, uvloop, orjson; "
        "at most once",
        scale=2,
        packages=("taskiq-redis==1.2.4", "orjson"),
    ),
    Peer(
        "huey",
        "3.5.4",
        _inside("sync probe", "huey_consumer with_huey.huey -k process -w {n} -q -n")
        | _beside("sleep-sync", "huey_consumer with_huey.huey -k thread -w 100 -q -n"),
        "processes (of 100 threads for jobs of 1 ms), results off, no periodic tasks; at most once",
        scale=2,
        packages=("redis",),
    ),
    Peer(
        "SAQ",
        "0.26.4",
        _beside("async sleep probe", "saq with_saq.settings --quiet"),
        "100 jobs at once a worker, results not kept, uvloop, orjson",
        extras="[redis,hiredis]",
        packages=("typing_extensions", "orjson"),  # the first it imports and does not ask for
    ),
    Peer(
        "arq",
        "0.28.0",
        _beside("async sleep probe", "arq with_arq.WorkerSettings"),
        "100 jobs at once a worker, polled every 10 ms, results not kept, uvloop",
    ),
    Peer(
        "streaQ",
        "7.2.0",
        _inside("async sleep probe", "streaq run with_streaq:worker --workers {n}"),
        "100 tasks at once a worker, results not kept, uvloop",
        bulk=True,
    ),
    Peer(
        "Celery",
        "5.7.0",
        {"sync": (*_SOLO, Way(2, 2, _words(f"{_CELERY} -P threads -c 4")), *_PREFORK)}
        | {"probe": _SOLO}
        | _beside("sleep-sync", f"{_CELERY} -P threads -c 100"),
        "solo pools, threads or prefork, whichever is best (100 threads for jobs of 1 ms, solo "
        "when idle), prefetch 100, results and events off, no gossip, no rate limits, acknowledged "
        "early (its default)",
        extras="[redis]",
    ),
    Peer(
        "RQ",
        "3.0.0",
        _beside("sync sleep-sync probe", "python with_rq.py work"),
        "SimpleWorkers (no fork a job), one job at a time each, results not kept",
        scale=0.5,
        bulk=True,
    ),
)
