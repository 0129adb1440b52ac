"""The whole pipeline on this machine: videos, shards, pretraining, benchmark, report. `make demo` runs this.

Each stage runs as a command that is printed first. Each reuses finished results and resumes unfinished ones.
"""

from __future__ import annotations

import argparse
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.demo", description="From videos to a report.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the demo's results")
    parser.add_argument("--data", type=Path, help="your videos: train|val / class / *.mp4, or folders of frames")
    given = parser.parse_args()
    start = time.monotonic()
    for command in commands(given.out, given.data):
        shown = shlex.join(["python", *command.words[1:]])
        console.print(f"\n$ {shown}", style="bold", highlight=False, soft_wrap=True)
        code = run_with_signals(command)
        if code:
            return code
    seconds = time.monotonic() - start
    console.print(f"\nThe demo took {seconds:.0f} s. Report: {given.out / 'report.html'}", soft_wrap=True)
    return 0


def commands(out: Path, data: Path | None) -> list[Command]:
    """The commands of all stages, in order."""
    videos, shards, pretraining = data or out / "videos", out / "shards", out / "pretrain"
    devices = torch.cuda.device_count() or CPU_PROCESSES
    processes = max(count for count in (1, 2, 4, 8) if count <= devices)  # the demo's batch holds eight videos
    synthesize = [] if data else [_python("videomae.data.shards", "synthesize", videos)]
    overrides = [f"run={pretraining}", f"data.shards={shards / 'train'}"]
    tested = [f"run={out}", f"protocol.data.shards={shards}", f"encoder={pretraining / 'export'}"]
    return [
        *synthesize,
        _python("videomae.data.shards", "build", videos, shards, "--short-side", "96", "--fps", "10"),
        Job.read(CONFIGS / "pretrain.yaml", overrides).command(on="torchrun", processes=processes),
        _python("finetune.benchmark", CONFIGS / "benchmark.yaml", *tested),
        _python("finetune.report", out, "--pretraining", pretraining.relative_to(out)),
    ]


def _python(*words: str | Path) -> Command:
    return Command([sys.executable, "-m", *map(str, words)])


if __name__ == "__main__":
    sys.exit(main())
