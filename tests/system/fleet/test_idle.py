"""What an idle fleet costs Redis: commands are counted, by whom and how many."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bananas.settings import Settings
from fleets import session_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Fleet, Scene

BUDGET_PER_S = 5.0
"""Commands a second and process that an idle fleet may send, all its processes together."""
FIXED = 40
"""What may come once: a first look, a scan that falls into the time looked at."""
LOOK_S = 6.0


def test_an_idle_fleet_sends_few_commands(fleet: Callable[..., Fleet], scene: Scene) -> None:
    """At the default rhythms; what scripts do within the server is not counted, it is theirs."""
    defaults = Settings(redis_url="redis://none")
    one = fleet(
        LEASE_TTL=f"{defaults.lease_ttl_s}s",
        BEAT_INTERVAL=f"{defaults.beat_interval_s}s",
        SCHEDULER_INTERVAL=f"{defaults.scheduler_interval_s}s",
    ).start()
    processes = len(session_of(one.pid))
    assert processes >= 4, "a supervisor, a warden, two workers"
    seen: list[str] = []
    with scene.redis.monitor() as monitor:
        ends_s = time.monotonic() + LOOK_S
        while time.monotonic() < ends_s:
            line = monitor.next_command()  # the promoter speaks twice a second
            if line["client_type"] != "lua":
                seen.append(line["command"].split()[0].lower())
    assert "blpop" in seen, "workers wait"
    assert "evalsha" in seen
    assert len(seen) < FIXED + BUDGET_PER_S * LOOK_S * processes, sorted(seen)
    one.stop()
