"""`bananas scheduler`: what moves jobs without running any."""

from __future__ import annotations

import sys

import click

from bananas.cli.fleets import fleet_flags, fleet_settings, scheduler_flags


@click.command()
@scheduler_flags
@fleet_flags
@click.pass_context
def scheduler(ctx: click.Context) -> None:
    """Move due jobs to their queues, take back what lost workers held, drop what is too old.

    Any number may run; a fleet needs one at least, and workers in default mode bring their own.
    """
    settings = fleet_settings(ctx)

    from bananas.runtime.fleet import Fleet, run_fleet  # noqa: PLC0415 - after all that may be wrong

    sys.exit(run_fleet(Fleet(workers=0, warden=True, scheduler=True), settings))
