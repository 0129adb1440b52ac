"""What is measured: metrics.jsonl on disk is the truth, W&B mirrors it. The one place that imports wandb.

Each line is a JSON object with `kind` (train, evaluation, ...), `step` and values. After a resume the lines past the
resumed step are cut off, so the file reads as if the run had never stopped. Nothing that W&B does can stop a run.
"""

from __future__ import annotations

import json
import math
import netrc
import os
from pathlib import Path
from typing import Any, Literal

from videomae.config import configclass, to_dict
from videomae.distributed import World
from videomae.progress import logger
from videomae.run import RunDirectory, write_whole


@configclass
class MetricsConfig:
    """How often to log, and where the mirror goes."""

    every: int = 10  # steps
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online when logged in, else offline
    project: str = "videomae"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 step, got {self.every}")


class MetricsLog:
    """Appends to a run's metrics.jsonl; only rank 0 writes."""

    def __init__(self, run: RunDirectory, *, config: Any, metrics: MetricsConfig, world: World) -> None:
        self._file = run.metrics
        self._writes = world.first
        self._mirror = _start_mirror(run, config, metrics) if world.first else None

    def cut_back(self, step: int) -> None:
        """Drop what was logged after `step`: it will be done again."""
        if self._writes and self._file.exists():
            kept = [line for line in read(self._file) if line["step"] <= step]
            write_whole(self._file, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, kind: str, step: int, **values: float | int | str | None) -> None:
        """Append one line; `kind` and `step` come first."""
        if not self._writes:
            return
        with self._file.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if self._mirror is not None:
            try:
                self._mirror.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)
            except Exception as error:  # W&B raises many kinds, and none may stop the run
                logger.warning("W&B stopped logging: %s; metrics.jsonl goes on", error)
                self._mirror = None

    def close(self) -> None:
        """Finish the mirror."""
        if self._mirror is not None:
            try:
                self._mirror.finish()
            except Exception as error:  # as above
                logger.warning("W&B did not finish: %s", error)
            self._mirror = None


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a crash is left out."""
    lines = []
    for number, text in enumerate(file.read_text().splitlines() if file.exists() else [], start=1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            logger.warning("%s:%d is cut short and left out", file, number)
    return lines


def require_finite(value: float, *, what: str, step: int) -> None:
    """Stop the run on a value that is not a number.

    Raises:
        FloatingPointError: `value` is infinite or not a number.
    """
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{what} is {value} at step {step}; the checkpoints before it are whole: "
            "start a run of its own with run=PATH and a lower optimizer.lr, or with optimizer.clip=1.0"
        )


def _start_mirror(run: RunDirectory, config: Any, metrics: MetricsConfig) -> Any:
    if metrics.wandb == "disabled":
        return None
    mode = metrics.wandb if metrics.wandb != "auto" else ("online" if _logged_in() else "offline")
    try:
        import wandb

        return wandb.init(
            project=metrics.project,
            name=run.path.name,
            dir=str(run.path),
            config=to_dict(config),
            mode=mode,
            settings=wandb.Settings(init_timeout=30, silent=True),
        )
    except Exception as error:  # see MetricsLog.write
        logger.warning("W&B is not available (%s); metrics.jsonl holds everything", error)
        return None


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
