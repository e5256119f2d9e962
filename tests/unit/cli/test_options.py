"""Options: settings from flags, where each came from, and questions."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from bananas.cli import exits
from bananas.cli.options import (
    Duration,
    NotOnTerminalError,
    confirm,
    connection,
    leave_variables,
    read_settings,
    source_of,
    variables_of,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("5s", 5.0), ("1h30m", 5400.0), ("0", 0.0)]
)
def test_durations_are_read_as_settings_are(text: str, seconds: float) -> None:
    """A flag takes what a variable takes."""
    assert Duration().convert(text, None, None) == seconds


def test_a_bare_number_is_no_duration() -> None:
    """Its unit would be a guess."""
    with pytest.raises(click.UsageError, match="5m"):
        Duration().convert("5", None, None)


def test_variables_drop_the_unit() -> None:
    """`job_timeout_s` is BANANAS_JOB_TIMEOUT, and the reference's name after it."""
    assert variables_of("job_timeout_s") == ("BANANAS_JOB_TIMEOUT", "JOB_TIMEOUT")
    assert variables_of("key_prefix") == ("BANANAS_KEY_PREFIX",)


def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said on the command line is what is meant."""

    @click.command()
    @connection
    @click.pass_context
    def show(ctx: click.Context) -> None:
        click.echo(read_settings(ctx).key_prefix)

    monkeypatch.setenv("BANANAS_KEY_PREFIX", "theirs")
    assert CliRunner().invoke(show, ["--key-prefix", "mine"]).output == "mine\n"
    assert CliRunner().invoke(show, []).output == "theirs\n"


@pytest.mark.parametrize(
    ("flags", "environ", "pyproject", "source"),
    [
        ({"procs": "2"}, {"BANANAS_PROCS": "3"}, None, "flag"),
        ({}, {"BANANAS_PROCS": "3"}, {"tool": {"bananas": {"procs": 4}}}, "BANANAS_PROCS"),
        ({}, {"BANANAS_PROCS": " "}, {"tool": {"bananas": {"procs": 4}}}, "pyproject.toml"),
        ({}, {}, {"tool": {}}, "default"),
        ({}, {}, None, "default"),
    ],
)
def test_the_source_of_a_setting_is_the_one_that_won(
    monkeypatch: pytest.MonkeyPatch,
    flags: dict[str, object],
    environ: dict[str, str],
    pyproject: dict[str, object] | None,
    source: str,
) -> None:
    """The doctor names the place to change."""
    monkeypatch.delenv("BANANAS_PROCS", raising=False)
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    assert source_of("procs", flags, pyproject) == source


def test_pyproject_may_name_the_unit_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """`job-timeout` and `job_timeout_s` are the same setting."""
    monkeypatch.delenv("BANANAS_JOB_TIMEOUT", raising=False)
    monkeypatch.delenv("JOB_TIMEOUT", raising=False)
    for key in ("job-timeout", "job_timeout_s"):
        assert source_of("job_timeout_s", {}, {"tool": {"bananas": {key: 1}}}) == "pyproject.toml"


def test_variables_of_commands_stay_with_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes we start do not get them."""
    monkeypatch.setenv("BANANAS_CLI_ENQUEUE_WAIT", "1")
    leave_variables()
    import os  # noqa: PLC0415 - beside its one use

    assert "BANANAS_CLI_ENQUEUE_WAIT" not in os.environ


def test_nobody_is_asked_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that deletes has to say --yes; it does not hang, and it does not delete."""
    monkeypatch.setattr("os.isatty", lambda _: False)
    with pytest.raises(NotOnTerminalError, match="--yes"):
        confirm("Delete all?", yes=False)
    confirm("Delete all?", yes=True)


@pytest.mark.parametrize(("answer", "status"), [("y\n", exits.OK), ("n\n", exits.FAILED)])
def test_the_answer_decides(monkeypatch: pytest.MonkeyPatch, answer: str, status: int) -> None:
    """No means that nothing is changed, and the status says so."""
    monkeypatch.setattr("os.isatty", lambda _: True)

    @click.command()
    def ask() -> None:
        confirm("Delete all?", yes=False)

    result = CliRunner().invoke(ask, [], input=answer)
    assert result.exit_code == status
    assert ("nothing was changed" in result.stderr) == (status != exits.OK)
