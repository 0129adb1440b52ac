"""Estimate what a run needs, before any GPU hour is spent.

videomae plan CONFIG --nodes 8 --gpus 8 --device h200 [key=value ...]

Prints parameters, memory by ZeRO stage, FLOPs, time, decoding cores, data and checkpoint sizes. The time follows from
an MFU: --mfu, or the one in --measured FILE, or 35 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from launch.plan.devices import CLIPS_PER_CORE, DEVICES, Machines, choose_mfu, find_device
from launch.plan.estimate import RunPlan, plan_run
from launch.plan.model import ModelProfile, read_config, read_training_data
from launch.plan.report import PlanWarning, find_warnings, plan_page
from videomae.command import guarded
from videomae.core.errors import UserError
from videomae.core.progress import log_to

WIDTH = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    given = _parser().parse_intermixed_args(arguments)
    log_to(None, console_too=True)
    return guarded(lambda: _plan(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videomae plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="of pretraining or fine-tuning")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example batch=2048")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="devices per node (default 8)")
    parser.add_argument("--device", default="h200", help=f"{', '.join(DEVICES)} (default h200)")
    parser.add_argument("--cores", type=float, help="CPU cores per node; default: those of the vendor's machine")
    parser.add_argument(
        "--clips-per-core",
        type=float,
        default=CLIPS_PER_CORE,
        metavar="N",
        help=f"clips per second that one core decodes (default {CLIPS_PER_CORE:g})",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="videos in the training split, without a manifest")
    parser.add_argument("--mfu", type=float, help="model FLOPs utilization, for example 0.4")
    parser.add_argument(
        "--measured", type=Path, metavar="FILE", help='JSON with {"device": ..., "model": ..., "mfu": ...}'
    )
    parser.add_argument("--json", action="store_true", help="print JSON only")
    return parser


def _plan(given: argparse.Namespace) -> None:
    if given.samples is not None and given.samples < 1:
        raise UserError(f"--samples must be at least 1, got {given.samples}")
    config = read_config(given.config, given.overrides)
    device = find_device(given.device)
    machines = Machines(
        nodes=given.nodes,
        gpus=given.gpus,
        device=device,
        cores=given.cores,
        clips_per_core=given.clips_per_core,
    )
    data = read_training_data(config)
    profile = ModelProfile(config, data.classes)
    mfu = choose_mfu(device, profile.name, given=given.mfu, measured=given.measured)
    plan = plan_run(profile, data, machines, mfu, samples=given.samples)
    warnings = find_warnings(profile, plan)
    if given.json:
        print(json.dumps(_to_dict(plan, warnings), indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else WIDTH).print(plan_page(plan, warnings))


def _to_dict(plan: RunPlan, warnings: Sequence[PlanWarning]) -> dict[str, Any]:
    values = dataclasses.asdict(plan)
    for row, entry in zip((*plan.memory, plan.chosen), (*values["memory"], values["chosen"]), strict=True):
        entry.update(between_steps=row.between_steps, peak=row.peak)
    values["step"].update(seconds=plan.step.seconds, bound=plan.step.bound)
    return {**values, "warnings": [dataclasses.asdict(warning) for warning in warnings]}


if __name__ == "__main__":
    sys.exit(main())
