"""What the commands that run fleets share: their flags, the application looked at beforehand.

The process that becomes the supervisor only forks. So the application is looked at by a
child that ends again: a mistake in its name or its code shows at once, in one line, and not
as children that die while booting.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import traceback
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from bananas.cli.options import (
    durable,
    fleet_connection,
    given_flags,
    leave_variables,
    read_settings,
    setting,
    source_of,
    stacked,
)
from bananas.errors import SettingsError, UsageError
from bananas.log import configure
from bananas.settings import Secret, Settings, load_pyproject
from bananas.tokens import read_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

logging_flags: Final = stacked(
    setting("--log-level", field="log_level", metavar="LEVEL"),
    setting(
        "--log-format",
        field="log_format",
        metavar="FORMAT",
        help="json or text; on a terminal text unless you say otherwise",
    ),
)

worker_flags: Final = stacked(
    setting("--procs", field="procs", metavar="auto|N"),
    setting("--mode", field="worker_mode", metavar="MODE"),
    setting("--concurrency", field="worker_concurrency", metavar="N"),
    setting("--priorities", field="worker_priorities", metavar="LIST"),
    setting("--job-types", field="worker_job_types", metavar="LIST"),
    setting("--routing-keys", field="worker_routing_keys", metavar="LIST"),
    setting("--routing-order", field="routing_order", metavar="key|priority"),
    setting("--sync-threads", field="sync_threads", metavar="N"),
    setting("--job-timeout", field="job_timeout_s", metavar="TIME"),
    setting("--max-retries", field="max_retries", metavar="N"),
    setting("--recycle-jobs", field="recycle_jobs", metavar="N"),
    setting("--recycle-rss", field="recycle_rss_bytes", metavar="SIZE"),
)

scheduler_flags: Final = stacked(
    setting("--promote-interval", field="promote_interval_s", metavar="TIME"),
    setting("--retention-completed", field="retention_completed_s", metavar="TIME"),
    setting("--retention-failed", field="retention_failed_s", metavar="TIME"),
)

api_flags: Final = stacked(
    setting("--host", field="api_host", metavar="HOST"),
    setting("--port", field="api_port", metavar="PORT"),
    setting("--api-procs", field="api_procs", metavar="N"),
    setting("--tokens-file", field="api_tokens_file", metavar="FILE"),
)

fleet_flags: Final = stacked(
    durable,
    setting("--shutdown-grace", field="shutdown_grace_s", metavar="TIME"),
    fleet_connection,
    logging_flags,
)

app_argument: Final = click.argument("app", envvar="BANANAS_APP", required=False, metavar="[APP]")

APP_HELP: Final = (
    "APP is module:attribute, as in shop.tasks:app; the working directory is on the path. "
    "BANANAS_APP names it too."
)


class ApplicationBrokenError(UsageError):
    """The application cannot be imported, or is none."""


class PortTakenError(UsageError):
    """Something listens on the API's port already."""


@dataclass(frozen=True, slots=True)
class Application:
    """What was seen of the user's application.

    Attributes:
        target: `module:attribute`.
        tasks: Its tasks' names, in order.
        asked_for: Settings that it asks for in code, by field.
    """

    target: str
    tasks: tuple[str, ...] = ()
    asked_for: Mapping[str, Any] = field(default_factory=dict[str, Any])


def need_app(app: str | None, command: str) -> str:
    """Return the target.

    Raises:
        click.UsageError: There is none.
    """
    if app:
        return app
    raise click.UsageError(
        "which application? Name it as module:attribute, as in "
        f"`{command} shop.tasks:app`, or set BANANAS_APP"
    )


def look_at(target: str) -> Application:
    """Import an application in a child and tell what is in it.

    Raises:
        ApplicationBrokenError: It cannot be imported, or is no application.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _tell(target, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not data:
        code = os.waitstatus_to_exitcode(status)
        raise ApplicationBrokenError(
            f'application "{target}": importing it ended the process (exit {code})'
        )
    seen: Any = json.loads(data)
    if isinstance(seen, str):
        raise ApplicationBrokenError(seen)
    return Application(target, tuple(seen["tasks"]), seen["asked_for"])


def _tell(target: str, writing: int) -> NoReturn:
    """Import the application here and write what there is to say into the pipe."""
    seen: dict[str, Any] | str
    status = 1
    try:
        try:
            from bananas.runtime.application import load  # noqa: PLC0415 - only in the child

            app = load(target)
            seen = {"tasks": sorted(app.registry), "asked_for": _asked_for(app.settings)}
        except UsageError as error:
            seen = str(error)
        except Exception as error:  # noqa: BLE001 - whatever the user's module does
            traceback.print_exc()
            seen = f'application "{target}": importing it raised {type(error).__name__}: {error}'
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            json.dump(seen, pipe, default=_plain)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _plain(value: object) -> str:
    """Return a setting as text that its reader takes, for the pipe to our own parent only."""
    return value.reveal() if isinstance(value, Secret) else str(value)


def _asked_for(settings: Settings) -> dict[str, Any]:
    """Return the settings in which an application differs from its environment."""
    plain = Settings.from_sources(os.environ)
    return {
        item.name: getattr(settings, item.name)
        for item in fields(Settings)
        if getattr(settings, item.name) != getattr(plain, item.name)
    }


def fleet_settings(ctx: click.Context, app: Application | None = None) -> Settings:
    """Return the settings of a fleet, flags before what the application asks for in code.

    What is for commands only is taken out of the environment, which our children get.

    Raises:
        SettingsError: Some are wrong.
    """
    asked_for: dict[str, Any] = {} if app is None else dict(app.asked_for)
    settings = read_settings(ctx, **asked_for)
    said = source_of("log_format", given_flags(ctx) | asked_for, load_pyproject())
    if said == "default" and sys.stderr.isatty():
        settings = replace(settings, log_format="text")
    leave_variables()
    configure(settings.log_level, settings.log_format)
    return settings


def settle_port(settings: Settings, *, alone: bool) -> Settings:
    """Return the settings with a port that can be listened on.

    Port 0 becomes a free one, the same for every API process.

    Args:
        settings: With the host and the port wanted.
        alone: Nobody else may listen there, other API processes of ours included.

    Raises:
        PortTakenError: It is taken.
        SettingsError: The host has no address, the port may not be used, or the file of tokens
            cannot be.
    """
    if settings.api_tokens_file is not None:
        read_tokens(settings.api_tokens_file)  # rather here than in children that die booting
    try:
        found = socket.getaddrinfo(settings.api_host, settings.api_port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not alone and hasattr(socket, "SO_REUSEPORT"):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
            port = int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise SettingsError([("BANANAS_API_HOST", f"has no address: {error.strerror}")]) from None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            reason = f"cannot be listened on: {error.strerror}"
            raise SettingsError([("BANANAS_API_PORT", reason)]) from None
        taken = PortTakenError(
            f"{settings.api_host}:{settings.api_port} is taken: something listens there already"
        )
        taken.hint = "choose another by --port N (0 = any free one), or end the other"
        raise taken from None
    return settings if port == settings.api_port else replace(settings, api_port=port)


def api_url(settings: Settings) -> str:
    """Return the API's address as a browser on this machine would take it."""
    host = settings.api_host
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.api_port}"
