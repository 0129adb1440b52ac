"""Check whether machines can run a job.

videomae doctor [CONFIG] [key=value ...]                 this machine, one process
videomae doctor CONFIG --on torchrun --processes 8       this machine, a process a GPU
videomae doctor CONFIG --cluster FILE --nodes 2          hosts by ssh, or by srun where Slurm allocates them
srun videomae doctor CONFIG                              inside a Slurm job: all its tasks
torchrun ... -m launch.doctor CONFIG                             under any launcher: all its ranks

Every rank checks its machine, and rank 0 prints one table. The exit code is 1 if a line is red.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
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


def main(arguments: Sequence[str] | None = None, *, clock: Callable[[], float] = time.time) -> int:
    """The command; returns the exit code. In a world of several, the process ends here and does not return."""
    given = _parser().parse_intermixed_args(arguments)
    results: list[CheckResult] = []
    code = guarded(lambda: results.extend(_start(given) if given.on or given.cluster else _check(given, clock)))
    code = code or int(worst_level(results) == "red" and not given.report)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_process(code)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videomae doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?", help="also checks its shards, run directory and loader")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--on", choices=("torchrun",), help="start a process a GPU on this machine")
    parser.add_argument("--cluster", type=Path, help="a file below configs/cluster/: all its hosts, or Slurm's")
    parser.add_argument("--nodes", type=int, help="with --cluster; default: the file's number")
    parser.add_argument("--processes", type=int, help="on each machine; default: one a GPU")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for all ranks to connect")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # rank 0 writes it for `remote`; exit code 0
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    return parser


def _start(given: argparse.Namespace) -> list[CheckResult]:
    """Run the checks in other processes, and show the results of their rank 0."""
    arguments = (*([str(given.config)] if given.config is not None else []), *given.overrides)
    check = remote.RemoteCheck(arguments, given.timeout)
    if given.cluster is not None:
        results = remote.check_cluster(check, given.cluster, given.nodes, given.processes)
    else:
        results = remote.check_here(check, given.processes)
    _show(results, given)
    return results


def _check(given: argparse.Namespace, clock: Callable[[], float]) -> list[CheckResult]:
    """Run the checks on this rank; rank 0 shows or reports the results."""
    config = read_config(given.config, given.overrides) if given.config else None
    world = read_world(os.environ)
    results = _connect(world, given.timeout)
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
        timeout=given.timeout,
        clock=clock,
    )
    results += run_checks(context, CHECKS)
    if world.is_main and given.report:
        given.report.write_text(json.dumps([dataclasses.asdict(result) for result in results]))
    elif world.is_main:
        _show(results, given)
    if world.size > 1:
        level, error = call_within(given.timeout, lambda: world.broadcast_object(worst_level(results)))
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


def _show(results: Sequence[CheckResult], given: argparse.Namespace) -> None:
    if given.json:
        values = {"level": worst_level(results), "results": [dataclasses.asdict(result) for result in results]}
        print(json.dumps(values, indent=1))
        return
    table = Table(title="videomae doctor", title_justify="left")
    for column in ("check", "", "result", "what to do"):
        table.add_column(column, overflow="fold")
    for result in results:
        level = f"[{STYLES[result.level]}]{result.level}[/]"
        table.add_row(result.check, level, escape(result.message), escape(result.remedy))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


if __name__ == "__main__":
    sys.exit(main())
