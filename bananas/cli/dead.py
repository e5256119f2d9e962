"""`bananas dead`: the dead-letter queue for operators."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypedDict

import click

from bananas.cli.job import record_of, retry_each, show_job
from bananas.cli.options import as_json, confirm, connection, flag, read_settings, stacked
from bananas.cli.screen import count, first_line, jobs, note, print_json, progress, table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bananas.client import Client
    from bananas.deadletters import DeadPage
    from bananas.job import Job
    from bananas.results import Result


class Chosen(TypedDict):
    """Which failed jobs are meant."""

    name: str | None
    error: str | None


_filters: Final = stacked(
    flag("--name", metavar="TASK", help="Only of this task."),
    flag("--error", metavar="TEXT", help="Only those whose error contains this."),
)
_which: Final = stacked(
    click.argument("job_ids", metavar="[ID...]", nargs=-1),
    flag("--all", "everything", is_flag=True, help="All failed jobs."),
    _filters,
    flag("--dry-run", is_flag=True, help="Only say how many it would be."),
)


@click.group()
def dead() -> None:
    """The dead-letter queue: jobs that failed for good."""


@dead.command()
@_filters
@flag("--limit", type=click.IntRange(1, 1000), default=20, metavar="N", help="Most jobs.")
@flag("--cursor", default="", metavar="CURSOR", show_default=False, help="Of the page before.")
@flag("--oldest-first", is_flag=True, help="Those that failed first come first.")
@as_json
@connection
@click.pass_context
def ls(  # noqa: PLR0913 - one an option
    ctx: click.Context,
    /,
    *,
    name: str | None,
    error: str | None,
    limit: int,
    cursor: str,
    oldest_first: bool,
    json_output: bool,
) -> None:
    """List failed jobs, the latest first."""
    from bananas.cli.session import with_client  # noqa: PLC0415 - not for --help

    async def action(client: Client) -> tuple[DeadPage, int]:
        page = await client.dead(
            cursor=cursor, limit=limit, name=name, error=error, newest_first=not oldest_first
        )
        return page, await client.dead_count()

    page, total = with_client(read_settings(ctx), action)
    if json_output:
        print_json(
            {"jobs": [record_of(item) for item in page.jobs], "cursor": page.cursor, "total": total}
        )
        return
    if page.jobs:
        table(
            ["failed at", "id", "task", ">runs", "error"],
            [
                [
                    item.updated_at[:19].replace("T", " "),
                    item.id,
                    item.name or "(unreadable)",
                    str(item.attempts),
                    first_line(item.error or ""),
                ]
                for item in page.jobs
            ],
        )
    filtered = " match" if name is not None or error is not None else ""
    note(f"{count(len(page.jobs))} shown{filtered}, {count(total)} in all")
    if page.cursor:
        note(f"more: the same with --cursor '{page.cursor}'")


@dead.command()
@as_json
@connection
@click.pass_context
def groups(ctx: click.Context, /, *, json_output: bool) -> None:
    """Count failed jobs by task and error, the largest group first."""
    from bananas.cli.session import with_client  # noqa: PLC0415 - not for --help

    found = with_client(read_settings(ctx), lambda client: client.dead_groups())
    if json_output:
        print_json([asdict(group) for group in found])
    elif found:
        table(
            [">jobs", "task", "error", "example"],
            [
                [count(g.count), g.name or "(unreadable)", first_line(g.error), g.example]
                for g in found
            ],
        )
    else:
        note("no failed jobs")


@dead.command()
@click.argument("job_id", metavar="ID")
@as_json
@connection
@click.pass_context
def show(ctx: click.Context, /, *, job_id: str, json_output: bool) -> None:
    """Show a failed job whole, its payload and its error."""
    from bananas.cli.session import with_client  # noqa: PLC0415 - not for --help

    async def action(client: Client) -> tuple[Job, Result | None]:
        return await client.get_job(job_id), await client.get_result(job_id)

    found, end = with_client(read_settings(ctx), action)
    if json_output:
        print_json(record_of(found))
    else:
        show_job(found, end)
        if found.status != "failed":
            note(f"it is {found.status}, not in the dead-letter queue")


@dead.command()
@_which
@flag("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N a second.")
@flag("--edit", metavar="JSON", help="A payload in place of the old one; of one job only.")
@as_json
@connection
@click.pass_context
def retry(  # noqa: PLR0913 - one an option
    ctx: click.Context,
    /,
    *,
    job_ids: tuple[str, ...],
    everything: bool,
    name: str | None,
    error: str | None,
    dry_run: bool,
    rate: float | None,
    edit: str | None,
    json_output: bool,
) -> None:
    """Put failed jobs back into their queues: those named, or all that match.

    \b
    bananas dead retry --name resize --error timed --dry-run
    bananas dead retry --all --rate 50
    bananas dead retry 0192… --edit '{"image": "b.png"}'
    """  # noqa: D301 - click's mark for lines to leave alone
    _check_choice(job_ids, name, error, everything=everything)
    if job_ids:
        if dry_run:
            note(f"{jobs(len(job_ids))} would be retried")
            return
        if rate is not None:
            raise click.UsageError("--rate goes with --all, --name or --error, not with IDs")
        retry_each(ctx, job_ids, edit, json_output=json_output)
        return
    if edit is not None:
        raise click.UsageError("--edit is for one job: name exactly one ID")

    async def work(client: Client, chosen: Chosen, on_progress: Callable[[int], object]) -> int:
        return await client.retry_dead(**chosen, per_s=rate, on_progress=on_progress)

    chosen = Chosen(name=name, error=error)
    _on_all(ctx, chosen, "retried", work, dry_run=dry_run, yes=True, json_output=json_output)


@dead.command()
@_which
@flag("--yes", is_flag=True, help="Do not ask.")
@as_json
@connection
@click.pass_context
def delete(  # noqa: PLR0913 - one an option
    ctx: click.Context,
    /,
    *,
    job_ids: tuple[str, ...],
    everything: bool,
    name: str | None,
    error: str | None,
    dry_run: bool,
    yes: bool,
    json_output: bool,
) -> None:
    """Delete failed jobs for good: those named, or all that match."""
    _check_choice(job_ids, name, error, everything=everything)
    if job_ids:
        from bananas.cli.job import each  # noqa: PLC0415 - beside its one use

        if dry_run:
            note(f"{jobs(len(job_ids))} would be deleted")
            return

        async def one(client: Client, job_id: str) -> None:
            await client.delete_dead(job_id)

        each(ctx, job_ids, "deleted", one, json_output=json_output)
        return

    async def work(client: Client, chosen: Chosen, on_progress: Callable[[int], object]) -> int:
        return await client.delete_dead(**chosen, on_progress=on_progress)

    chosen = Chosen(name=name, error=error)
    _on_all(ctx, chosen, "deleted", work, dry_run=dry_run, yes=yes, json_output=json_output)


def _check_choice(
    job_ids: tuple[str, ...], name: str | None, error: str | None, *, everything: bool
) -> None:
    """Have the user say plainly which jobs are meant.

    Raises:
        click.UsageError: None, or in two ways that do not go together.
    """
    filtered = name is not None or error is not None
    if job_ids and (filtered or everything):
        raise click.UsageError("name IDs, or choose by --all, --name and --error; not both")
    if not (job_ids or filtered or everything):
        raise click.UsageError("which jobs? Name IDs, or say --all, --name TASK or --error TEXT")


def _on_all(  # noqa: PLR0913 - each says something else
    ctx: click.Context,
    chosen: Chosen,
    done: str,
    work: Callable[[Client, Chosen, Callable[[int], object]], Awaitable[int]],
    *,
    dry_run: bool,
    yes: bool,
    json_output: bool,
) -> None:
    """Count the jobs that are meant, ask if need be, and do it with a bar."""
    from bananas.cli.session import with_client  # noqa: PLC0415 - not for --help

    settings = read_settings(ctx)
    matching = with_client(settings, lambda client: client.dead_count(**chosen))
    if dry_run:
        if json_output:
            print_json({"matching": matching})
        else:
            click.echo(f"{jobs(matching)} would be {done}")
        return
    if matching and not yes:
        confirm(f"{jobs(matching, 'failed')} will be {done} for good. Go on?", yes=yes)

    async def action(client: Client) -> int:
        with progress(done, matching, "jobs", quiet=json_output) as bar:

            def show(so_far: int) -> None:
                bar.to(so_far, jobs=jobs(so_far))

            return await work(client, chosen, show)

    number = with_client(settings, action) if matching else 0
    told: dict[str, Any] = {done: number, "left": matching - number}
    if json_output:
        print_json(told)
    else:
        click.echo(f"{jobs(number)} {done}")
