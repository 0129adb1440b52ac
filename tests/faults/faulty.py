"""A stage's command with trouble built in: `FAULTS='{...}' python -m tests.faults.faulty STAGE CONFIG [key=value ...]`.

    nan         {"rank": 1, "batches": [3, 4]}   the loss of these batches of data is no number
    hang        {"rank": 1, "batch": 4}          this rank sleeps for ever
    slow        {"rank": 1, "seconds": 1}        this rank's forward passes take so much longer
    seconds     {"build": 1, "batch": 1, "step": 1, "evaluate": 1, "save": 1, "save2": 1}    each takes so long;
                save2 is the second save alone
    until       {"save": PATH}                   a phase ends once there is such a file

As each of these phases begins, the rank leaves a file `at-PHASE-RANK` in the run's directory.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import finetune.train
import pretrain.train
from finetune.__main__ import main as finetune_main
from finetune.evaluate import Evaluator
from pretrain.__main__ import main as pretrain_main
from videomae.data.stream import BatchStream
from videomae.engine.state.snapshot import Snapshot

FAULTS = json.loads(os.environ.get("FAULTS", "{}"))
RANK = int(os.environ.get("RANK", "0"))
RUN = Path(next(word for word in sys.argv if word.startswith("run=")).removeprefix("run="))
batch_now = -1


def enter(phase: str) -> None:
    seconds, gate = (FAULTS.get(name, {}).get(phase) for name in ("seconds", "until"))
    if seconds or gate:
        RUN.mkdir(parents=True, exist_ok=True)
        (RUN / f"at-{phase}-{RANK}").touch()
        time.sleep(seconds or 0)
    while gate and not Path(gate).exists():
        time.sleep(0.05)


def slow(owner: Any, name: str, phase: str) -> None:
    """Make the function `name` of `owner` enter `phase` first."""
    original, numbers = getattr(owner, name), itertools.count(1)

    def entering(*arguments: Any, **keywords: Any) -> Any:
        enter(phase)
        enter(f"{phase}{next(numbers)}")
        return original(*arguments, **keywords)

    setattr(owner, name, entering)


def counted(original: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def batches(self: BatchStream[Any, Any], start: int) -> Iterator[Any]:
        global batch_now
        for number, micro_batches in enumerate(original(self, start), start=start):
            enter("batch")
            batch_now = number
            yield micro_batches

    return batches


def troubled(objective: type) -> type:
    class Troubled(objective):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            enter("step")
            nan, hang, slowed = (FAULTS.get(name, {}) for name in ("nan", "hang", "slow"))
            if slowed.get("rank") == RANK:
                time.sleep(slowed["seconds"])
            if hang.get("rank") == RANK and hang["batch"] == batch_now:
                time.sleep(1e6)
            loss = super().__call__(*arguments, **keywords)
            return loss * float("nan") if nan.get("rank") == RANK and batch_now in nan["batches"] else loss

    return Troubled


if __name__ == "__main__":
    BatchStream.batches = counted(BatchStream.batches)
    for stage in (pretrain.train, finetune.train):
        slow(stage, "initial_model", "build")
        stage.Objective = troubled(stage.Objective)
    slow(Evaluator, "_probabilities", "evaluate")
    slow(Snapshot, "write", "save")
    mains = {"pretrain": pretrain_main, "finetune": finetune_main}
    chosen = next(word for word in sys.argv if word in mains)  # the deepspeed launcher puts --local_rank before it
    sys.argv.remove(chosen)
    sys.exit(mains[chosen]())
