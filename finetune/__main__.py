"""`python -m finetune CONFIG [key=value ...]`, also under torchrun and `deepspeed --module`."""

from __future__ import annotations

import sys

from videomae.core.signals import handle_signals


def main() -> int:
    """Listen for signals before the slow imports: one that comes early is a polite request too."""
    with handle_signals():
        from finetune.config import FinetuneConfig
        from finetune.train import train
        from videomae.command import run_stage

        return run_stage("finetune", FinetuneConfig, train)


if __name__ == "__main__":
    sys.exit(main())
