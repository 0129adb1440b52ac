"""Judge a pretraining run while it trains: fine-tune its encoder at intervals, and say when more epochs stop paying.

The loss of masked reconstruction falls long after the features have stopped to improve, and the reverse: only a
downstream accuracy tells how long is enough. At each interval, and at the end, the encoder is exported and a
fine-tuning config is run on it, in a process of its own on rank 0, while the other ranks wait. A linear probe of the
frozen encoder takes seconds, fine-tuning minutes. A failure is logged and never ends the training.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt

from videomae.core.config import configclass, read_values
from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.engine.schedule import Schedule
from videomae.run.session import RunSession
from videomae.trainer import Trainer

FOLDER = "monitor"  # in the run directory
RESULT = "evaluation.json"  # that fine-tuning writes
_LIMIT = 1500.0  # seconds; a collective, in which the other ranks wait, fails after 1800
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_")
_LAUNCHERS = (*_TORCHRUN, "OMPI_", "PMI_", "MV2_", "SLURM_")


@configclass
class MonitorConfig:
    """Fine-tuning beside pretraining."""

    every: str  # interval, such as 50000 clips
    config: str  # fine-tuning config; its run and model.weights are set, the rest is used as it is
    patience: PositiveInt = 3  # evaluations without gain after which the log says that more epochs stop paying


@dataclass(frozen=True)
class Point:
    """Accuracy after `step` steps, with its 95 % interval."""

    step: int
    accuracy: float
    low: float
    high: float


def stopped_paying(points: Sequence[Point], *, patience: int) -> bool:
    """Whether the best of the last `patience` points gains no more than half an interval on the best before them."""
    before, last = points[:-patience], points[-patience:]
    if not before:
        return False
    best = max(before, key=lambda point: point.accuracy)
    return max(point.accuracy for point in last) - best.accuracy <= (best.high - best.low) / 2


class Monitor:
    """The hook that fine-tunes and logs; all ranks must call it."""

    def __init__(
        self,
        config: MonitorConfig,
        trainer: Trainer,
        session: RunSession,
        *,
        batch: int,
        export: Callable[[Path], object],
    ) -> None:
        """`export(folder)` writes the present encoder and is called on all ranks.

        Raises:
            UserError: the config is missing, or of another stage.
        """
        self._config, self._trainer, self._session, self._batch, self._export = config, trainer, session, batch, export
        self._folder = session.run.path / FOLDER
        if read_values(Path(config.config)).get("stage") != "finetune":
            raise UserError(f"monitor.config={config.config} is of another stage; name one of configs/finetune/")

    def __call__(self, step: int) -> None:
        """Evaluate after `step` steps."""
        folder = self._folder / f"step-{step:08d}"
        allow = self._session.watchdog.allow("the fine-tuning beside training", _LIMIT + 60)
        with allow, self._trainer.exclude_time(FOLDER):
            encoder = folder.with_name(f"{folder.name}-encoder")
            self._export(encoder)
            self._session.world.main_only(lambda: self._judge(step, folder, encoder))

    def _judge(self, step: int, folder: Path, encoder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier start of the run, or from before a rollback
        self._finetune(folder, encoder)
        shutil.rmtree(encoder, ignore_errors=True)
        points = read_points(self._folder, at_most=step)
        if not points or points[-1].step != step:
            return
        last, enough = points[-1], stopped_paying(points, patience=self._config.patience)
        clips, patience = step * self._batch, self._config.patience
        values = {"accuracy": last.accuracy, "low": last.low, "high": last.high}
        self._trainer.log("evaluation", step, clips=clips, **values, stopped_paying=enough)
        logger.info(
            "after %d clips: accuracy %.1f %% (%.1f to %.1f)", clips, *(100 * value for value in values.values())
        )
        if enough:
            logger.warning(
                "after %d clips: the last %d evaluations gain no more than the interval's half-width: more epochs stop "
                "paying. End the run with `videomae stop`, or let the learning rate decay",
                clips,
                patience,
            )

    def _finetune(self, folder: Path, encoder: Path) -> None:
        """Run the fine-tuning config in another process; leave its records and remove its weights."""
        settings = (f"run={folder}", f"model.weights={encoder}", "engine.kind=local", "metrics.wandb=disabled")
        log = folder.with_suffix(".log")
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "finetune", self._config.config, *settings],
                env={name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            try:
                code = self._session.stop.interruptible(lambda: process.wait(_LIMIT))
            except subprocess.TimeoutExpired:
                code = None
                logger.error("the fine-tuning beside training took more than %.0f s; see %s", _LIMIT, log)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if code:
            logger.error("the fine-tuning beside training failed with exit code %d; see %s", code, log)
        for name in ("export", "checkpoints"):
            shutil.rmtree(folder / name, ignore_errors=True)


def monitor_hook(
    config: MonitorConfig | None,
    trainer: Trainer,
    session: RunSession,
    schedule: Schedule,
    *,
    batch: int,
    export: Callable[[Path], object],
) -> Callable[[int], None]:
    """Return the hook that evaluates after the steps at which it is due, and after the last one."""
    if config is None:
        return lambda step: None
    monitor = Monitor(config, trainer, session, batch=batch, export=export)
    every = schedule.interval(config.every, batch=batch)

    def hook(step: int) -> None:
        if step and (step % every == 0 or step == schedule.total):
            monitor(step)

    return hook


def read_points(folder: Path, *, at_most: int) -> list[Point]:
    """Return the results in the monitor's `folder` up to step `at_most`, in their order."""
    points = []
    for file in sorted(folder.glob(f"step-*/{RESULT}")):
        found, step = json.loads(file.read_text()), int(file.parent.name.removeprefix("step-"))
        if step <= at_most:
            points.append(Point(step, found["accuracy"], *found["interval"]))
    return points
