"""The whole way on this machine: videos, shards, pretraining, benchmark, report. `make demo` runs this.

Each stage is the command that a person would type; it is printed before it runs, and each stage itself reuses what is
finished and goes on with what is not.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

from launch.job import Job
from launch.local import run
from videomae.progress import console

CONFIGS = Path("configs/demo")
CPU_PROCESSES = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.demo", description="From videos to a report.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the demo's results")
    parser.add_argument("--data", type=Path, help="your videos: train|val / class / *.mp4, or folders of frames")
    given = parser.parse_args()
    start = time.monotonic()
    for command in commands(given.out, given.data):
        console.print(
            f"\n$ {shlex.join(command).replace(sys.executable, 'python')}",
            style="bold",
            highlight=False,
            soft_wrap=True,
        )
        code = run(command)
        if code:
            return code
    console.print(
        f"\nThe demo took {time.monotonic() - start:.0f} s. Report: {given.out / 'report.html'}", soft_wrap=True
    )
    return 0


def commands(out: Path, data: Path | None) -> list[list[str]]:
    """The command of every stage, in order."""
    python = [sys.executable, "-m"]
    videos, shards, pretraining = data or out / "videos", out / "shards", out / "pretrain"
    processes = torch.cuda.device_count() or CPU_PROCESSES
    stages = [] if data else [[*python, "videomae.shards", "synthesize", str(videos)]]
    stages.append([*python, "videomae.shards", "build", str(videos), str(shards), "--short-side", "96", "--fps", "10"])
    pretrain = Job.read(CONFIGS / "pretrain.yaml", [f"run={pretraining}", f"data.shards={shards / 'train'}"])
    stages.append(pretrain.command(on="torchrun", processes=processes))
    overrides = [f"run={out}", f"protocol.data.shards={shards}", f"encoder={pretraining / 'export'}"]
    stages.append([*python, "finetune.benchmark", str(CONFIGS / "benchmark.yaml"), *overrides])
    stages.append([*python, "finetune.report", str(out), "--pretraining", str(pretraining)])
    return stages


if __name__ == "__main__":
    sys.exit(main())
