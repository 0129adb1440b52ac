"""A real pretraining run from shards to weights: `python -m benchmarks.end_to_end [SHARDS] [--size base] [--json]`.

It starts `python -m pretrain` with real decoding in worker processes, and reads the run's own metrics: clips per
second, the share of the time that the step waits for data, and MFU, medians over the windows after the first ones.
Without SHARDS it draws videos and builds shards of them as `videomae shards build` does by default. The speed of
loading alone is that of `benchmarks.loading`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from benchmarks.measuring import device_name
from benchmarks.step_forms import SUBJECTS, subject
from videomae.command import guarded
from videomae.core.config import to_dict
from videomae.data.build.build import BuildConfig, build
from videomae.data.build.sources import find_sources
from videomae.data.synthetic.synthesize import LabelledConfig, synthesize
from videomae.run.metrics import read_metrics

WINDOW, SKIPPED = 5, 2  # steps of a window of the metrics, and windows that are not counted
KEYS = ("samples_per_second", "step_seconds", "data_percent", "mfu")


def draw_shards(folder: Path, *, videos: int, width: int, height: int) -> Path:
    """Draw `videos` labelled videos of two seconds, or a few more, and build shards; returns the train split."""
    drawn = LabelledConfig(train=-(-videos // 8) * 8, val=8, fps=(15, 30), width=width, height=height)
    workers = os.cpu_count() or 1
    synthesize(folder / "videos", drawn, workers=workers)
    build(
        find_sources(folder / "videos", unlabelled=False),
        folder / "shards",
        BuildConfig(samples_per_shard=32),
        workers=workers,
    )
    return folder / "shards" / "train"


def run(shards: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Pretrain for the given number of steps, and return the medians of the metrics.

    Raises:
        OSError: the run failed; the message holds its output.
    """
    values = to_dict(subject(given.size, precision=given.precision, compiled=given.compile))
    values |= {
        "run": str(folder / "run"),
        "batch": given.batch or values["batch"],
        "data": {"shards": str(shards), "repeated_aug": given.repeated_aug, "stride": given.stride},
        "schedule": {"duration": f"{given.steps} steps", "warmup": "1 steps"},
        "loader": {"workers": given.workers},
        "checkpoint": {"every": f"{2 * given.steps} steps"},
        "metrics": {"every": WINDOW, "wandb": "disabled"},
        "visualizations": 0,
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if given.device == "cpu" else {}
    done = subprocess.run(
        [sys.executable, "-m", "pretrain", str(file)], capture_output=True, text=True, env={**os.environ, **hidden}
    )
    if done.returncode:
        raise OSError(f"pretraining ended with exit code {done.returncode}:\n{done.stdout}\n{done.stderr}")
    lines = [line for line in read_metrics(folder / "run/metrics.jsonl") if line["kind"] == "train"][SKIPPED:]
    figures = {key: median(line[key] for line in lines) for key in KEYS if lines[0].get(key) is not None}
    return {
        "device": device_name(torch.device(given.device)),
        "model": given.size,
        "precision": given.precision,
        "compiled": given.compile,
        "batch": values["batch"],
        "workers": given.workers,
        "repeated_aug": given.repeated_aug,
        "steps": WINDOW * len(lines),
        **figures,
    }


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    title = (
        f"{result['model']}, {result['precision']}, batch {result['batch']} on {result['device']}, "
        f"{result['workers']} workers, {result['repeated_aug']} clips per decoded video"
    )
    mfu = f", MFU {result['mfu']:.1%}" if "mfu" in result else ""
    return (
        f"{title}\n  {result['samples_per_second']:.1f} clips/s, {1000 * result['step_seconds']:.0f} ms a step, "
        f"{result['data_percent']:.1f} % of it waiting for data{mfu}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description="Pretraining from shards.")
    parser.add_argument("shards", type=Path, nargs="?", help="of one split; drawn and built if not given")
    parser.add_argument("--videos", type=int, default=64, help="to draw")
    parser.add_argument("--frame", default="640x360", help="WIDTHxHEIGHT of drawn videos")
    parser.add_argument("--size", choices=SUBJECTS, default="base")
    parser.add_argument("--batch", type=int, help="clips a step; by default 8, or the demo's own")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--stride", type=int, default=2, help="of the frames of a clip")
    parser.add_argument("--repeated-aug", type=int, default=1, help="clips per decoded video")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone")
    given = parser.parse_args(arguments)
    if given.steps <= WINDOW * SKIPPED:
        parser.error(f"--steps must be more than {WINDOW * SKIPPED}, got {given.steps}: the first ones are not counted")
    return guarded(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="end-to-end-") as name:
        width, height = map(int, given.frame.split("x"))
        shards = given.shards or draw_shards(Path(name), videos=given.videos, width=width, height=height)
        result = run(shards, Path(name), given)
    sys.stdout.write(json.dumps(result) + "\n" if given.json else describe(result))


if __name__ == "__main__":
    sys.exit(main())
