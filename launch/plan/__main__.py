"""What a run will need and take, before any GPU hour is spent.

python -m launch.plan CONFIG --nodes 8 --gpus 8 --device h200 [key=value ...]   memory, time, hours, where scaling ends
python -m launch.plan --published                       published runs beside this model's estimates of them
python -m launch.plan --check-memory                    the memory estimate beside runs measured on this machine
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from launch.plan import check, published, render
from launch.plan.advice import warnings_of
from launch.plan.devices import DEVICES
from launch.plan.estimate import estimate
from launch.plan.machine import Machine, Request, resolve
from launch.plan.scaling import scaling
from launch.plan.workload import Workload, read_config, read_data
from videomae.command import guarded
from videomae.core.progress import log_to

WIDTH = 150


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    given = _parser().parse_intermixed_args(arguments)
    log_to(None, console_too=True)
    return guarded(lambda: _show(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?", help="of pretraining or fine-tuning")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example batch=2048")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="devices a node")
    parser.add_argument("--device", default="h200", help=", ".join(DEVICES))
    parser.add_argument("--cores", type=float, help="CPU cores a node; default: of the maker's machine")
    parser.add_argument("--inside", type=float, metavar="GB/S", help="of one device to the others of its node")
    parser.add_argument("--outside", type=float, metavar="GB/S", help="of one device to other nodes")
    parser.add_argument(
        "--disk", type=float, metavar="GB/S", default=2.0, help="of one node, to shards and checkpoints"
    )
    parser.add_argument(
        "--clips-a-core", type=float, metavar="N", help="clips a second that a core decodes (default 140)"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="videos in the training split, if it is not here")
    parser.add_argument("--published", action="store_true", help="hold the time model against published runs")
    parser.add_argument("--check-memory", action="store_true", help="hold the memory estimate against runs made now")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of --check-memory")
    parser.add_argument("--json", action="store_true", help="print JSON, alone")
    return parser


def _show(given: argparse.Namespace) -> None:
    if given.published:
        rows = [published.compare(run) for run in published.RUNS]
        values: Any = {"runs": [_comparison(row) for row in rows], "median_factor": published.median_factor(rows)}
        _print(given, values, render.published_page(rows))
    elif given.check_memory:
        checked = list(check.check(check.cases(given.processes)))
        _print(given, [_checked(row) for row in checked], render.check_page(checked))
    elif given.config is None:
        raise ValueError("no config given; type for example: python -m launch.plan configs/pretrain/vit_base_k400.yaml")
    else:
        _plan(given)


def _plan(given: argparse.Namespace) -> None:
    if given.samples is not None and given.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {given.samples}")
    config = read_config(given.config, given.overrides)
    data = read_data(config)
    workload = Workload(config, data.classes)
    where = _machine(given)
    plan = estimate(workload, data, where, samples=given.samples)
    curve = scaling(workload, data, where)
    warnings = warnings_of(workload, data, plan, curve)
    values = {
        **dataclasses.asdict(plan),
        "scaling": dataclasses.asdict(curve),
        "warnings": [dataclasses.asdict(warning) for warning in warnings],
    }
    values["memory"] = [{**dataclasses.asdict(row), "total": row.total} for row in plan.memory]
    values["chosen"]["total"] = plan.chosen.total
    values["step"]["time"].update(total=plan.step.time.total, bound=plan.step.time.bound)
    _print(given, values, render.plan_page(plan, curve, warnings))


def _machine(given: argparse.Namespace) -> Machine:
    return resolve(
        Request(
            nodes=given.nodes,
            gpus=given.gpus,
            device=given.device,
            cores=given.cores,
            inside=given.inside,
            outside=given.outside,
            disk=given.disk,
            decoded_a_core=given.clips_a_core,
        )
    )


def _comparison(row: published.Comparison) -> dict[str, Any]:
    ours = {"estimated_hours": row.hours, "error": row.error, "factor": row.factor}
    return {**dataclasses.asdict(row.run), "gpu_hours": row.run.hours * row.run.gpus, **ours}


def _checked(row: check.Checked) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "held_error": row.held_error, "peak_error": row.peak_error}


def _print(given: argparse.Namespace, values: Any, page: RenderableType) -> None:
    if given.json:
        print(json.dumps(values, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else WIDTH).print(page)


if __name__ == "__main__":
    sys.exit(main())
