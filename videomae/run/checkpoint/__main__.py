"""Checkpoints from the command line; PATH is a run's directory, its checkpoints/, or the folder of one checkpoint.

python -m videomae.run.checkpoint ls PATH
python -m videomae.run.checkpoint verify PATH              every byte; exit code 1 if one is not whole
python -m videomae.run.checkpoint export PATH OUT.safetensors [--weights ema]   the whole weights, float32
python -m videomae.run.checkpoint convert PATH OUT --ranks N                    the same checkpoint in N files
python -m videomae.run.checkpoint convert PATH OUT.pt                           all of it in one file for torch.load
python -m benchmarks.checkpoint                                         what a save costs the training

The exports that later stages read are `python -m pretrain.export_step RUN`, `python -m finetune.export_step RUN`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from videomae.command import guarded
from videomae.core.progress import log_to
from videomae.run.checkpoint.inspection import Row, pick, rows

SIZES = ("tiny", "small", "base")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    description, _, commands = (__doc__ or "").partition("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m videomae.run.checkpoint", description=description, epilog=commands, formatter_class=form
    )
    _add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    given = parser.parse_args(arguments)
    log_to(None)
    code = 0

    def act() -> None:
        nonlocal code
        code = given.act(given)

    return guarded(act) or code


def _add_commands(commands: argparse._SubParsersAction) -> None:
    listing = commands.add_parser("ls", help="what is there: steps, bytes, age, who wrote it, whether sizes are right")
    listing.set_defaults(act=lambda given: _list(given, thorough=False))
    verifying = commands.add_parser("verify", help="hash every byte")
    verifying.set_defaults(act=lambda given: _list(given, thorough=True))
    exporting = commands.add_parser("export", help="the whole weights as one safetensors file")
    exporting.set_defaults(act=_export)
    converting = commands.add_parser("convert", help="another number of files, or one file for torch.load")
    converting.set_defaults(act=_convert)
    for command in (listing, verifying, exporting, converting):
        command.add_argument("path", type=Path, help="a run's directory, its checkpoints/, or one checkpoint")
    for command in (exporting, converting):
        command.add_argument("out", type=Path)
        command.add_argument("--step", type=int, help="default: the newest whole one")
    exporting.add_argument("--weights", choices=("master", "ema"), default="master")
    converting.add_argument("--ranks", type=int, default=1, help="number of files (1)")
    measuring = commands.add_parser("bench", help="what a save costs, beside the training and not")
    measuring.set_defaults(act=_bench)
    measuring.add_argument("--folder", type=Path, default=Path(), help="on the disk to be measured (here)")
    measuring.add_argument("--size", choices=SIZES, default="small", help="of the encoder")
    measuring.add_argument("--saves", type=int, default=5, help="of each kind")
    for command in (listing, verifying, exporting, converting, measuring):
        command.add_argument("--json", action="store_true", help="print the result as JSON, alone")


def _list(given: argparse.Namespace, *, thorough: bool) -> int:
    found = rows(given.path, thorough=thorough)
    if given.json:
        print(json.dumps([asdict(row) for row in found]))
    else:
        console = Console()
        Console(width=None if console.is_terminal else 160).print(_table(found, thorough))
    return int(thorough and any(row.fault for row in found))


def _table(found: Sequence[Row], thorough: bool) -> Table:
    table = Table()
    for heading in ("checkpoint", "step", "MB", "age", "written by", "whole" if thorough else "whole (sizes)"):
        table.add_column(heading, justify="right" if heading in ("step", "MB", "age") else "left", overflow="fold")
    for row in found:
        engine = row.engine or {}
        by = f"{engine['kind']}, ZeRO {engine['zero_stage']}, {engine['precision']}, {engine['world']} processes"
        table.add_row(
            row.name,
            "" if row.step is None else str(row.step),
            f"{row.bytes / 1e6:.1f}",
            _age(row.saved),
            by if engine else "",
            row.fault or "yes",
        )
    return table


def _age(saved: str | None) -> str:
    if saved is None:
        return ""
    minutes = (datetime.now(UTC) - datetime.fromisoformat(saved)).total_seconds() / 60
    return (
        f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.0f} h"
        if minutes < 2880
        else f"{minutes / 1440:.0f} d"
    )


def _export(given: argparse.Namespace) -> int:
    from videomae.run.checkpoint.transfer import export

    checkpoint = pick(given.path, given.step)
    tensors = export(checkpoint, given.out, weights=given.weights)
    result = {"out": str(given.out), "step": checkpoint.step, "weights": given.weights, "tensors": tensors}
    _tell(given, result, f"{given.out}: {tensors} tensors, {given.weights} of step {checkpoint.step}")
    return 0


def _convert(given: argparse.Namespace) -> int:
    from videomae.run.checkpoint.transfer import to_ranks, to_torch

    checkpoint = pick(given.path, given.step)
    if given.out.suffix in (".pt", ".pth"):
        to_torch(checkpoint, given.out)
        text = f"{given.out}: step {checkpoint.step}; read it with torch.load(PATH, weights_only=True)"
    else:
        to_ranks(checkpoint, given.out, ranks=given.ranks)
        text = f"{given.out}: step {checkpoint.step} in {given.ranks} files; go on from it with checkpoint.resume=PATH"
    _tell(given, {"out": str(given.out), "step": checkpoint.step, "from": str(checkpoint.folder)}, text)
    return 0


def _bench(given: argparse.Namespace) -> int:
    from benchmarks.checkpoint import measure

    result = measure(given.folder, size=given.size, saves=given.saves)
    text = (
        f"{result['bytes'] / 1e6:.0f} MB, {result['saves']} saves of each kind on {result['device']}\n"
        f"synchronous:  {result['synchronous_seconds']:.3f} s without a step\n"
        f"asynchronous: {result['asynchronous_blocked_seconds']:.3f} s without a step "
        f"({result['blocked_fraction']:.1%}), written {result['asynchronous_seconds']:.1f} s after its beginning; "
        f"steps meanwhile take {result['step_slowdown']:.2f} times as long"
    )
    _tell(given, result, text)
    return 0


def _tell(given: argparse.Namespace, result: dict[str, object], text: str) -> None:
    print(json.dumps(result) if given.json else text)


if __name__ == "__main__":
    sys.exit(main())
