"""A program for test_deadline.py: `python -m pretrain` on a disk that takes a minute for a save.

A stop is asked for as soon as a step is logged.
"""

import sys
import threading
import time
from pathlib import Path

from pretrain.config import PretrainConfig
from pretrain.train import train
from videomae.command import run_stage
from videomae.snapshot import Snapshot


def ask_for_a_stop(run: Path) -> None:
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.01)
    (run / "STOP").touch()


if __name__ == "__main__":
    Snapshot.write = lambda self, folder: time.sleep(60)
    threading.Thread(target=ask_for_a_stop, args=(Path(sys.argv[1]),), daemon=True).start()
    sys.exit(run_stage("pretrain", PretrainConfig, train, sys.argv[2:]))
