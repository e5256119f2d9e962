"""The library that sets a program's clock, where this machine has it (apt: faketime)."""

from __future__ import annotations

from pathlib import Path

_PLACES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
)


def preload() -> str | None:
    """Return the library's file, for LD_PRELOAD."""
    return next((path for path in _PLACES if Path(path).exists()), None)


class Clock:
    """A clock that the program with `environment` goes by; it can be set while that runs."""

    def __init__(self, file: Path) -> None:
        """Begin with the true time; `file` is what the library reads."""
        self._file = file
        self.set(0)

    def set(self, offset_s: int) -> None:
        """Put the clock this far ahead of the true time, at once."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}s\n")
        new.replace(self._file)  # never half a line

    @property
    def environment(self) -> dict[str, str]:
        """What the program needs; spans it measures by the monotonic clock stay true."""
        return {
            "LD_PRELOAD": preload() or "",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
