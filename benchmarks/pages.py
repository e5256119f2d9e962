"""The page of the documents that commands fill in, and the words under its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE: Final = ROOT / "docs" / "performance.md"
PICTURES: Final = ROOT / "docs" / "images"


def said(run: Mapping[str, Any]) -> str:
    """Return the conditions of a run of curves or of a budget, for people."""
    known, knobs, free = run["conditions"], run["parameters"], sorted(run["free_shares"])
    dirty = " and changes" if run["dirty"] else ""
    shares = f"{free[len(free) // 2]:.0%} ({free[0]:.0%} to {free[-1]:.0%})" if free else "some"
    missing = f" {len(run['failures'])} points are missing." if run["failures"] else ""
    return (
        f"{run['date']}, commit {run['commit'] or 'unknown'}{dirty}. {known['cpu']}, "
        f"{known['cores']} cores, {known['system']}; load at start {known['load_at_start'][0]}, at "
        f"the end {run['load_at_end'][0]}; before each sample {shares} of the cores were free. "
        f"Python {known['python']}, {known['core']} core; {known['servers'][0]}, unix socket, no "
        f"persistence. At most {knobs['jobs']:,} jobs a sample, of {knobs['payload_bytes']} bytes "
        f"where nothing else is said, {run['repeats']} repeats, interleaved: median (min to max)."
        f"{missing} CPU in µs a job."
    )
