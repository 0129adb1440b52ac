"""Does pretraining pay on real clips? One device, some minutes, one table.

    bash benchmarks/science.sh OUT --data SHARDS --minutes 8 [--size 224] [--device cpu --tiny]

SHARDS is what `videomae shards build` makes of labelled clips, with the splits train and val. Two processes share the
minutes, loading and compiling included, so that a fault of the first does not cost the second its results:

- pretrain (`benchmarks.science_pretraining`): masks, decoder shares and learning rates compared on synthetic video, the
  best one trained for longer, then with the unlabelled training clips as half of each batch. Exports both encoders.
- finetune (`benchmarks.science_finetuning`): CNNs and the encoder from scratch, the encoders fine-tuned and frozen, all
  with the same steps, on all labels and on few, seed after seed.

Clips stay decoded in the memory of the device; on CUDA, training is in bfloat16 and blocks are compiled. Results are
written as they come, and OUT/table.md anew after each.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import science_finetuning, science_pretraining
from benchmarks.science_training import FULL, TINY

PARTS = {"pretrain": 0.55, "finetune": 1.0}  # where each ends, as a share of the minutes
GRACE = 10  # seconds that a part may be late before it is killed


def run_part(part: str, until: float, words: list[str]) -> int:
    """Run a part in a process group of its own, and kill the group if it is late; returns the exit code."""
    command = [sys.executable, "-m", "benchmarks.science", *words, "--part", part, "--until", str(until)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(max(1.0, until + GRACE - time.time()))
    except subprocess.TimeoutExpired:
        return -1
    finally:  # its workers too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    words = sys.argv[1:]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.science", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--data", type=Path, required=True, help="shards of labelled clips, with splits train and val")
    parser.add_argument("--minutes", type=float, default=8.0, help="in all")
    parser.add_argument("--size", type=int, choices=(112, 224), default=112, help="of frames; patches are 8 or 16 wide")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: a small model, few clips")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; type --device cpu --tiny to rehearse")
    if not (given.data / "train").is_dir():
        parser.error(f"no split train in {given.data}; make it with: videomae shards build VIDEOS {given.data}")
    if given.part:
        return _run(given)
    given.out.mkdir(parents=True, exist_ok=True)
    began, codes = time.time(), []
    for part, share in PARTS.items():
        codes.append(run_part(part, began + 60 * given.minutes * share - GRACE * (not given.tiny), words))
        sys.stderr.write(f"{part}: exit code {codes[-1]}, {time.time() - began:.0f} s since the start\n")
    table = given.out / "table.md"
    sys.stdout.write(table.read_text() if table.is_file() else "no row was measured\n")
    return max(map(abs, codes))


def _run(given: argparse.Namespace) -> int:
    size = TINY if given.tiny else FULL
    if not given.tiny:
        size = replace(size, encoder=replace(size.encoder, size=given.size, patch=given.size // 14))
    torch._dynamo.config.recompile_limit = 64  # one code runs with the shapes of every trial
    module = science_pretraining if given.part == "pretrain" else science_finetuning
    return module.run(given.out, given.data, size, torch.device(given.device), given.until)


if __name__ == "__main__":
    sys.exit(main())
