"""`bananas doctor`: settings, server, libraries and this machine, each judged, with advice."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from bananas.cli import exits
from bananas.cli.options import as_json, connection, flag, given_flags, read_settings, source_of
from bananas.cli.screen import harmless, members, print_json
from bananas.settings import load_pyproject

_MARKS: Final = {"ok": ("✓", "green"), "advice": ("!", "yellow"), "wrong": ("✗", "red")}
_PLAIN_MARKS: Final = {"ok": "ok", "advice": "!!", "wrong": "XX"}


@click.command()
@flag("--audit", is_flag=True, help="Count every job, and explain any that are missing or extra.")
@flag(
    "--repair",
    "mend",
    is_flag=True,
    help="Put back what records still tell after keys were deleted or overwritten by hand.",
)
@flag("--all", "show_all", is_flag=True, help="Show every setting, not only those that were set.")
@as_json
@connection
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    *,
    audit: bool,
    mend: bool,
    show_all: bool,
    json_output: bool,
) -> None:
    """Check settings, server, libraries and this machine; status 1 when something is wrong."""
    settings = read_settings(ctx)

    from bananas.cli.checkup import examine  # noqa: PLC0415 - not for --help

    pyproject, flags = load_pyproject(), given_flags(ctx)
    fields = list(type(settings).__dataclass_fields__)
    described = [
        {"variable": variable, "value": value, "source": source_of(field, flags, pyproject)}
        for field, (variable, value) in zip(fields, settings.describe().items(), strict=True)
    ]
    report = examine(settings, audit=audit, mend=mend)
    wrong = [finding for finding in report.findings if finding.grade == "wrong"]
    if json_output:
        told: dict[str, Any] = {
            "ok": not wrong,
            "settings": described,
            "facts": report.facts,
            "findings": [finding._asdict() for finding in report.findings],
        }
        if report.repaired is not None:
            told["repaired"] = report.repaired
        if report.audit is not None:
            told["audit"] = report.audit
        print_json(told)
    else:
        _show_settings(described, show_all=show_all)
        _section("what is here")
        members([(name, str(value)) for name, value in report.facts.items()], indent="  ")
        if report.repaired is not None:
            _section("repair")
            for deed in report.repaired or ("nothing was to be mended",):
                click.echo(f"  {harmless(deed)}")
        if report.audit is not None:
            _section("audit")
            members([(name, str(value)) for name, value in report.audit.items()], indent="  ")
        _section("findings")
        for finding in report.findings:
            _show_finding(finding.grade, finding.what, finding.advice)
        advice = sum(finding.grade == "advice" for finding in report.findings)
        verdict = f"{len(wrong)} wrong, {advice} to consider"
        click.secho(f"\n{verdict}", fg="red" if wrong else "green", bold=True)
    if wrong:
        sys.exit(exits.FAILED)


def _section(title: str) -> None:
    click.secho(f"\n{title}", bold=True)


def _show_settings(described: list[dict[str, str]], *, show_all: bool) -> None:
    click.secho("settings", bold=True)
    shown = [item for item in described if show_all or item["source"] != "default"]
    members(
        [(item["variable"], f"{item['value']}  ({item['source']})") for item in shown], indent="  "
    )
    hidden = len(described) - len(shown)
    if hidden:
        click.echo(f"  {'and ' if shown else ''}{hidden} at their defaults (--all shows them)")


def _show_finding(grade: str, what: str, advice: str) -> None:
    mark, colour = _MARKS[grade]
    encoding = (sys.stdout.encoding or "").lower()
    if not encoding.startswith("utf"):
        mark = _PLAIN_MARKS[grade]
    click.echo(f"  {click.style(mark, fg=colour)} {harmless(what)}")
    if advice:
        click.echo(f"    {click.style(harmless(advice), dim=True)}")
