"""What an error reply of Redis means for the call that got it.

One function decides: wait and ask again, take another connection, send the script
itself, or give up with an error whose class says whose fault it is. Replies inside
Redis 6.2 scripts hide their code in the text; they are read like any other.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from bananas.errors import BrokerDeniedError, BrokerError, BrokerFullError, ScriptError


class Verdict(enum.Enum):
    """What to do with a call whose answer is an error."""

    RETRY = "retry"  # the server cannot now: back off, ask again on the same connection
    RECONNECT = "reconnect"  # the wrong server or a doubtful connection: take another
    MOVED = "moved"  # another node of the cluster holds the slot
    ASK = "ask"  # the slot is moving, and another node holds the keys already
    NOSCRIPT = "noscript"  # the script cache is empty: send the source
    FULL = "full"  # at maxmemory
    DENIED = "denied"  # credentials or ACL
    FATAL = "fatal"  # a defect of ours, or a server that cannot serve us


_VERDICTS: Final = {
    "LOADING": Verdict.RETRY,
    "BUSY": Verdict.RETRY,
    "MISCONF": Verdict.RETRY,
    "TRYAGAIN": Verdict.RETRY,
    "MASTERDOWN": Verdict.RETRY,
    "NOREPLICAS": Verdict.RETRY,
    "READONLY": Verdict.RECONNECT,
    # Another node may know better by now: it is asked for before each connection.
    "CLUSTERDOWN": Verdict.RECONNECT,
    "MOVED": Verdict.MOVED,
    "ASK": Verdict.ASK,
    "UNBLOCKED": Verdict.RECONNECT,
    # The handshake of the next connection shows whether the credentials still hold.
    "NOAUTH": Verdict.RECONNECT,
    "NOSCRIPT": Verdict.NOSCRIPT,
    "OOM": Verdict.FULL,
    "WRONGPASS": Verdict.DENIED,
    "NOPERM": Verdict.DENIED,
    "DENIED": Verdict.DENIED,  # protected mode
}

# ERR replies that are about the connection, by how their text begins.
_ERR_TEXTS: Final = (
    ("max number of clients", Verdict.RECONNECT),
    ("max number of connections", Verdict.RECONNECT),
    ("Protocol error", Verdict.RECONNECT),
    ("AUTH <password> called without", Verdict.DENIED),
    ("invalid password", Verdict.DENIED),
)

# Inside a script: a key that was not declared is on a node that the slot moves from or to, or the
# cluster went down. Valkey leaves out the first word. Scripts meet this before their first write.
_SLOT_AWAY: Final = re.compile(
    r"(?:Script )?attempted to (?:access a non local key|execute a \S*.*while the cluster is down)",
    re.IGNORECASE,
)

# Redis 6.2: "ERR Error running script (call to f_…): @user_script:1: @user_script: 1: -OOM …"
_NESTED_CODE: Final = re.compile(r"@user_script: ?\d+: -?([A-Z]{2,})\b")


_CLUSTER: Final = "name it by redis+cluster://, with a key prefix that has a hash tag {…}"


def error_code(text: str) -> str:
    """Return the code of an error reply, such as `OOM`, whoever wrapped it."""
    code, _, rest = text.partition(" ")
    if code == "ERR" and rest.startswith("Error running script"):
        nested = _NESTED_CODE.search(rest)
        if nested is not None:
            return nested[1]
    return code


def classify(text: str) -> Verdict:
    """Return what an error reply, `CODE words…`, means for its call."""
    code = error_code(text)
    if code == "ERR":
        words = text[4:]
        for beginning, verdict in _ERR_TEXTS:
            if words.startswith(beginning):
                return verdict
        if _SLOT_AWAY.match(words):
            return Verdict.RETRY
    return _VERDICTS.get(code, Verdict.FATAL)


def refusal(operation: str, text: str, *, in_script: bool) -> BrokerError:
    """Return the error that a caller gets for a reply that no repeat will mend."""
    match classify(text):
        case Verdict.FULL:
            return BrokerFullError(operation, text)
        case Verdict.DENIED:
            return BrokerDeniedError(operation, text)
        case Verdict.MOVED | Verdict.ASK:
            return BrokerError(operation, f"{text}: the server is a node of a cluster; {_CLUSTER}")
        case _ if text.startswith("CROSSSLOT"):
            return BrokerError(operation, f"{text}; {_CLUSTER}")
        case _ if in_script:
            return ScriptError(operation, text)
        case _:
            return BrokerError(operation, text)
