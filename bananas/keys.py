"""Every Redis key and channel: one function each, nowhere else.

All names start with the prefix (`bananas` by default; in a cluster it carries a
hash tag, so that the whole key set of one partition lies in one slot). Lists of
waiting ids are named by their *place*, the part after the prefix, because a job
record carries its place as its last member: that is how a script puts a job back
without reading the rest of it.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Priority = Literal["high", "normal", "low"]
PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")
DEFAULT_ROUTING_KEY: Final = "default"


def place(priority: str, routing_key: str = DEFAULT_ROUTING_KEY, task: str | None = None) -> str:
    """Return the name, after the prefix, of the list where such a job waits.

    Args:
        priority: `high`, `normal` or `low`.
        routing_key: Already validated; `default` has the short form.
        task: Set for a task that job-specialized workers want alone.

    Returns:
        `queue:high`, `route:gpu:queue:high`, `task:resize:queue:high` or
        `route:gpu:task:resize:queue:high`.
    """
    route = "" if routing_key in ("", DEFAULT_ROUTING_KEY) else f"route:{routing_key}:"
    alone = "" if task is None else f"task:{task}:"
    return f"{route}{alone}queue:{priority}"


_match_place = re.compile(
    r"(?:route:[A-Za-z0-9_-]+:)?(?:task:[A-Za-z0-9._:-]+:)?queue:(?:high|normal|low)"
).fullmatch


def is_place(text: str) -> bool:
    """Tell whether `place` makes such names; a foreign record may claim any."""
    return _match_place(text) is not None


class Keys:
    """The key set of one prefix; each method names the Redis type it holds."""

    def __init__(self, prefix: str = "bananas") -> None:
        """Build the fixed names once: they are asked for on every call."""
        self.prefix = prefix
        self.scheduled = f"{prefix}:queue:scheduled"  # ZSET  id -> due, unix s; CHANNEL
        self.dead = f"{prefix}:queue:dead"  # ZSET  id -> failed at, unix s
        self.epochs = f"{prefix}:queue:processing:epochs"  # ZSET  epoch -> deadline, unix ms
        self.counters = f"{prefix}:counters"  # HASH  transition -> count
        self.crashes = f"{prefix}:crashes"  # HASH  id -> processes it killed
        self.cancelled = f"{prefix}:cancelled"  # SET   cancelled ids still in a list
        self.specials = f"{prefix}:specials"  # ZSET  task name -> deadline, unix ms
        self.specials_version = f"{prefix}:specials:version"  # STRING  integer
        self.workers = f"{prefix}:workers"  # HASH  epoch -> JSON about its process
        self.job_prefix = f"{prefix}:job:"
        self.result_prefix = f"{prefix}:result:"
        self.notify_prefix = f"{prefix}:result:notify:"

    def job(self, job_id: str) -> str:
        """STRING: the job's record, JSON."""
        return self.job_prefix + job_id

    def waiting(self, where: str) -> str:
        """LIST: ids waiting in one place, pushed at the head, taken at the tail."""
        return f"{self.prefix}:{where}"

    def wake(self, where: str) -> str:
        """LIST: at most one marker; an idle worker of the place blocks on it."""
        return f"{self.prefix}:{where}:wake"

    def sorted(self, where: str) -> str:
        """LIST: ids of the place that were looked through already; older than `waiting`."""
        return f"{self.prefix}:sorted:{where}"

    def served(self, where: str) -> tuple[str, str, str]:
        """Return what a worker needs of a place: its sorted list, its list, its marker."""
        return self.sorted(where), self.waiting(where), self.wake(where)

    def places(self) -> str:
        """SET: places that hold jobs, did so lately, or are served: audits need no SCAN."""
        return f"{self.prefix}:places"

    def request(self, request_id: str) -> str:
        """STRING with TTL: the answer already given to a request."""
        return f"{self.prefix}:request:{request_id}"

    def lease(self, request_id: str) -> str:
        """SET: ids leased by one dequeue request; its id is the token."""
        return f"{self.prefix}:queue:processing:lease:{request_id}"

    def epoch_leases(self, epoch: str) -> str:
        """SET: request ids of the leases that one process epoch holds."""
        return f"{self.prefix}:queue:processing:epoch:{epoch}"

    def result(self, job_id: str) -> str:
        """HASH with TTL: status, result, error, completed_at, duration_ms."""
        return self.result_prefix + job_id

    def notify(self, job_id: str) -> str:
        """CHANNEL: one message when the job has finally completed or failed."""
        return self.notify_prefix + job_id
