"""The command line: composes what lies below, prints, leaves with a status that means something.

Importing it loads click and nothing else; each command loads what it needs when it runs.
"""

from __future__ import annotations

__all__ = ["main", "supervisor_main"]


def main() -> None:
    """Run `bananas`; never returns."""
    from bananas.log import occupy_standard_streams  # noqa: PLC0415 - as below

    occupy_standard_streams()
    from bananas.cli.root import cli  # noqa: PLC0415 - the entry points are imported by tools, too

    cli(prog_name="bananas")


def supervisor_main() -> None:
    """Run `bananas-supervisor`, which is `bananas worker`; never returns."""
    from bananas.log import occupy_standard_streams  # noqa: PLC0415 - as below

    occupy_standard_streams()
    from bananas.cli.root import CONTEXT, guarded  # noqa: PLC0415
    from bananas.cli.worker import worker  # noqa: PLC0415

    guarded(worker, prog_name="bananas-supervisor", **CONTEXT)
