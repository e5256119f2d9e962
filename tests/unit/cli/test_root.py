"""The root command: quick to ask for help, honest in its errors."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest

from bananas.cli import exits
from bananas.cli.root import COMMANDS, cli, explain
from bananas.errors import (
    BrokerDeniedError,
    BrokerFullError,
    BrokerUnavailableError,
    EmbeddedServerError,
    FieldError,
    JobFailedError,
    JobNotFoundError,
    ResultTimeoutError,
    SettingsError,
)
from command_line import invoke, plain_environ

HEAVY = {"asyncio", "redis", "hiredis", "uvloop", "starlette", "uvicorn", "rich", "orjson"}


def walk(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    """Return a command and all below it, with their paths."""
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            found += walk(below, f"{path} {name}")
    return found


def every_command() -> list[tuple[str, click.Command]]:
    """Return every command there is."""
    found: list[tuple[str, click.Command]] = []
    for name, entry in COMMANDS.items():
        module = import_module(f"bananas.cli.{entry.module}")
        found += walk(getattr(module, entry.attribute), name)
    return found


EVERY = every_command()


def test_help_lists_every_command_without_loading_it() -> None:
    """`bananas --help` imports no event loop, no client, no web stack and no command."""
    code = (
        "import sys\n"
        "from bananas.cli.root import cli\n"
        "try:\n    cli(['--help'])\nexcept SystemExit: pass\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)), *(m for m in sys.modules if m in "
        "('bananas.cli.enqueue', 'bananas.cli.session', 'bananas.client')))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=plain_environ(),
    ).stdout.splitlines()
    assert said[-1].strip() == ""
    shown = "\n".join(said)
    assert [name for name in COMMANDS if f"  {name}" not in shown] == []


@pytest.mark.parametrize("path", [path for path, _ in EVERY])
def test_help_of_a_command_loads_nothing_heavy(path: str) -> None:
    """Each command explains itself, and its module imports no client on its own."""
    result = invoke(*path.split(), "--help")
    assert result.exit_code == exits.OK
    assert "Usage:" in result.stdout


def test_modules_of_commands_are_light() -> None:
    """Importing all of them, as shells do for completion, loads no loop and no client."""
    modules = sorted({entry.module for entry in COMMANDS.values()})
    code = "import sys, " + ", ".join(f"bananas.cli.{name}" for name in modules)
    code += f"\nprint(*sorted({HEAVY - {'orjson'}!r} & set(sys.modules)))"
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=plain_environ(),
    ).stdout
    assert said.strip() == ""


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[path for path, _ in EVERY])
def test_every_option_shows_its_variable(path: str, command: click.Command) -> None:
    """Whatever can be said by a flag can be said by a variable, and the help names it."""
    words = path.split()
    context = click.Context(cli, info_name="bananas", auto_envvar_prefix="BANANAS_CLI")
    group = cli.get_command(context, words[0])
    assert group is not None
    context = click.Context(group, info_name=words[0], parent=context)
    if len(words) > 1:
        context = click.Context(command, info_name=words[1], parent=context)
    for option in command.get_params(context):
        if isinstance(option, click.Option) and "--help" not in option.opts:
            record = option.get_help_record(context)
            assert record is not None
            assert "[env var: " in record[1], f"{path} {option.opts}"


def test_unknown_command_gets_a_suggestion() -> None:
    """A slip of the fingers is answered by the command that was meant."""
    result = invoke("enqueu")
    assert result.exit_code == exits.USAGE
    assert 'Did you mean "enqueue"?' in result.stderr


def test_version_is_the_package_s() -> None:
    """`--version` prints one line."""
    result = invoke("--version")
    assert result.stdout.split()[0] == "bananas"
    assert result.exit_code == exits.OK


def test_settings_problems_are_told_together() -> None:
    """A user mends all of them in one round."""
    env = {"BANANAS_PROCS": "many", "BANANAS_JOB_TIMEOUT": "5", "BANANAS_FOO": "1"}
    result = invoke("queue", "ls", env=env)
    assert result.exit_code == exits.USAGE
    for variable in env:
        assert variable in result.stderr


def test_variables_of_commands_are_no_settings() -> None:
    """`BANANAS_CLI_…` gives an option its value, and no setting is missed."""
    result = invoke("enqueue", "a", env={"BANANAS_CLI_ENQUEUE_PRIORITY": "urgent"})
    assert result.exit_code != exits.OK
    assert "is not a setting" not in result.stderr
    result = invoke("dead", "ls", env={"BANANAS_CLI_DEAD_LS_LIMIT": "many"})
    assert "--limit" in result.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SettingsError([("BANANAS_PROCS", "is wrong")]), exits.USAGE),
        (FieldError("name", "is required"), exits.USAGE),
        (JobNotFoundError("a"), exits.FAILED),
        (JobFailedError("a", "boom"), exits.FAILED),
        (ResultTimeoutError("a", 1.0), exits.TIMED_OUT),
        (BrokerUnavailableError("ping", "gone"), exits.NO_SERVER),
        (BrokerDeniedError("ping", "no"), exits.NO_SERVER),
        (BrokerFullError("enqueue", "full"), exits.NO_SERVER),
        (EmbeddedServerError("none"), exits.NO_SERVER),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_has_the_status_of_its_family(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts can tell whose fault it was from the status alone."""
    assert explain(error) == status
    assert str(error) in capsys.readouterr().err


def test_an_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A message with escape sequences, from a job's error, is printed without them."""
    explain(JobFailedError("a", "\x1b[2Jgone"))
    assert "\x1b" not in capsys.readouterr().err


def test_interruption_has_the_shell_s_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with 130 and one word, no traceback."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bananas.cli.session.with_client", stop)
    result = invoke("queue", "ls")
    assert result.exit_code == exits.INTERRUPTED
    assert "interrupted" in result.stderr


def test_no_server_is_said_clearly(tmp_path: object) -> None:
    """Without an address and without an embedded server, a command says both and what to do."""
    result = invoke("job", "show", "x", "--data-dir", str(tmp_path))
    assert result.exit_code == exits.NO_SERVER
    assert "no embedded server runs on" in result.stderr
    assert "bananas up" in result.stderr


def test_unreachable_server_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person does not wait half a minute for an address that is wrong."""
    from bananas.cli import session  # noqa: PLC0415 - loads the client

    assert session.IMPATIENT_S <= 5
    monkeypatch.setitem(session.with_client.__kwdefaults__, "patience_s", 0.2)
    result = invoke("queue", "ls", "--redis-url", "unix:///nowhere/at/all.sock")
    assert result.exit_code == exits.NO_SERVER
    assert "error:" in result.stderr


def test_the_demo_is_called_as_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bananas demo` hands rows, keep, JSON and the folder on, and leaves with its status."""
    seen: list[object] = []

    def main(*args: object) -> int:
        seen.extend(args)
        return 7

    module = pytest.importorskip("bananas.demo")
    monkeypatch.setattr(module, "main", main)
    result = invoke("demo", "--rows", "10", "--keep", "--json", "--out", "there")
    assert result.exit_code == 7
    assert [str(item) for item in seen] == ["10", "True", "True", "there"]
