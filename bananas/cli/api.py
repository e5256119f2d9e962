"""`bananas api`: the HTTP API under a supervisor."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click

from bananas.cli.fleets import api_flags, api_url, fleet_flags, fleet_settings, settle_port
from bananas.cli.screen import note
from bananas.errors import UsageError


class HttpMissingError(UsageError):
    """The web stack is an extra, and is not installed."""


def need_http() -> None:
    """Check that the API's libraries are there.

    Raises:
        HttpMissingError: One is not.
    """
    missing = [name for name in ("uvicorn", "starlette", "httptools") if find_spec(name) is None]
    if missing:
        error = HttpMissingError(f"the API needs {', '.join(missing)}")
        error.hint = "pip install 'bananas[http]'"
        raise error


@click.command()
@api_flags
@fleet_flags
@click.pass_context
def api(ctx: click.Context) -> None:
    """Serve the HTTP API: jobs, batches, results, failed jobs, counters, health.

    BANANAS_API_TOKEN is a bearer token that may do everything; `bananas token` makes others, with
    scopes. Without any it listens on loopback only.
    """
    need_http()
    settings = settle_port(fleet_settings(ctx), alone=False)
    if sys.stderr.isatty():
        note(f"bananas api on {api_url(settings)}  (Ctrl-C ends it)")

    from bananas.runtime.fleet import Fleet, run_fleet  # noqa: PLC0415 - after all that may be wrong

    fleet = Fleet(workers=0, warden=False, scheduler=False, apis=settings.api_procs)
    sys.exit(run_fleet(fleet, settings))
