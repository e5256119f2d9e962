"""Health of a container: `health.py api|worker|scheduler|any`; exit status 0 is healthy.

The api is asked whether it is ready, which means that a real script has run
lately.  The others listen on nothing; there the supervisor must have a living
child of the right kind, by the process titles that the children give
themselves, and the warden's title must not say that workers stand still.
Stdlib only, and nothing of the package is imported: the probe runs every few
seconds and must not cost more than what it looks at.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

#: What the title of a living child begins with, by role.
TITLES = {
    "worker": ("bananas: worker",),
    "scheduler": ("bananas: warden", "bananas: scheduler"),
    "any": ("bananas: ",),
}


def main(arguments: list[str], proc: Path = Path("/proc")) -> int:
    """Check the role that the arguments name; 0 healthy, 1 not, 2 misused."""
    if len(arguments) != 1 or arguments[0] not in {"api", *TITLES}:
        print("usage: health.py api|worker|scheduler|any", file=sys.stderr)
        return 2
    role = arguments[0]
    if role == "api":
        return _api_ready()
    titles = _titles(proc)
    stalled = [title for title in titles if title.startswith("bananas: ") and "stalled" in title]
    if role == "worker" and stalled:
        print(stalled[0])
        return 1
    living = [title for title in titles if title.startswith(TITLES[role])]
    if not living:
        print(f"no living {role} process")
        return 1
    return 0


def _api_ready() -> int:
    port = os.environ.get("BANANAS_API_PORT") or os.environ.get("API_PORT") or "8080"
    url = f"http://127.0.0.1:{port}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=4) as answer:
            answer.read()
    except (OSError, urllib.error.URLError) as failure:
        print(f"{url}: {failure}")
        return 1
    return 0


def _titles(proc: Path) -> list[str]:
    """Return the titles of the processes that have not ended; zombies have none."""
    found = []
    for entry in proc.glob("[0-9]*/cmdline"):
        try:
            title = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # ended while we looked
        if title:
            found.append(title)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
