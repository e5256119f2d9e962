"""`bananas worker`, alias `bananas-supervisor`: worker processes under a supervisor."""

from __future__ import annotations

import sys

import click

from bananas.cli.fleets import (
    APP_HELP,
    app_argument,
    fleet_flags,
    fleet_settings,
    look_at,
    need_app,
    scheduler_flags,
    worker_flags,
)
from bananas.cli.options import read_settings, setting


@click.command(
    help=f"""\
Run the jobs of APP in worker processes, under a supervisor.

{APP_HELP}

\b
Signals:  TERM, INT   finish what runs, within the grace; again: leave now
          HUP         replace every process by a new one, without a gap
          TTIN, TTOU  one process more, one fewer
          USR1        take no more jobs
""",
)
@app_argument
@worker_flags
@setting("--enable-scheduler", field="enable_scheduler", metavar="BOOL")
@scheduler_flags
@fleet_flags
@click.pass_context
def worker(ctx: click.Context, app: str | None) -> None:
    """Run workers until told to stop."""
    mode = read_settings(ctx).worker_mode
    if app is None and mode == "scheduler-only":
        settings = fleet_settings(ctx)
    else:
        application = look_at(need_app(app, ctx.command_path))
        settings = fleet_settings(ctx, application)

    from bananas.runtime.fleet import Fleet, run_fleet  # noqa: PLC0415 - after all that may be wrong

    sys.exit(run_fleet(Fleet.of(settings, app), settings))
