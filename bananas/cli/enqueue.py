"""`bananas enqueue`: one job, and its result if waited for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from bananas.cli import exits
from bananas.cli.options import Duration, as_json, connection, durable, flag, read_settings
from bananas.cli.payloads import read_payload
from bananas.cli.screen import note, print_json

if TYPE_CHECKING:
    from bananas.client import Client
    from bananas.results import Result


@click.command(
    epilog="With --wait: status 1 = it failed or was cancelled, 6 = it did not end in time.",
)
@click.argument("name")
@click.argument("payload", nargs=-1, metavar="[JSON | - | KEY=VALUE...]")
@flag("--priority", metavar="high|normal|low", help="Strictly before those below.")
@flag("--routing-key", metavar="KEY", help="Which workers it is for.")
@flag("--delay", "delay_s", type=Duration(), metavar="TIME", help="Not before so long from now.")
@flag("--at", "scheduled_for", metavar="TIME", help="Not before this RFC 3339 time.")
@flag("--expires-at", metavar="TIME", help="Not begun by this RFC 3339 time, it is dropped.")
@flag("--max-retries", type=int, metavar="N", help="Runs allowed.")
@flag("--timeout", "timeout_s", type=Duration(), metavar="TIME", help="How long one run may take.")
@flag("--id", "id_", metavar="ID", help="Instead of a new one; must not exist.")
@flag("--description", metavar="TEXT", help="For people.")
@flag("--result", is_flag=True, help="Keep what the handler returns; --wait does, too.")
@flag("--wait", is_flag=True, help="Wait for its end and print what it returned, as JSON.")
@flag(
    "--wait-timeout",
    "wait_s",
    type=Duration(),
    default="60s",
    metavar="TIME",
    help="Longest wait.",
)
@durable
@as_json
@connection
@click.pass_context
def enqueue(  # noqa: PLR0913 - one an option
    ctx: click.Context,
    /,
    *,
    name: str,
    payload: tuple[str, ...],
    id_: str | None,
    result: bool,
    wait: bool,
    wait_s: float,
    json_output: bool,
    **options: Any,  # noqa: ANN401 - by name to the client
) -> None:
    """Submit one job of the task NAME.

    \b
    bananas enqueue add x=1 y=2 --wait           values are JSON where they can be
    bananas enqueue resize '{"image": "a.png"}'  any JSON; an object's members are arguments
    bananas enqueue import - < rows.json         from standard input
    """  # noqa: D301 - click's mark for lines to leave alone
    from bananas.cli.session import with_client  # noqa: PLC0415 - not for --help

    settings = read_settings(ctx)
    chosen = {key: value for key, value in options.items() if value is not None}
    if id_ is not None:
        chosen["id"] = id_
    told = read_payload(payload)

    async def action(client: Client) -> tuple[str, Result | None]:
        job = await client.submit(name, told, result=result or wait, **chosen)
        if not wait:
            return job.id, None
        if not json_output:
            note(f"{job.id} waits for its end")
        return job.id, await client.wait_end(job.id, wait_s)

    job_id, end = with_client(settings, action)
    if not wait:
        if json_output:
            print_json({"id": job_id, "name": name})
        else:
            click.echo(job_id)
        return
    sys.exit(_show_end(job_id, name, end, wait_s, json_output=json_output))


def _show_end(
    job_id: str, name: str, end: Result | None, wait_s: float, *, json_output: bool
) -> int:
    """Print how a job ended; returns the status to leave with."""
    status = "unfinished" if end is None else end.status
    if json_output:
        told: dict[str, Any] = {"id": job_id, "name": name, "status": status}
        if end is not None:
            told |= {
                "result": end.value,
                "error": end.error or None,
                "completed_at": end.completed_at,
            }
            told["duration_ms"] = end.duration_ms
        print_json(told)
    elif end is None:
        note(f"not ended within {wait_s:g} s; it goes on: bananas job show {job_id}")
    elif status == "completed":
        print_json(end.value)
    else:
        note(f"{status}: {end.error or ''}".rstrip(": "))
    if end is None:
        return exits.TIMED_OUT
    return exits.OK if status == "completed" else exits.FAILED
