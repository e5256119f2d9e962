"""Writes `docs/cli.md` from what the commands say of themselves: `python tests/cli_page.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bananas.cli.options import VARIABLE_PREFIX
from bananas.cli.root import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = Path(__file__).parents[1] / "docs" / "cli.md"
BEGIN: Final = "<!-- commands:begin -->\n"
END: Final = "<!-- commands:end -->\n"
WIDTH: Final = 100


def main() -> None:
    """Put the commands between the page's markers."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{commands()}{END}{after}")


def commands() -> str:
    """Return a section for each command: its help, as it is printed on a wide terminal."""
    return "".join(
        f"\n## `{ctx.command_path}`\n\n```text\n{ctx.get_help().strip()}\n```\n"
        for ctx in contexts()
    )


def contexts() -> Iterator[click.Context]:
    """Yield a context for each command that does something, in the order of the help."""
    prefix = VARIABLE_PREFIX.removesuffix("_")
    shape = {**cli.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    root = click.Context(cli, info_name="bananas", auto_envvar_prefix=prefix, **shape)
    for name in cli.list_commands(root):
        yield from _below(root, name)


def _below(parent: click.Context, name: str) -> Iterator[click.Context]:
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, name)
    assert command is not None, f"{parent.command_path} {name}"
    ctx = click.Context(command, info_name=name, parent=parent)
    if isinstance(command, click.Group):
        for below in command.list_commands(ctx):
            yield from _below(ctx, below)
    else:
        yield ctx


if __name__ == "__main__":
    main()
