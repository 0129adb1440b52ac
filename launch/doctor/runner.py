"""Run all checks on this rank or on the ranks of other machines, and print the table of rank 0.

Every rank checks its machine, and rank 0 prints one table. The exit code is 1 if a line is red.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.doctor import hardware, network, remote, storage, system
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
from videomae.command import guarded
from videomae.core.distributed import World, end_process, init_distributed, read_world

CHECKS = (*system.CHECKS, *network.CHECKS, *hardware.CHECKS, *storage.CHECKS)
STYLES = {"green": "green", "yellow": "yellow", "red": "bold red"}
WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Where the checks run, and what rank 0 prints.

    `launcher` starts one process per GPU on this machine, `cluster` is a file of other machines. Rank 0 writes its
    results to `report` instead of printing them.
    """

    launcher: str | None = None
    cluster: Path | None = None
    nodes: int | None = None
    processes: int | None = None
    timeout: float = 60.0  # seconds for all ranks to connect
    as_json: bool = False
    report: Path | None = None


def run_doctor(
    config: Path | None, overrides: Sequence[str], options: DoctorOptions, *, clock: Callable[[], float] = time.time
) -> int:
    """Run the checks, and return the exit code. In a world of several, the process ends here and does not return.

    With `config`, its shards, run directory and loader are checked too.
    """
    results: list[CheckResult] = []

    def act() -> None:
        elsewhere = options.launcher or options.cluster
        results.extend(_start(config, overrides, options) if elsewhere else _check(config, overrides, options, clock))

    code = guarded(act) or int(worst_level(results) == "red" and not options.report)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_process(code)
    return code


def _start(path: Path | None, overrides: Sequence[str], options: DoctorOptions) -> list[CheckResult]:
    """Run the checks in other processes, and show the results of their rank 0."""
    check = remote.RemoteCheck((*([str(path)] if path is not None else []), *overrides), options.timeout)
    if options.cluster is not None:
        results = remote.check_cluster(check, options.cluster, options.nodes, options.processes)
    else:
        results = remote.check_here(check, options.processes)
    _show(results, as_json=options.as_json)
    return results


def _check(
    path: Path | None, overrides: Sequence[str], options: DoctorOptions, clock: Callable[[], float]
) -> list[CheckResult]:
    """Run the checks on this rank; rank 0 shows or reports the results."""
    config = read_config(path, overrides) if path else None
    world = read_world(os.environ)
    results = _connect(world, options.timeout)
    connected = not results
    if not connected:
        if not world.is_main:
            sys.stderr.write(f"{results[0].message}\n")  # rank 0 shows its table
            return results
        world = World(rank=0, size=1, local_rank=world.local_rank, device=world.device)
    context = Context(
        world=world,
        host=socket.gethostname(),
        config=config,
        run=config.directory.path if config is not None else Path(),
        timeout=options.timeout,
        clock=clock,
    )
    results += run_checks(context, CHECKS)
    if world.is_main and options.report:
        options.report.write_text(json.dumps([dataclasses.asdict(result) for result in results]))
    elif world.is_main:
        _show(results, as_json=options.as_json)
    if world.size > 1:
        level, error = call_within(options.timeout, lambda: world.broadcast_object(worst_level(results)))
        if not world.is_main and error is None:  # all ranks end with the same exit code
            return [CheckResult(level=level, message="rank 0's results")]
    return results


def _connect(world: World, timeout: float) -> list[CheckResult]:
    """Connect the ranks; a red line if they do not all appear."""
    if world.size == 1:
        return []
    _, error = call_within(timeout + 5, lambda: init_distributed(world, timeout=timeout))
    if error is None:
        return []
    where = f"rank {world.rank} ({socket.gethostname()})"
    message = f"{where} cannot connect to all {world.size} ranks: {error}"
    return failed(message, NETWORK_REMEDY, check=NETWORK)


def _show(results: Sequence[CheckResult], *, as_json: bool) -> None:
    if as_json:
        values = {"level": worst_level(results), "results": [dataclasses.asdict(result) for result in results]}
        sys.stdout.write(json.dumps(values, indent=1) + "\n")
        return
    table = Table(title="videomae doctor", title_justify="left")
    for column in ("check", "", "result", "what to do"):
        table.add_column(column, overflow="fold")
    for result in results:
        level = f"[{STYLES[result.level]}]{result.level}[/]"
        table.add_row(result.check, level, escape(result.message), escape(result.remedy))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
