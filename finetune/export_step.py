"""Export the classifier of a checkpoint, in the form that the end of the run exports: `videomae export RUN`.

For trying out a run that still trains, or that has stopped; nothing of the run is changed.
"""

from __future__ import annotations

from pathlib import Path

from finetune.config import FinetuneConfig
from finetune.export import ClassifierDescription, save_classifier
from finetune.stream import split
from videomae.core.config import load
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.reader import read_full
from videomae.run.checkpoint.inspection import pick_checkpoint
from videomae.run.directory import RunDirectory


def export_classifier(
    run: Path, *, step: int | None = None, average: bool | None = None, out: Path | None = None
) -> Path:
    """Write the classifier of the latest valid checkpoint of `run`, or that of `step`; gives the folder.

    `average` chooses the moving average of the weights; None takes it if one is kept. The folder is `out`, or
    `export-step-...` in the run's directory; the classes are those of the run's shards.

    Raises:
        UserError: there is no whole checkpoint, or the shards are not where the run had them.
    """
    config = load(FinetuneConfig, RunDirectory(run).config)
    checkpoint = pick_checkpoint(run, step)
    averaged = config.optimizer.ema is not None if average is None else average
    state = read_full(checkpoint.folder, EMA if averaged else MASTER)
    folder = out or run / f"export-{checkpoint.folder.name}"
    ema = config.optimizer.ema if averaged else None
    classes = split(config, "train").classes
    save_classifier(state, ClassifierDescription(model=config.model, classes=classes, ema=ema), folder)
    return folder
