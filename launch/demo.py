"""The whole pipeline on this machine: videos, shards, pretraining, benchmark, report. `make demo` runs this.

Each stage runs as a command that is printed first. Each reuses finished results and resumes unfinished ones.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import torch

from launch.job import Job
from launch.local import Command, run_with_signals
from videomae.core.progress import console

CONFIGS = Path("configs/demo")
CPU_PROCESSES = 2


def run_demo(out: Path, data: Path | None) -> int:
    """Run all stages below `out`, on the videos in `data` or on synthetic ones; returns the first exit code but 0."""
    start = time.monotonic()
    for command in commands(out, data):
        shown = shlex.join(["python", *command.words[1:]]).replace("python -m launch ", "videomae ", 1)
        console.print(f"\n$ {shown}", style="bold", highlight=False, soft_wrap=True)
        code = run_with_signals(command)
        if code:
            return code
    seconds = time.monotonic() - start
    console.print(f"\nThe demo took {seconds:.0f} s. Report: {out / 'report.html'}", soft_wrap=True)
    return 0


def commands(out: Path, data: Path | None) -> list[Command]:
    """The commands of all stages, in order."""
    configs = CONFIGS / "own_videos" if data else CONFIGS
    shards, pretraining = out / "shards", out / "pretrain"
    devices = torch.cuda.device_count() or CPU_PROCESSES
    processes = max(count for count in (1, 2, 4, 8) if count <= devices)  # batches divide by these
    pretrain = Job.read(configs / "pretrain.yaml", [f"run={pretraining}", f"data.shards={_unlabelled(data, shards)}"])
    tested = [f"run={out}", f"protocol.data.shards={shards}", f"encoder={pretraining / 'export'}", "share=rows"]
    benchmark = Job.read(configs / "benchmark.yaml", tested)
    return [
        *_pack(out / "videos", data, shards),
        *(job.command(on="torchrun", processes=processes) for job in (pretrain, benchmark)),
    ]


def _pack(videos: Path, data: Path | None, shards: Path) -> list[Command]:
    """The commands that write the shards: from `data`, or from labelled clips of eight motions."""
    if data:
        return [_videomae("shards", "build", data, shards, "--short-side", "96", "--fps", "10")]
    clips = ["--per-class", "30", "--val-per-class", "50", "--size", "64x64", "--fps", "4"]
    return [
        _videomae("shards", "synthesize", videos, *clips),
        _videomae("shards", "build", videos, shards, "--short-side", "32", "--fps", "0"),
    ]


def _unlabelled(data: Path | None, shards: Path) -> str:
    """The value of `data.shards` for pretraining: the training videos, or those mixed with clips drawn endlessly."""
    train = shards / "train"
    return str(train) if data else f"[{{synthetic: {{}}, weight: 3}}, {{shards: {json.dumps(str(train))}}}]"


def _videomae(*words: str | Path) -> Command:
    return Command([sys.executable, "-m", "launch", *map(str, words)])
