"""`python -m finetune CONFIG [key=value ...]`: the command `videomae finetune` for torchrun, deepspeed and srun."""

from __future__ import annotations

import sys

from videomae.core.signals import handle_signals


def main() -> int:
    """Install the signal handlers before the slow imports: an early signal is a stop request too."""
    with handle_signals():
        from finetune.commands import finetune
        from videomae.command import run_command

        return run_command(finetune, name="python -m finetune")


if __name__ == "__main__":
    sys.exit(main())
