"""Whether the server throws keys away when it is full: jobs need `maxmemory-policy noeviction`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bananas.errors import BrokerError, BrokerUnavailableError, EvictionError

if TYPE_CHECKING:
    from bananas.broker import Broker

SAFE: Final = "noeviction"
_LINE: Final = b"maxmemory_policy:"


async def read_policy(broker: Broker) -> str:
    """Return the server's policy, "" where it may not be asked or does not tell.

    Raises:
        BrokerUnavailableError: Redis did not answer.
    """
    try:
        text: bytes = await broker.transport.command("INFO", "memory", repeat=True)
    except BrokerUnavailableError:
        raise
    except BrokerError:
        return ""
    for line in text.splitlines():
        if line.startswith(_LINE):
            return line[len(_LINE) :].decode("ascii", "replace").strip()
    return ""


def takes_jobs(policy: str) -> bool:
    """Tell whether waiting jobs may be thrown away: they are keys without an expiry."""
    return policy.startswith("allkeys-")


def danger(policy: str) -> str | None:
    """Return what may get lost under a policy, None when nothing may."""
    if policy in ("", SAFE):
        return None
    what = "jobs" if takes_jobs(policy) else "results and the memory of requests"
    return f"maxmemory-policy is {policy}: at maxmemory the server throws {what} away"


async def refuse_eviction(broker: Broker) -> None:
    """Let nobody work on a server that may throw waiting jobs away.

    Raises:
        EvictionError: It may.
        BrokerUnavailableError: Redis did not answer.
    """
    policy = await read_policy(broker)
    if takes_jobs(policy):
        raise EvictionError("start", str(danger(policy)))
