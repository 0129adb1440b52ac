"""Can these machines run a job?

python -m launch.doctor [CONFIG] [key=value ...]                 this machine, one process
python -m launch.doctor CONFIG --on torchrun --processes 8       this machine, a process a GPU
python -m launch.doctor CONFIG --cluster FILE --nodes 2          hosts by ssh, or by srun where Slurm gives them
srun python -m launch.doctor CONFIG                              inside a Slurm job: all its tasks
torchrun ... -m launch.doctor CONFIG                             under any launcher: all its ranks

Every rank looks at its machine, rank 0 prints one table. Exit code 1 when a line is red.
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
from rich.table import Table

from launch.doctor import elsewhere
from launch.doctor.checks import CHECKS
from launch.doctor.examination import NETWORK, NETWORK_REMEDY, examine, within
from launch.doctor.finding import Context, Finding, worst
from launch.plan.model import read_config
from videomae.command import guarded
from videomae.core.distributed import World, end_process, join, read_world

STYLES = {"green": "green", "yellow": "yellow", "red": "bold red"}
WIDTH = 160


def main(arguments: Sequence[str] | None = None, *, clock: Callable[[], float] = time.time) -> int:
    """The command; returns the exit code. One process of several ends here and does not return."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?", help="also looks at its shards, run directory and loader")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--on", choices=("torchrun",), help="start a process a GPU on this machine")
    parser.add_argument("--cluster", type=Path, help="a file below configs/cluster/: all its hosts, or Slurm's")
    parser.add_argument("--nodes", type=int, help="with --cluster; default: its own number")
    parser.add_argument("--processes", type=int, help="on each machine; default: one a GPU")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for all ranks to meet")
    parser.add_argument("--json", action="store_true", help="print JSON, alone")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # where rank 0 of --on writes; exit code 0 then
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    given = parser.parse_intermixed_args(arguments)
    found: list[Finding] = []
    code = guarded(lambda: found.extend(_start(given) if given.on or given.cluster else _examine(given, clock)))
    code = code or int(worst(found) == "red" and not given.report)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_process(code)
    return code


def _start(given: argparse.Namespace) -> list[Finding]:
    """Run on all ranks, and show what rank 0 reports."""
    words = (*([str(given.config)] if given.config is not None else []), *given.overrides)
    errand = elsewhere.Errand(words, given.patience)
    if given.cluster is not None:
        findings = elsewhere.ask_cluster(errand, given.cluster, given.nodes, given.processes)
    else:
        findings = elsewhere.ask_here(errand, given.processes)
    _show(findings, given)
    return findings


def _examine(given: argparse.Namespace, clock: Callable[[], float]) -> list[Finding]:
    config = read_config(given.config, given.overrides) if given.config else None
    world = read_world(os.environ)
    findings = _meet(world, given.patience)
    met = not findings
    if not met and not world.first:
        sys.stderr.write(f"{findings[0].said}\n")  # rank 0 shows its table
        return findings
    context = Context(
        world=world if met else World(rank=0, size=1, local_rank=world.local_rank, device=world.device),
        host=socket.gethostname(),
        config=config,
        run=config.directory.path if config is not None else Path(),
        patience=given.patience,
        clock=clock,
    )
    findings += examine(context, CHECKS)
    if context.world.first and given.report:
        given.report.write_text(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    elif context.world.first:
        _show(findings, given)
    if met and world.size > 1:
        shared = within(given.patience, lambda: world.share(worst(findings)))
        if not world.first and shared.fault is None:
            return [Finding("all", shared.value, "as rank 0 says")]
    return findings


def _meet(world: World, patience: float) -> list[Finding]:
    """Connect the ranks; a finding if they do not meet."""
    if world.size == 1:
        return []
    outcome = within(patience + 5, lambda: join(world, patience=patience))
    if outcome.fault is None:
        return []
    said = f"rank {world.rank} ({socket.gethostname()}) does not meet the {world.size - 1} others: {outcome.fault}"
    return [Finding(NETWORK, "red", said, NETWORK_REMEDY)]


def _show(findings: Sequence[Finding], given: argparse.Namespace) -> None:
    if given.json:
        values = {"level": worst(findings), "findings": [dataclasses.asdict(finding) for finding in findings]}
        print(json.dumps(values, indent=1))
        return
    table = Table(title="python -m launch.doctor", title_justify="left")
    for column in ("check", "", "what is seen", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        level = f"[{STYLES[finding.level]}]{finding.level}[/]"
        table.add_row(finding.check, level, _plain(finding.said), _plain(finding.remedy))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _plain(text: str) -> str:
    """Text in which square brackets are no markup."""
    return text.replace("[", r"\[")


if __name__ == "__main__":
    sys.exit(main())
