"""`bananas demo`: the main job on real input, which lives in a package of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bananas.cli.options import as_json, flag, leave_variables
from bananas.errors import UsageError


class DemoMissingError(UsageError):
    """A library that only the demo needs is not installed."""

    hint = "pip install 'bananas[demo]'"

    def __init__(self, library: str) -> None:
        """Name the library."""
        super().__init__(f"the demo needs {library}")


@click.command()
@flag("--rows", type=click.IntRange(min=1), metavar="N", help="Only the first N rows.")
@flag("--keep", is_flag=True, help="Keep the folder with the database, server data and logs.")
@flag(
    "--out",
    "out_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="FOLDER",
    help="Where the plot goes.",
)
@as_json
def demo(*, rows: int | None, keep: bool, out_dir: Path, json_output: bool) -> None:
    """Submit a year of flights over HTTP, join and store them, repair what failed; then figures."""
    leave_variables()
    try:
        from bananas.demo import main  # noqa: PLC0415 - loads what only the demo needs
    except ModuleNotFoundError as error:
        raise DemoMissingError(error.name or "a library") from error
    sys.exit(main(rows, keep, json_output, out_dir))
