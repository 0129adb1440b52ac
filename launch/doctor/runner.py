"""Run all checks on this rank, and print the table on rank 0. Any launcher starts the ranks, as it does those of a run.

The exit code is 1 if a line is red.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from launch.doctor import machine, network, storage
from launch.doctor.check import (
    NETWORK,
    NETWORK_REMEDY,
    CheckResult,
    Context,
    call_within,
    failed,
    run_checks,
    worst_level,
)
from launch.plan.model import read_config
from videomae.command import finish, guarded
from videomae.core.distributed import World, init_distributed, read_world
from videomae.core.progress import print_wide

CHECKS = (*machine.CHECKS, *network.CHECKS, *storage.CHECKS)
_STYLES = {"green": "green", "yellow": "yellow", "red": "bold red"}


def run_doctor(path: Path | None, overrides: Sequence[str], *, timeout: float, as_json: bool) -> int:
    """Run the checks, and return the exit code. In a world of several, the process ends here and does not return.

    With the config at `path`, its shards, run directory and loader are checked too. `timeout` is in seconds, for all
    ranks to connect and to answer.
    """
    results: list[CheckResult] = []

    def act() -> None:
        config = read_config(path, overrides) if path else None
        world = read_world(os.environ)
        results.extend(_connect(world, timeout))
        if results:
            if not world.is_main:
                sys.stderr.write(f"{results[0].message}\n")  # rank 0 shows its table
                return
            world = World(rank=0, size=1, local_rank=world.local_rank, device=world.device)
        run = config.directory.path if config is not None else Path()
        context = Context(world=world, host=socket.gethostname(), config=config, run=run, timeout=timeout)
        results.extend(run_checks(context, CHECKS))
        if world.is_main:
            _show(results, as_json=as_json)
        if world.size > 1:  # all ranks end with the exit code of rank 0
            level, error = call_within(timeout, lambda: world.broadcast_object(worst_level(results)))
            if error is None:
                results[:] = [CheckResult(level=level, message="rank 0's results")]

    return finish(guarded(act) or int(worst_level(results) == "red"))


def _connect(world: World, timeout: float) -> list[CheckResult]:
    """Connect the ranks; a red line if they do not all appear."""
    if world.size == 1:
        return []
    _, error = call_within(timeout + 5, lambda: init_distributed(world, timeout=timeout))
    where = f"rank {world.rank} ({socket.gethostname()})"
    message = f"{where} cannot connect to all {world.size} ranks: {error}"
    return [] if error is None else failed(message, NETWORK_REMEDY, check=NETWORK)


def _show(results: Sequence[CheckResult], *, as_json: bool) -> None:
    if as_json:
        values = {"level": worst_level(results), "results": [asdict(result) for result in results]}
        sys.stdout.write(json.dumps(values, indent=1) + "\n")
        return
    table = Table(title="videomae doctor", title_justify="left")
    for column in ("check", "", "result", "what to do"):
        table.add_column(column, overflow="fold")
    for result in results:
        level = f"[{_STYLES[result.level]}]{result.level}[/]"
        table.add_row(result.check, level, escape(result.message), escape(result.remedy))
    print_wide(table)
