"""A program for test_stop_unsaved.py: `python -m pretrain` on a disk that is `slow`, ten minutes for a save, or `full`.

A stop is asked for as soon as a step is logged.
"""

import sys
import threading
import time
from pathlib import Path

from pretrain.config import PretrainConfig
from pretrain.train import train
from videomae.command import run_stage
from videomae.engine.state.snapshot import Snapshot


def write_slowly(self: Snapshot, folder: Path) -> None:
    time.sleep(600)


def write_in_vain(self: Snapshot, folder: Path) -> None:
    raise OSError(28, "No space left on device")


def ask_for_a_stop(run: Path) -> None:
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.01)
    (run / "STOP").touch()


if __name__ == "__main__":
    disk, run, *arguments = sys.argv[1:]
    Snapshot.write = {"slow": write_slowly, "full": write_in_vain}[disk]
    threading.Thread(target=ask_for_a_stop, args=(Path(run),), daemon=True).start()
    sys.exit(run_stage(PretrainConfig, train, Path(arguments[0]), arguments[1:]))
