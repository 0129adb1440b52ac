"""`python -m pretrain CONFIG [key=value ...]`, also under torchrun and `deepspeed --module`."""

from __future__ import annotations

import sys

from pretrain.config import PretrainConfig
from pretrain.train import train
from videomae.command import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("pretrain", PretrainConfig, train))
