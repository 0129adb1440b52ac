"""The commands that look at runs on disk. Heavy imports stand in the functions, so that --help is quick."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import click

from videomae.command import PATH, examples, json_option


@click.command(
    epilog=examples("videomae watch runs/NAME", "videomae watch runs/NAME --once", "videomae watch runs/NAME --json")
)
@click.argument("run", type=PATH)
@click.option("--once", is_flag=True, help="Print the view once; implied where standard output is no terminal.")
@click.option("--every", type=float, default=2.0, metavar="SECONDS", help="Time between two updates.")
@click.option("--width", type=int, help="Columns; default: those of the terminal.")
@json_option
def watch(run: Path, *, once: bool, every: float, width: int | None, as_json: bool) -> None:
    """Show a live view of a run.

    RUN is a run directory. The run may be running, stopped or finished, on any host. ctrl-C leaves the view.
    """
    from rich.console import Console
    from rich.live import Live

    from videomae.run.metrics.log import plain
    from videomae.run.metrics.view import view
    from videomae.run.report import RunReader

    reader = RunReader(run)
    if as_json:
        click.echo(json.dumps(plain(reader.read().to_dict()), allow_nan=False))
        return
    console = Console(width=width)
    with suppress(KeyboardInterrupt):
        if not once and console.is_terminal:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while not (report := reader.read()).finished:
                    live.update(view(report, width=console.width), refresh=True)
                    time.sleep(every)
        console.print(view(reader.read(), width=console.width))


@click.command(epilog=examples("videomae sync runs/NAME"))
@click.argument("run", type=PATH)
def sync(run: Path) -> None:
    """Send the metrics that W&B has missed.

    RUN is a run directory.
    """
    from videomae.run.metrics.wandb_process import send
    from videomae.run.report import RunReader

    RunReader(run)
    click.echo(f"sent to {send(run)}")
