"""How long after each fault its victims' jobs, and the service as a whole, went on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chaos.judge import quantiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from chaos.ledger import Entry


@dataclass(frozen=True)
class Recovery:
    """What followed one fault, in seconds.

    Attributes:
        kind: Which fault.
        began: When, by the ledger's clock.
        over: When it was taken back.
        service: From its end to the next start of a job, of any or, where the fault meets one
            fleet's connections, of one there; None = the next fault came first.
        held: How many jobs its victims were at work on and others ran again.
        first: From the fault to the first of these runs; None = there was none.
        last: To the last of them.
    """

    kind: str
    began: float
    over: float
    service: float | None
    held: int
    first: float | None
    last: float | None


def of(entries: Sequence[Entry]) -> list[Recovery]:
    """Return what followed each fault of a round."""
    starts = sorted((e for e in entries if e["what"] == "start"), key=lambda e: float(e["at"]))
    runs: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry["what"] in ("start", "end"):
            runs[entry["id"]].append(entry)
    faults = sorted(e["at"] for e in entries if e["what"] == "fault")
    found: list[Recovery] = []
    for over in entries:
        if over["what"] != "over":
            continue
        served = {*over["served"]}
        after = (e["at"] for e in starts if not served or e["pid"] in served)
        service = next((at - over["at"] for at in after if at > over["at"]), None)
        following = next((at for at in faults if at > over["at"]), float("inf"))
        if service is not None and over["at"] + service > following:
            service = None
        waits = _waits(runs, {*over["victims"]}, over["began"])
        first, last = (min(waits), max(waits)) if waits else (None, None)
        found.append(
            Recovery(over["kind"], over["began"], over["at"], service, len(waits), first, last)
        )
    return found


def _waits(runs: dict[str, list[Entry]], victims: set[int], fault_at: float) -> list[float]:
    """Return how long each job waited that a victim was at work on and that ran again."""
    waits: list[float] = []
    if not victims:
        return waits
    for entries in runs.values():
        held = again = None
        for entry in entries:
            if entry["at"] < fault_at:
                held = entry
            elif entry["what"] == "start":
                again = entry
                break
        if held and again and held["what"] == "start" and held["pid"] in victims:
            waits.append(again["at"] - fault_at)
    return waits


def table(recoveries: Iterable[Recovery]) -> dict[str, dict[str, Any]]:
    """Return p50, p99 and max by fault: of the service, of the first job, of the last."""
    by_kind: dict[str, list[Recovery]] = defaultdict(list)
    for one in recoveries:
        by_kind[one.kind].append(one)
    lines: dict[str, dict[str, Any]] = {}
    for kind, ones in sorted(by_kind.items()):
        line: dict[str, Any] = {"faults": len(ones), "held": sum(one.held for one in ones)}
        line["overtaken"] = sum(one.service is None for one in ones)
        for name in ("service", "first", "last"):
            values = [v for one in ones if (v := getattr(one, name)) is not None]
            line[name] = [round(v, 3) for v in quantiles(values)] if values else None
        lines[kind] = line
    return lines
