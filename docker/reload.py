"""Hot reload for development: `reload.py COMMAND…` runs it and tells it when the source changed.

The command is a supervisor.  A changed file becomes SIGHUP, on which it starts
new children, which import the new source, and ends the old ones once those are
ready: running jobs finish.  Signals meant for the command are passed on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import watchfiles

FOLDER = os.environ.get("RELOAD_DIR", ".")
#: Below the time a person notices, above the time an editor takes to save several files.
DEBOUNCE_MS = 200
_LOOK_S = 0.5


def main(command: list[str]) -> int:
    """Run the command until it ends; return its exit status."""
    child = subprocess.Popen(command)  # noqa: S603 - the image's own command
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGTTIN", "SIGTTOU"):
        signal.signal(getattr(signal, name), lambda number, _frame: child.send_signal(number))
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(child, stop), daemon=True)
    watcher.start()
    while True:
        # A signal that comes just before a wait without end is handled only after it.
        try:
            status = child.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            continue
        break
    stop.set()
    watcher.join(timeout=2)
    return status if status >= 0 else 128 - status


def _watch(child: subprocess.Popen[bytes], stop: threading.Event) -> None:
    changes = watchfiles.watch(
        FOLDER,
        watch_filter=watchfiles.PythonFilter(extra_extensions=(".lua", ".html", ".css", ".js")),
        debounce=DEBOUNCE_MS,
        stop_event=stop,
        raise_interrupt=False,
    )
    for changed in changes:
        names = sorted({os.path.relpath(path, FOLDER) for _, path in changed})
        print(f"reload: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}", flush=True)  # noqa: PLR2004
        child.send_signal(signal.SIGHUP)


if __name__ == "__main__":
    if len(sys.argv) < 2:  # noqa: PLR2004 - a command must follow
        sys.exit("usage: reload.py COMMAND [ARGUMENT…]")
    sys.exit(main(sys.argv[1:]))
