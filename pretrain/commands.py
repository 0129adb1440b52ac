"""The commands of the self-supervised stage."""

from __future__ import annotations

from pathlib import Path

import click

from videomae.command import config_arguments, examples, run_stage
from videomae.core.signals import handle_signals


@click.command(
    epilog=examples(
        "videomae pretrain configs/demo/pretrain.yaml",
        "videomae pretrain configs/pretrain/vit_base_k400.yaml optimizer.lr=3e-4 batch=512",
        "torchrun --standalone --nproc-per-node 8 -m pretrain configs/pretrain/vit_base_k400.yaml",
    )
)
@config_arguments
def pretrain(config: Path, overrides: tuple[str, ...]) -> int:
    """Pretrain a masked autoencoder.

    CONFIG is a YAML file, such as those below configs/pretrain/. KEY=VALUE overrides one setting. The same command
    resumes a stopped run. To start one process per GPU or to run on several hosts, use `videomae launch`.
    """
    with handle_signals():
        from pretrain.config import PretrainConfig
        from pretrain.train import train

        return run_stage(PretrainConfig, train, config, overrides)
