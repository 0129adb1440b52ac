"""Entry point for torchrun, deepspeed and srun: `python -m finetune.benchmark CONFIG`; see `videomae benchmark`."""

import sys

from finetune.commands import benchmark
from videomae.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(benchmark, name="python -m finetune.benchmark"))
