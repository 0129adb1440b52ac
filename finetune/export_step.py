"""`python -m finetune.export_step RUN`: the classifier of a checkpoint, as the end of a fine-tuning run exports it.

For trying out a run that still trains, or that has stopped; nothing of the run is changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune.config import FinetuneConfig
from finetune.export import ClassifierDescription, save_classifier
from finetune.stream import split
from videomae.command import guarded
from videomae.core.config import load
from videomae.core.progress import log_to
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.reader import read_full
from videomae.run.checkpoint.inspection import pick
from videomae.run.directory import RunDirectory


def export_classifier(run: Path, *, step: int | None = None, out: Path | None = None) -> Path:
    """Write the classifier of the newest whole checkpoint of `run`, or that of `step`; gives the folder.

    The weights are their moving average where one is kept. The folder is `out`, or `export-step-...` in the run's
    directory; the classes are those of the run's shards.

    Raises:
        UserError: there is no whole checkpoint, or the shards are not where the run had them.
    """
    config = load(FinetuneConfig, RunDirectory(run).config)
    checkpoint, ema = pick(run, step), config.optimizer.ema
    state = read_full(checkpoint.folder, MASTER if ema is None else EMA)
    folder = out or run / f"export-{checkpoint.folder.name}"
    classes = split(config, "train").classes
    save_classifier(state, ClassifierDescription(model=config.model, classes=classes, ema=ema), folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m finetune.export_step", description="A checkpoint's classifier.")
    parser.add_argument("run", type=Path, help="the run's directory")
    parser.add_argument("--step", type=int, help="default: the newest whole checkpoint")
    parser.add_argument("--out", type=Path, help="folder; default: export-step-... in the run's directory")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone")
    return guarded(lambda: _export(parser.parse_args(arguments)))


def _export(given: argparse.Namespace) -> None:
    log_to(None)
    folder = export_classifier(given.run, step=given.step, out=given.out)
    text = f"{folder}: classifier.safetensors and classifier.json"
    sys.stdout.write((json.dumps({"out": str(folder)}) if given.json else text) + "\n")


if __name__ == "__main__":
    sys.exit(main())
