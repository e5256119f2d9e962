"""`bananas ingest`: a file of jobs, one a line, to the server or through the HTTP API."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bananas.cli import exits
from bananas.cli.options import as_json, connection, durable, flag, read_settings
from bananas.cli.screen import count, note, print_json

if TYPE_CHECKING:
    from bananas.cli.ledger import Progress


@click.command(
    help="""\
Submit the rows of FILE (NDJSON, - = standard input), in order, as fast as they are taken.

A row is a submission, {"name": …, "payload": …, "priority": …}, or with --task the payload
alone.

\b
bananas ingest jobs.ndjson
bananas ingest flights.ndjson --task load --id-from flight_id
bananas ingest jobs.ndjson --resume              after Ctrl-C, or a crash of anything
bananas ingest jobs.ndjson --url http://api:8080

Rows that break a rule are put into FILE.rejected.ndjson, with line, field and rule. How far
it got stands in FILE.progress, written after each acknowledged chunk. The id of a row's job
follows from that and the row's number, so a row that is sent again is a duplicate.
""",
    epilog="Status 1 = done, but rows were rejected.",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@flag("--task", metavar="NAME", help="Rows are payloads of this task.")
@flag(
    "--id-from",
    metavar="FIELD",
    help="Make a job's id of this field of its payload: a second run makes duplicates, no jobs.",
)
@flag("--priority", metavar="high|normal|low", help="Of all rows; with --task.")
@flag("--routing-key", metavar="KEY", help="Of all rows; with --task.")
@flag("--max-retries", type=int, metavar="N", help="Of all rows; with --task.")
@flag("--resume", is_flag=True, help="Go on where an earlier run of this file ended.")
@flag("--restart", is_flag=True, help="Begin anew, whatever an earlier run did.")
@flag("--url", metavar="URL", help="Through the HTTP API there; BANANAS_API_TOKEN is its token.")
@flag(
    "--rejected",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where rejected rows go, instead of FILE.rejected.ndjson.",
)
@durable
@as_json
@connection
@click.pass_context
def ingest(  # noqa: PLR0913 - one an option
    ctx: click.Context,
    /,
    *,
    file: str,
    task: str | None,
    id_from: str | None,
    resume: bool,
    restart: bool,
    url: str | None,
    rejected: Path | None,
    json_output: bool,
    **options: Any,  # noqa: ANN401 - by name to the jobs' form
) -> None:
    """Submit a file."""
    chosen = {name: value for name, value in options.items() if value is not None}
    if chosen and task is None:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise click.UsageError(f"{names}: only with --task; whole submissions say it themselves")
    if resume and restart:
        raise click.UsageError("--resume and --restart contradict each other")
    if file == "-" and resume:
        raise click.UsageError("--resume: standard input cannot be read again")
    settings = read_settings(ctx)

    from bananas.cli.ingestion import Ingestion, Request  # noqa: PLC0415 - not for --help

    request = Request(
        file=file,
        task=task,
        id_from=id_from,
        options=chosen,
        resume=resume,
        restart=restart,
        url=url,
        rejected=rejected or Path(_stem(file) + ".rejected.ndjson"),
        quiet=json_output,
    )
    ingestion = Ingestion(request, settings)
    try:
        ingestion.run()
    except (KeyboardInterrupt, Exception):
        progress = ingestion.progress
        if progress is not None and progress.line and file != "-":
            note(f"stopped after line {count(progress.line)}; the same with --resume goes on there")
        raise
    progress = ingestion.progress
    assert progress is not None  # noqa: S101 - it has run
    _summarise(progress, ingestion, json_output=json_output)
    if progress.rejected:
        sys.exit(exits.FAILED)


def _stem(file: str) -> str:
    """Return what the names of the files beside it begin with."""
    if file == "-":
        return "stdin"
    return file.removesuffix(".ndjson").removesuffix(".jsonl")


def _summarise(progress: Progress, ingestion: Any, *, json_output: bool) -> None:  # noqa: ANN401
    """Print what became of the file."""
    rate = ingestion.rows / ingestion.elapsed_s if ingestion.elapsed_s > 0 else 0.0
    if json_output:
        print_json(
            {
                "rows": progress.rows,
                "accepted": progress.accepted,
                "duplicates": progress.duplicates,
                "rejected": progress.rejected,
                "rejected_file": str(ingestion.rejected_path) if progress.rejected else None,
                "elapsed_s": round(ingestion.elapsed_s, 3),
                "rows_per_s": round(rate),
            }
        )
        return
    parts = [f"{count(progress.accepted)} accepted"]
    if progress.duplicates:
        parts.append(f"{count(progress.duplicates)} duplicates")
    if progress.rejected:
        parts.append(f"{count(progress.rejected)} rejected ({ingestion.rejected_path})")
    earlier = progress.rows - ingestion.rows
    if earlier and not ingestion.rows:
        click.echo(f"nothing left: {count(progress.rows)} rows before, {', '.join(parts)}")
        return
    before = f", {count(earlier)} of them before" if earlier else ""
    click.echo(
        f"{count(progress.rows)} rows{before}: {', '.join(parts)}; "
        f"{ingestion.elapsed_s:.1f} s, {count(rate)} rows/s"
    )
