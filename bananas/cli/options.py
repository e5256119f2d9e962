"""Options: those that are settings, read by `Settings` alone, and those of one command.

Every option has a variable and names it in its help. That of a setting is the setting's.
That of any other is `BANANAS_CLI_<COMMAND>_<OPTION>`; those are for commands only: `Settings`
passes them over, and the processes we start do not get them.
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from bananas.cli import exits
from bananas.errors import UsageError
from bananas.settings import Settings, load_pyproject, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

F = TypeVar("F", bound="Callable[..., Any] | click.Command")

VARIABLE_PREFIX: Final = "BANANAS_CLI_"
_FLAGS: Final = "bananas.cli.flags"
_FIELDS: Final = {item.name: item for item in fields(Settings)}


if TYPE_CHECKING:
    _Type = click.ParamType[float]
else:
    _Type = click.ParamType  # not generic before click 8.4


class Duration(_Type):
    """A length of time, `500ms`, `5s`, `1h30m`; becomes seconds."""

    name = "duration"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Read it."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(value)
        except ValueError as problem:
            self.fail(f"{problem}.", param, ctx)


class Flag(click.Option):
    """An option of one command, with a variable of its own, named as the option is."""

    def __init__(self, *args: Any, **attrs: Any) -> None:  # noqa: ANN401 - click's
        """Keep what the help is to say beside the variable."""
        default = attrs.get("default")
        self._shown_default = None if attrs.pop("show_default", True) is False else default
        super().__init__(*args, **attrs)

    def variable(self, ctx: click.Context) -> str:
        """Return the variable's name."""
        word = max(self.opts, key=len).lstrip("-").replace("-", "_").upper()
        return f"{ctx.auto_envvar_prefix or VARIABLE_PREFIX.removesuffix('_')}_{word}"

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Read the variable; an empty one counts as not set."""
        return os.environ.get(self.variable(ctx)) or None

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Add the variable and the default."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        shown = "" if self._shown_default in (None, False) else f"; default: {self._shown_default}"
        return record[0], f"{record[1]}  [env var: {self.variable(ctx)}{shown}]"


class SettingFlag(click.Option):
    """An option that is a setting: `Settings` reads it, its variable and its default."""

    def __init__(self, *args: Any, field: str, **attrs: Any) -> None:  # noqa: ANN401 - click's
        """Take help, variable and default from the setting's own description."""
        item = _FIELDS[field]
        meaning = attrs.pop("help", None) or str(item.metadata["meaning"]).replace("`", "")
        default = item.metadata["shown"] or item.metadata["reader"].show(item.default)
        variables = ", ".join(variables_of(field))
        attrs["help"] = f"{_sentence(meaning)}  [env var: {variables}; default: {default}]"
        attrs |= {"expose_value": False, "callback": _remember(field), "allow_from_autoenv": False}
        attrs.setdefault("type", str)
        super().__init__(*args, **attrs)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


def _remember(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:  # noqa: ANN401
        if value is not None:
            ctx.meta.setdefault(_FLAGS, {})[field] = value

    return callback


def variables_of(field: str) -> tuple[str, ...]:
    """Return the variables of a setting, the one that wins first."""
    variable = "BANANAS_" + field.removesuffix("_bytes").removesuffix("_s").upper()
    bare = _FIELDS[field].metadata["bare"]
    return (variable, variable.removeprefix("BANANAS_")) if bare else (variable,)


def flag(*names: str, **attrs: Any) -> Callable[[F], F]:  # noqa: ANN401 - click's
    """Declare an option of one command."""
    return click.option(*names, cls=Flag, **attrs)


def setting(*names: str, field: str, **attrs: Any) -> Callable[[F], F]:  # noqa: ANN401 - click's
    """Declare an option that is a setting."""
    return click.option(*names, cls=SettingFlag, field=field, **attrs)


def stacked(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return one decorator that applies these, the first on top of the help."""

    def decorate(function: Any) -> Any:  # noqa: ANN401 - whatever click makes of it
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_place: Final = stacked(
    setting("--key-prefix", field="key_prefix", metavar="PREFIX"),
    setting("--data-dir", field="data_dir", metavar="FOLDER"),
)

fleet_connection: Final = stacked(setting("--redis-url", field="redis_url", metavar="URL"), _place)
"""Which server, and where on it, for those who start one if there is none."""

connection: Final = stacked(
    setting(
        "--redis-url",
        field="redis_url",
        metavar="URL",
        help="The server; unset, the embedded one that runs on the data folder",
    ),
    _place,
)
"""Which server, and where on it, for those who need one that runs."""

durable: Final = setting("--durability", field="durability", metavar="memory|fsync|replica")
"""What jobs must be in before they count as accepted."""

as_json: Final = flag("--json", "json_output", is_flag=True, help="Print JSON.")
"""For machines."""


def leave_variables() -> None:
    """Take what is for commands only out of the environment that our children get."""
    for name in [name for name in os.environ if name.startswith(VARIABLE_PREFIX)]:
        del os.environ[name]


def given_flags(ctx: click.Context) -> dict[str, Any]:
    """Return the settings that were given as flags, by field."""
    flags: dict[str, Any] = ctx.meta.get(_FLAGS, {})
    return flags


def read_settings(ctx: click.Context, **flags: object) -> Settings:
    """Return the settings of flags, environment and `pyproject.toml`.

    Args:
        ctx: Of the command, which knows its flags.
        **flags: More of them, by field; those given by the user win.

    Raises:
        SettingsError: Holds every wrong value and every contradiction.
    """
    return Settings.from_sources(os.environ, load_pyproject(), **(flags | given_flags(ctx)))


def source_of(
    field: str, flags: Mapping[str, object], pyproject: Mapping[str, object] | None
) -> str:
    """Return where a setting's value comes from, for a person: a flag, a variable, a file."""
    if field in flags:
        return "flag"
    for variable in variables_of(field):
        if os.environ.get(variable, "").strip():
            return variable
    table: Any = pyproject or {}
    for key in ("tool", "bananas"):
        table = table.get(key) or {}
    keys: set[str] = {key.replace("-", "_") for key in table}
    if keys & {field, field.removesuffix("_bytes").removesuffix("_s")}:
        return "pyproject.toml"
    return "default"


class NotOnTerminalError(UsageError):
    """A question was to be asked, and nobody is there to answer it."""


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone.

    Args:
        question: To be answered by yes or no.
        yes: The answer was given in advance.

    Raises:
        NotOnTerminalError: There is no terminal to ask on.
        click.exceptions.Exit: The answer is no.
    """
    if yes:
        return
    if not os.isatty(0):
        raise NotOnTerminalError(f"{question} (no terminal to ask on: say --yes)")
    if not click.confirm(question, err=True):
        click.echo("nothing was changed", err=True)
        raise click.exceptions.Exit(exits.FAILED)
