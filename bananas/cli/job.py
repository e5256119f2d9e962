"""`bananas job`: one job, looked at, cancelled, run again."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from bananas.cli import exits
from bananas.cli.options import as_json, connection, flag, read_settings
from bananas.cli.payloads import parse_json
from bananas.cli.screen import age, harmless, members, print_json
from bananas.errors import DecodeError, StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bananas.client import Client
    from bananas.job import Job
    from bananas.results import Result


@click.group()
def job() -> None:
    """Show, cancel or retry a job."""


@job.command()
@click.argument("job_id", metavar="ID")
@as_json
@connection
@click.pass_context
def show(ctx: click.Context, /, *, job_id: str, json_output: bool) -> None:
    """Show a job: its record with its live status, and its result where one is kept."""
    from bananas.cli.session import with_client  # noqa: PLC0415 - not for --help

    async def action(client: Client) -> tuple[Job, Result | None]:
        found = await client.get_job(job_id)
        return found, await client.get_result(job_id)

    found, end = with_client(read_settings(ctx), action)
    if json_output:
        print_json(record_of(found) | ({} if end is None else {"outcome": outcome_of(end)}))
    else:
        show_job(found, end)


def record_of(found: Job) -> dict[str, Any]:
    """Return a job as a mapping; a payload that is not JSON as text."""
    try:
        return found.to_dict()
    except DecodeError:
        text = found.payload_json.decode("utf-8", "replace")
        return found.with_(payload_json=json.dumps(text).encode()).to_dict()


def outcome_of(end: Result) -> dict[str, Any]:
    """Return the end of a job as a mapping."""
    told = {
        "status": end.status,
        "result": end.value,
        "error": end.error,
        "completed_at": end.completed_at,
        "duration_ms": end.duration_ms,
    }
    return {name: value for name, value in told.items() if value is not None}


def show_job(found: Job, end: Result | None) -> None:
    """Print a job for a person."""
    record = record_of(found)
    payload = json.dumps(record["payload"], indent=2, ensure_ascii=False)
    now_us = time.time_ns() // 1000
    made = ""
    if found.created_us is not None:
        made = f"  ({age(max(0, now_us - found.created_us) / 1e6)} ago)"
    pairs = [
        ("id", found.id),
        ("task", found.name or "(its record cannot be read)"),
        ("status", _coloured(found.status)),
    ]
    if found.description:
        pairs.append(("description", found.description))
    pairs += [
        ("priority", found.priority),
        ("routing key", found.routing_key),
        ("runs", f"{found.attempts} of {found.max_retries}"),
        ("created", f"{found.created_at}{made}"),
        ("updated", found.updated_at),
    ]
    if found.scheduled_for:
        pairs.append(("scheduled for", found.scheduled_for))
    pairs += [
        (name.replace("_", " "), str(record[name]))
        for name in ("timeout_s", "expires_at", "crashes", "unclaimed")
        if name in record
    ]
    pairs.append(("payload", payload))
    if found.error:
        pairs.append(("error", found.error))
    if end is not None and end.status == "completed" and end.value is not None:
        pairs.append(("result", json.dumps(end.value, indent=2, ensure_ascii=False)))
    if end is not None and end.duration_ms is not None:
        pairs.append(("took", f"{end.duration_ms:g} ms"))
    members(pairs)


def _coloured(status: str) -> str:
    return status


@job.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@as_json
@connection
@click.pass_context
def cancel(ctx: click.Context, /, *, job_ids: tuple[str, ...], json_output: bool) -> None:
    """Cancel jobs that wait or are scheduled."""

    async def one(client: Client, job_id: str) -> None:
        await client.cancel(job_id)

    each(ctx, job_ids, "cancelled", one, json_output=json_output)


@job.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@flag("--edit", metavar="JSON", help="A payload in place of the old one; of one job only.")
@as_json
@connection
@click.pass_context
def retry(
    ctx: click.Context, /, *, job_ids: tuple[str, ...], edit: str | None, json_output: bool
) -> None:
    """Put failed jobs back into their queues, with all their runs before them."""
    retry_each(ctx, job_ids, edit, json_output=json_output)


def retry_each(
    ctx: click.Context, job_ids: tuple[str, ...], edit: str | None, *, json_output: bool
) -> None:
    """Retry the jobs named, one of them perhaps with another payload.

    Raises:
        click.UsageError: A payload for several.
        FieldError: The payload is not JSON.
    """
    if edit is not None and len(job_ids) != 1:
        raise click.UsageError("--edit is for one job: name exactly one ID")
    payload = None if edit is None else parse_json("payload", edit.encode(), "--edit")

    async def one(client: Client, job_id: str) -> None:
        if edit is None:
            await client.retry(job_id)
        else:
            await client.retry(job_id, payload=payload)

    each(ctx, job_ids, "retried", one, json_output=json_output)


def each(
    ctx: click.Context,
    job_ids: tuple[str, ...],
    done: str,
    one: Callable[[Client, str], Awaitable[None]],
    *,
    json_output: bool,
) -> None:
    """Do something to each job; those it does not fit are told, and make the status 1."""
    from bananas.cli.session import with_client  # noqa: PLC0415 - not for --help

    async def action(client: Client) -> list[dict[str, str]]:
        told: list[dict[str, str]] = []
        for job_id in job_ids:
            try:
                await one(client, job_id)
            except StateError as error:
                told.append({"id": job_id, "status": "refused", "error": error.why})
            else:
                told.append({"id": job_id, "status": done})
        return told

    told = with_client(read_settings(ctx), action)
    refused = [item for item in told if item["status"] == "refused"]
    if json_output:
        print_json(told)
    else:
        for item in told:
            reason = f": {item['error']}" if "error" in item else ""
            click.echo(harmless(f"{item['id']} {item['status']}{reason}"), err=bool(reason))
    if refused:
        sys.exit(exits.FAILED)
