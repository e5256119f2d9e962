"""`bananas up`: server, workers, scheduler and API on one machine, under one supervisor."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import click

from bananas.cli.api import need_http
from bananas.cli.fleets import (
    APP_HELP,
    Application,
    api_flags,
    api_url,
    app_argument,
    fleet_flags,
    fleet_settings,
    look_at,
    need_app,
    scheduler_flags,
    settle_port,
    worker_flags,
)
from bananas.cli.options import read_settings
from bananas.cli.screen import members
from bananas.settings import format_duration, redacted_url

if TYPE_CHECKING:
    from bananas.runtime.fleet import Server
    from bananas.settings import Settings
    from bananas.supervisor import Event

_TASKS_SHOWN: Final = 8


@click.command(
    help=f"""\
Run everything on this machine: a private Redis if none is named, workers for APP, the
scheduler and the HTTP API, under one supervisor.

{APP_HELP}

The private Redis keeps its data in --data-dir, so jobs outlive a restart. Other commands
find it there while this one runs.
""",
)
@app_argument
@worker_flags
@api_flags
@scheduler_flags
@fleet_flags
@click.pass_context
def up(ctx: click.Context, app: str | None) -> None:
    """Run everything until told to stop."""
    need_http()
    read_settings(ctx)  # what is wrong with them is said before what is wrong with the application
    application = look_at(need_app(app, ctx.command_path))
    settings = settle_port(fleet_settings(ctx, application), alone=True)
    sys.exit(_run(application, settings))


def _run(application: Application, settings: Settings) -> int:
    """Run the fleet, and tell what runs where, when it is ready and when it stops."""
    from bananas.runtime.fleet import Fleet, run_fleet, settle_server  # noqa: PLC0415 - not for --help
    from bananas.supervisor import log_event  # noqa: PLC0415 - as above

    server = settle_server(settings)
    _announce(application, settings, server)
    fleet = replace(Fleet.of(settings, application.target, apis=settings.api_procs), scheduler=True)
    waiting: dict[str, int] = {}
    ending: list[Event] = []

    def tell(event: Event) -> None:
        children = event.fields.get("children")
        if event.kind == "supervisor-started" and isinstance(children, dict):
            waiting.update(cast("dict[str, int]", children))
        if event.kind == "draining":
            ending.append(event)
            click.echo(
                f"stopping: running jobs have {format_duration(settings.shutdown_grace_s)}; "
                "once more to leave at once"
            )
        # The news of an orderly start and end are told by us, in fewer words.
        if event.level > logging.INFO or settings.log_level == "debug" or not (waiting or ending):
            log_event(event)
        role = event.fields.get("role")
        if event.kind == "child-ready" and isinstance(role, str) and waiting:
            waiting[role] = waiting.get(role, 0) - 1
            if all(count <= 0 for count in waiting.values()):
                waiting.clear()
                click.secho("ready", fg="green", bold=True)

    return run_fleet(fleet, settings, server=server, on_event=tell)


def _announce(application: Application, settings: Settings, server: Server) -> None:
    """Print what runs where."""
    if server.prepared is not None:
        binary = server.prepared.binary
        kept = f"{binary}, private; data in {server.prepared.data_dir}"
    elif settings.redis_url is None:
        kept = "private; started by another command, and ends with it"
    else:
        kept = ""
    processes = settings.proc_count
    plural = "process" if processes == 1 else "processes"
    tasks = ", ".join(application.tasks[:_TASKS_SHOWN]) or "no tasks yet"
    more = len(application.tasks) - _TASKS_SHOWN
    if more > 0:
        tasks += f" and {more} more"
    example = application.tasks[0] if application.tasks else "NAME"
    url = api_url(settings)
    click.secho("bananas up", bold=True)
    members(
        [
            ("redis", f"{redacted_url(server.url)}\n{kept}".rstrip()),
            (
                "workers",
                f"{processes} {plural} of {settings.worker_concurrency} jobs at a time, for "  # noqa: ISC004
                f"{application.target}\n{tasks}",
            ),
            ("scheduler", "on"),
            ("api", f"{url}  ({url}/docs, {url}/readyz)"),
            ("try", f"bananas enqueue {example} key=value --wait\nbananas queue ls"),
            ("stop", "Ctrl-C"),
        ],
        indent="  ",
    )
