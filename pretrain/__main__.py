"""`python -m pretrain CONFIG [key=value ...]`: the command `videomae pretrain` for torchrun, deepspeed and srun."""

from __future__ import annotations

import sys

from videomae.core.signals import handle_signals


def main() -> int:
    """Install the signal handlers before the slow imports: an early signal is a stop request too."""
    with handle_signals():
        from pretrain.commands import pretrain
        from videomae.command import run_command

        return run_command(pretrain, name="python -m pretrain")


if __name__ == "__main__":
    sys.exit(main())
