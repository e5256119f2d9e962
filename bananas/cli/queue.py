"""`bananas queue`: what waits where."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bananas.cli.options import as_json, connection, read_settings
from bananas.cli.screen import age, count, print_json, table

if TYPE_CHECKING:
    from bananas.client import Client
    from bananas.inspector import QueueInfo


@click.group()
def queue() -> None:
    """What waits where, and for how long."""


@queue.command()
@as_json
@connection
@click.pass_context
def ls(ctx: click.Context, /, *, json_output: bool) -> None:
    """List the queues: how many jobs wait in each, and how old the next one is."""
    from bananas.cli.session import with_client  # noqa: PLC0415 - not for --help

    async def action(
        client: Client,
    ) -> tuple[list[QueueInfo], dict[str, int], list[dict[str, Any]]]:
        return await client.queues(), await client.stats(), await client.workers()

    queues, stats, workers = with_client(read_settings(ctx), action)
    alive = sum(1 for worker in workers if worker["alive"])
    states = ("waiting", "scheduled", "leased", "dead")
    if json_output:
        told = {name: stats[name] for name in states} | {"workers": alive}
        print_json({"queues": [asdict(item) for item in queues]} | told)
        return
    table(
        ["routing key", "priority", "task", ">waiting", ">oldest"],
        [
            [q.routing_key, q.priority, q.task or "", count(q.waiting), age(q.oldest_age_s)]
            for q in queues
        ],
    )
    words = {"leased": "running or held by workers"}
    told_states = ", ".join(f"{count(stats[name])} {words.get(name, name)}" for name in states)
    click.echo(f"{told_states}; {alive} worker process{'' if alive == 1 else 'es'}")
    if stats["waiting"] and not alive:
        click.secho("no workers are running: nothing will be taken", fg="yellow", err=True)
