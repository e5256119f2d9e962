"""The root command: names every command, loads the one that is asked for, and explains errors.

Nothing is imported for a name in a list: `bananas --help` is quick, and a broken optional
dependency hurts only the command that needs it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from bananas.cli import exits
from bananas.cli.options import VARIABLE_PREFIX
from bananas.errors import (
    BananasError,
    BrokerError,
    DurabilityUnconfirmedError,
    EmbeddedServerError,
    ResultTimeoutError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class Entry(NamedTuple):
    """Where a command lives, and what it says of itself in one line."""

    section: str
    module: str
    attribute: str
    summary: str


_RUN: Final = "Run"
_SUBMIT: Final = "Submit"
_LOOK: Final = "Look and mend"
_TRY: Final = "Try and measure"

COMMANDS: Final[dict[str, Entry]] = {
    "up": Entry(_RUN, "up", "up", "Everything for one machine: server, workers, API, scheduler."),
    "worker": Entry(_RUN, "worker", "worker", "Worker processes under a supervisor."),
    "api": Entry(_RUN, "api", "api", "The HTTP API."),
    "scheduler": Entry(_RUN, "scheduler", "scheduler", "Due jobs and lost leases, no jobs."),
    "enqueue": Entry(_SUBMIT, "enqueue", "enqueue", "Submit one job, and wait for it if asked."),
    "ingest": Entry(_SUBMIT, "ingest", "ingest", "Submit a file of jobs, one a line; resumable."),
    "job": Entry(_LOOK, "job", "job", "Show, cancel or retry a job."),
    "queue": Entry(_LOOK, "queue", "queue", "What waits where, and for how long."),
    "dead": Entry(_LOOK, "dead", "dead", "The dead-letter queue: list, group, retry, delete."),
    "scripts": Entry(_LOOK, "scripts", "scripts", "Give the server the scripts beforehand."),
    "token": Entry(_LOOK, "token", "token", "Bearer tokens with scopes for the HTTP API."),
    "doctor": Entry(_LOOK, "doctor", "doctor", "Check settings, server and this machine."),
    "demo": Entry(_TRY, "demo", "demo", "A real ingestion, start to end."),
    "bench": Entry(_TRY, "bench", "bench", "Measure this machine in half a minute."),
}


def explain(error: Exception) -> int:
    """Print an error for a person; returns the status to leave with."""
    click.secho("error: ", fg="red", bold=True, err=True, nl=False)
    click.echo(_plain(str(error)), err=True)
    if isinstance(error, BananasError) and error.hint:
        click.echo(f"hint: {_plain(error.hint)}", err=True)
    match error:
        case ResultTimeoutError() | DurabilityUnconfirmedError():
            return exits.TIMED_OUT
        case UsageError():
            return exits.USAGE
        case BrokerError() | EmbeddedServerError() | ConnectionError():
            return exits.NO_SERVER
        case _:
            return exits.FAILED


def _plain(text: str) -> str:
    """Keep what a job or a server put into a message from steering the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def guarded(
    command: click.Command,
    args: Sequence[str] | None = None,
    **extra: Any,  # noqa: ANN401 - click's
) -> None:
    """Run a command to its end and leave with its status.

    Raises:
        SystemExit: Always.
    """
    extra["auto_envvar_prefix"] = VARIABLE_PREFIX.removesuffix("_")
    try:
        status = click.Command.main(
            command, None if args is None else list(args), standalone_mode=False, **extra
        )
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        status = exits.INTERRUPTED
    except BrokenPipeError:  # the reader, `head` perhaps, has had enough
        leave_stdout()
        status = exits.FAILED
    except BananasError as error:
        status = explain(error)
    sys.exit(status if isinstance(status, int) else exits.OK)


def leave_stdout() -> None:
    """Have the interpreter not complain about a closed pipe once more at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Root(click.Group):
    """A group whose commands are loaded when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, by section."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load one."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        found: click.Command = getattr(
            import_module(f"bananas.cli.{entry.module}"), entry.attribute
        )
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches  # noqa: PLC0415 - only for a mistake

            near = get_close_matches(name, COMMANDS, n=1)
            also = f' Did you mean "{near[0]}"?' if near else ' "bananas --help" lists all.'
            ctx.fail(f'There is no command "{name}".{also}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands by section, without loading them."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(name, e.summary) for name, e in COMMANDS.items() if e.section == section]
            with formatter.section(section):
                formatter.write_dl(rows, col_spacing=4)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]  # noqa: ANN401
        """Run a command and leave with its status."""
        extra.pop("standalone_mode", None)
        guarded(self, args, **extra)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version  # noqa: PLC0415 - 30 ms that few need

    click.echo(f"bananas {version('bananas')}")
    ctx.exit()


CONTEXT: Final[dict[str, Any]] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}
"""How every command shows its help."""

_HELP: Final = """\
A distributed task queue on Redis, for very many jobs through few cores.

\b
New here?   bananas up yourmodule:app
            bananas enqueue yourtask x=1 --wait
"""


@click.group(
    cls=Root,
    context_settings=CONTEXT,
    help=_HELP,
    epilog="Every setting has a variable, BANANAS_<NAME>; `bananas doctor` shows them all.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Do nothing: the commands do."""
