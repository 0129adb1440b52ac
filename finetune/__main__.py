"""`python -m finetune CONFIG [key=value ...]`, also under torchrun and `deepspeed --module`."""

from __future__ import annotations

import sys

from finetune.config import FinetuneConfig
from finetune.train import train
from videomae.command import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("finetune", FinetuneConfig, train))
