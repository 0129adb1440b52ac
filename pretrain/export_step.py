"""`python -m pretrain.export_step RUN`: the encoder of a checkpoint, as the end of a pretraining run exports it.

For fine-tuning from the middle of a run that still trains, or that has stopped; nothing of the run is changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.config import PretrainConfig
from videomae.command import guarded
from videomae.core.config import load
from videomae.core.progress import log_to
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.reader import read_full
from videomae.models.weights.export import save_encoder
from videomae.run.checkpoint.inspection import pick
from videomae.run.directory import RunDirectory


def export_encoder(run: Path, *, step: int | None = None, average: bool | None = None, out: Path | None = None) -> Path:
    """Write the encoder of the newest whole checkpoint of `run`, or that of `step`; gives the folder.

    `average` chooses the moving average of the weights; None takes it if one is kept. The folder is `out`, or
    `export-step-...` in the run's directory.

    Raises:
        UserError: there is no whole checkpoint, or it has no average.
    """
    config = load(PretrainConfig, RunDirectory(run).config)
    checkpoint = pick(run, step)
    averaged = config.optimizer.ema is not None if average is None else average
    state = read_full(checkpoint.folder, EMA if averaged else MASTER)
    encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    folder = out or run / f"export-{checkpoint.folder.name}"
    ema = config.optimizer.ema if averaged else None
    save_encoder(encoder, config.encoder, folder, {"run": run.name, "step": checkpoint.step, "ema": ema})
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pretrain.export_step", description="The encoder of a checkpoint.")
    parser.add_argument("run", type=Path, help="the run's directory")
    parser.add_argument("--step", type=int, help="default: the newest whole checkpoint")
    parser.add_argument("--weights", choices=("ema", "master"), help="default: ema where it is kept")
    parser.add_argument("--out", type=Path, help="folder; default: export-step-... in the run's directory")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone")
    return guarded(lambda: _export(parser.parse_args(arguments)))


def _export(given: argparse.Namespace) -> None:
    log_to(None)
    average = None if given.weights is None else given.weights == "ema"
    folder = export_encoder(given.run, step=given.step, average=average, out=given.out)
    text = f"{folder}: fine-tune from it with model.weights={folder}"
    sys.stdout.write((json.dumps({"out": str(folder)}) if given.json else text) + "\n")


if __name__ == "__main__":
    sys.exit(main())
