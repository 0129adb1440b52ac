"""Choose the best weights of a run on its holdout, stop early, and lower the learning rate on a plateau.

selection.json    the evaluations on the holdout so far, and the best one
best/             the classifier of the best evaluation

Everything is a function of the evaluations so far, so a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from finetune.config import SelectionConfig
from finetune.evaluation import Evaluation
from videomae.core.distributed import World
from videomae.core.files import write_json
from videomae.engine.schedule import Schedule

FILE = "selection.json"
BEST = "best"
_METRIC = {"accuracy": "accuracy", "f1": "f1", "auc": "roc_auc", "loss": "loss"}


class Selection:
    """The evaluations on the holdout of one run; every rank has them."""

    def __init__(self, config: SelectionConfig, run: Path, world: World) -> None:
        self.config, self.folder, self._file, self._world = config, run / BEST, run / FILE, world
        found: dict[str, Any] = world.run_on_main(self._read)
        self.history: list[tuple[int, float]] = [(int(step), float(value)) for step, value in found["history"]]
        self.best: tuple[int, float] | None = None if found["best"] is None else tuple(found["best"])

    def resume(self, step: int) -> None:
        """Forget the evaluations after `step`; the best one stays, for its weights are kept."""
        self.history = [(at, value) for at, value in self.history if at <= step]

    def observe(self, step: int, result: Evaluation, save: Callable[[Path], object]) -> bool:
        """Record the evaluation after `step` steps; the best so far calls `save(folder)`. Return whether it was."""
        value = self.score(result)
        self.history = [*(entry for entry in self.history if entry[0] < step), (step, value)]
        improved = self.best is None or value > self.best[1]
        if improved:
            save(self.folder)
            self.best = (step, value)
        if self._world.is_main:
            write_json(self._file, {"by": self.config.by, "best": self.best, "history": self.history})
        return improved

    def score(self, result: Evaluation) -> float:
        """The value that the selection maximises; the loss counts negative, an undefined metric as the worst."""
        value = result.values[_METRIC[self.config.by]]
        if math.isnan(value):
            return -math.inf
        return -value if self.config.by == "loss" else value

    @property
    def stalled(self) -> bool:
        """Whether `patience` evaluations have passed without a better one."""
        if self.config.patience is None or self.best is None:
            return False
        return sum(step > self.best[0] for step, _ in self.history) >= self.config.patience

    def lr_scale(self, step: int) -> float:
        """The factor on the learning rate of the 0-based `step`."""
        reduce = self.config.reduce_lr
        if reduce is None:
            return 1.0
        values = [value for at, value in self.history if at <= step]
        return reduce.factor ** reductions(values, patience=reduce.patience)

    def _read(self) -> dict[str, Any]:
        return json.loads(self._file.read_text()) if self._file.is_file() else {"history": [], "best": None}


def reductions(values: Sequence[float], *, patience: int) -> int:
    """How often ReduceLROnPlateau has lowered the rate: whenever more than `patience` values in a row were no better.

    As torch.optim.lr_scheduler.ReduceLROnPlateau with mode="max", threshold=0 and cooldown=0.
    """
    best, waited, count = -math.inf, 0, 0
    for value in values:
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited > patience:
            count, waited = count + 1, 0
    return count


@dataclass(frozen=True)
class PlateauSchedule(Schedule):
    """A schedule whose rates are lowered on the plateaus of `selection`."""

    selection: Selection

    @classmethod
    def of(cls, schedule: Schedule, selection: Selection) -> PlateauSchedule:
        values = {field.name: getattr(schedule, field.name) for field in fields(Schedule)}
        return cls(**values, selection=selection)

    def lr(self, step: int) -> float:
        return super().lr(step) * self.selection.lr_scale(step)
