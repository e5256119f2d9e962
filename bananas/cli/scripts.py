"""`bananas scripts`: the Lua scripts, given to a server beforehand."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import click

from bananas.cli.options import connection, read_settings
from bananas.cli.screen import note

if TYPE_CHECKING:
    from bananas.client import Client


@click.group()
def scripts() -> None:
    """The Lua scripts that everything is done by."""


@scripts.command()
@connection
@click.pass_context
def load(ctx: click.Context, /) -> None:
    """Give the server the scripts, for users that may run none of their own.

    Others need it not: a script that is not there is sent along. A server forgets them when it
    starts anew.
    """
    from bananas.cli.session import with_client  # noqa: PLC0415 - not for --help

    async def action(client: Client) -> int:
        broker = (await client.session()).broker
        all_of_them = [getattr(broker.scripts, field.name) for field in fields(broker.scripts)]
        for script in all_of_them:
            await broker.transport.command("SCRIPT", "LOAD", script.source, repeat=True)
        return len(all_of_them)

    note(f"{with_client(read_settings(ctx), action)} scripts loaded")
