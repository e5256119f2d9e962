"""The statuses that commands leave with; scripts may rely on them."""

from __future__ import annotations

from typing import Final

OK: Final = 0
"""Done, and the answer is yes."""

FAILED: Final = 1
"""The answer is no: the job failed, rows were rejected, the doctor found something wrong."""

USAGE: Final = 2
"""The command, a setting or the data given is wrong; trying again will not help."""

BOOT_FAILED: Final = 3
"""The supervisor gave up: its children died before they were ready (set by the supervisor)."""

FORCED: Final = 4
"""The supervisor was told to stop and had to kill a child (set by the supervisor)."""

NO_SERVER: Final = 5
"""Redis, or the API, is not there, does not answer or refuses us; trying again may help."""

TIMED_OUT: Final = 6
"""What was waited for did not come in time; it goes on and may be waited for again."""

INTERRUPTED: Final = 130
"""Ctrl-C: 128 + SIGINT, as shells have it."""
