"""`bananas bench`: three figures of this machine, with the conditions they hold under."""

from __future__ import annotations

import click

from bananas.cli.options import as_json, flag, leave_variables
from bananas.cli.screen import count, members, print_json


@click.command()
@flag("--jobs", "number", type=click.IntRange(1000), default=100_000, metavar="N", help="To drain.")
@flag(
    "--samples", type=click.IntRange(10), default=300, metavar="N", help="Single jobs to be timed."
)
@flag("--procs", default="auto", metavar="auto|N", help="Worker processes.")
@as_json
def bench(*, number: int, samples: int, procs: str, json_output: bool) -> None:
    """Measure this machine: enqueue_many, the drain by worker processes, the latency when idle.

    On a private server of its own; your data is not touched. It takes some seconds.
    """
    leave_variables()

    from bananas.cli.measurement import measure, summary_ms  # noqa: PLC0415 - not for --help

    figures, conditions = measure(number, samples, procs, quiet=json_output)
    if json_output:
        print_json({"figures": figures.told(), "conditions": conditions})
        return
    click.secho("figures", bold=True)
    members(
        [
            ("enqueue_many", f"{count(figures.enqueue_per_s)} jobs/s, one process"),
            ("drain", f"{count(figures.drain_per_s)} jobs/s"),
            ("server CPU", f"{figures.server_cpu_us:.1f} µs a job, enqueue to completion"),
            ("idle: start", summary_ms(figures.start_ms)),
            ("idle: result", summary_ms(figures.result_ms)),
        ],
        indent="  ",
    )
    click.secho("conditions", bold=True)
    members(
        [(name.replace("_", " "), str(value)) for name, value in conditions.items()], indent="  "
    )
