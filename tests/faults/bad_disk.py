"""A program for test_stop_unsaved.py: `python -m pretrain` on a disk that is `slow` (ten minutes per save) or `full`.

It requests a stop as soon as a step is logged.
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


def fail_to_write(self: Snapshot, folder: Path) -> None:
    raise OSError(28, "No space left on device")


def request_stop(run: Path) -> None:
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.01)
    (run / "STOP").touch()


if __name__ == "__main__":
    disk, run, *arguments = sys.argv[1:]
    Snapshot.write = {"slow": write_slowly, "full": fail_to_write}[disk]
    threading.Thread(target=request_stop, args=(Path(run),), daemon=True).start()
    sys.exit(run_stage(PretrainConfig, train, Path(arguments[0]), arguments[1:]))
