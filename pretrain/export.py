"""Export the encoder of a checkpoint, in the form of a finished run's export: `videomae export RUN`.

The run may still train or may have stopped; it is not changed.
"""

from __future__ import annotations

from pathlib import Path

from pretrain.config import PretrainConfig
from videomae.core.config import load
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.reader import read_full
from videomae.models.weights.export import save_encoder
from videomae.run.checkpoint.inspection import pick_checkpoint
from videomae.run.directory import RunDirectory


def export_encoder(run: Path, *, step: int | None = None, average: bool | None = None, out: Path | None = None) -> Path:
    """Write the encoder of the latest valid checkpoint of `run`, or of that at `step`; returns the folder.

    `average` selects the moving average of the weights; None exports it if the run keeps one. The folder is `out`, or
    `export-step-...` in the run directory.

    Raises:
        UserError: there is no valid checkpoint, or it has no average.
    """
    config = load(PretrainConfig, RunDirectory(run).config)
    checkpoint = pick_checkpoint(run, step)
    averaged = config.optimizer.ema is not None if average is None else average
    state = read_full(checkpoint.folder, EMA if averaged else MASTER)
    encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    folder = out or run / f"export-{checkpoint.folder.name}"
    ema = config.optimizer.ema if averaged else None
    save_encoder(encoder, config.encoder, folder, {"run": run.name, "step": checkpoint.step, "ema": ema})
    return folder
