"""Looking at runs: `python -m videomae.run.metrics watch RUN`, `compare RUN RUN`, `sync RUN`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from videomae.core.errors import UserError
from videomae.run.metrics.compare import compare, rows
from videomae.run.metrics.log import plain
from videomae.run.metrics.view import view
from videomae.run.report import RunReader

EXIT_MISTAKE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.act(given))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m videomae.run.metrics", description="Look at runs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    watching = commands.add_parser("watch", help="a live view of a run; ctrl-C leaves it")
    watching.add_argument("run", type=Path, help="the run's directory")
    watching.add_argument("--once", action="store_true", help="print it once; so it is when no terminal is there")
    watching.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="between two looks (2)")
    watching.add_argument("--width", type=int, help="columns; default: those of the terminal")
    watching.add_argument("--json", action="store_true", help="print where the run stands as JSON, alone")
    watching.set_defaults(act=_watch)
    comparing = commands.add_parser("compare", help="the last figures of several runs beside each other")
    comparing.add_argument("runs", type=Path, nargs="+", help="the runs' directories")
    comparing.add_argument("--json", action="store_true", help="print JSON, alone")
    comparing.set_defaults(act=_compare)
    sending = commands.add_parser("sync", help="send what W&B has missed of a run")
    sending.add_argument("run", type=Path, help="the run's directory")
    sending.set_defaults(act=_sync)
    return parser


def _watch(given: argparse.Namespace) -> int:
    reader = RunReader(given.run)
    if given.json:
        print(json.dumps(plain(reader.read().to_dict()), allow_nan=False))
        return 0
    console = Console(width=given.width)
    if not given.once and console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not (standing := reader.read()).finished:
                live.update(view(standing, width=console.width), refresh=True)
                time.sleep(given.every)
    console.print(view(reader.read(), width=console.width))
    return 0


def _compare(given: argparse.Namespace) -> int:
    found = rows([RunReader(run).read() for run in given.runs])
    if given.json:
        print(json.dumps(plain(found), allow_nan=False))
    else:
        Console().print(compare(found))
    return 0


def _sync(given: argparse.Namespace) -> int:
    from videomae.run.metrics.wandb_mirror import send  # wandb is only wanted here

    RunReader(given.run)
    print(f"sent to {send(given.run)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
