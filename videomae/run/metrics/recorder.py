"""Record the metrics of a training run: measure windows, write log lines, warn of plateaus, profile.

`cost.json` documents the basis of MFU: operations per clip by part of the model, the device's peak and its source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from videomae.core.distributed import World
from videomae.core.files import write_json
from videomae.core.progress import logger
from videomae.data.batch import Ratio
from videomae.engine.protocol import StepResult
from videomae.engine.schedule import Schedule
from videomae.run.config import TrainingConfig
from videomae.run.metrics import MetricsLog, read_metrics
from videomae.run.metrics.log import count_lines
from videomae.run.metrics.meter import Meter, Span, Workload, memory_gb
from videomae.run.metrics.peak import peak_of
from videomae.run.metrics.plateau import Plateau
from videomae.run.metrics.profiler import ProfilerWindow

_BETWEEN_STEPS = ("evaluation", "holdout", "reconstructions")  # kinds logged after the save of their step
ExtraMetrics = Mapping[str, Tensor | Ratio]  # scalars of one rank, logged as their mean over ranks


class Recorder:
    """Records one run; rank 0 writes. All ranks call the methods with a step alike."""

    def __init__(self, config: TrainingConfig, *, world: World, schedule: Schedule, workload: Workload | None) -> None:
        run, metrics, precision, batch = config.directory, config.metrics, config.engine.precision, config.batch
        self._run, self._every, self._world, self._schedule = run, metrics.every, world, schedule
        self._workload = workload or Workload(multiply_adds={}, parameters=0)
        peak = peak_of(world.device, precision=precision, given=metrics.peak_tflops)
        self._meter = Meter(batch=batch, devices=world.size, flops=self._workload.flops, peak=peak)
        self._log = MetricsLog(run, metrics, world=world)
        self._profiler = ProfilerWindow(metrics.profile, folder=run.path / "profile", world=world)
        trivial = self._workload.trivial
        self._plateau = Plateau(trivial, schedule.warmup) if trivial is not None else None
        self._skipped: list[Tensor] = []
        self.note = ""  # the latest loss, for a progress bar
        if world.is_main:
            self._write_cost(batch, precision)

    def _write_cost(self, batch: int, precision: str) -> None:
        work, meter = self._workload, self._meter
        cost = {
            "parameters": work.parameters,
            "training_gmacs_per_clip": {part or "other": n / 1e9 for part, n in work.multiply_adds.items() if n},
            "tflop_per_step": work.flops * batch / 1e12,
            "peak": asdict(meter.peak),
            "precision": precision,
            "devices": meter.devices,
        }
        write_json(self._run.path / "cost.json", cost)

    def should_log(self, step: int) -> bool:
        """Whether the 0-based `step` is logged."""
        return (step + 1) % self._every == 0 or step + 1 == self._schedule.total

    def truncate(self, step: int) -> None:
        """Training starts or restarts after `step` steps: remove what was logged later or is repeated."""
        self._log.truncate(step, again=_BETWEEN_STEPS)
        self._skipped = []
        self._meter.restart()

    def data_wait(self, step: int) -> AbstractContextManager[Span]:
        """The 0-based `step` begins with the block, which waits for its data."""
        self._profiler.begin(step)
        return self._meter.data_wait()

    def exclude_time(self, name: str) -> AbstractContextManager[Span]:
        """Exclude the block from the training time; it is logged as `name`_seconds."""
        return self._meter.exclude_time(name)

    def record(self, step: int, result: StepResult, extra_metrics: ExtraMetrics) -> None:
        """Record the 0-based `step`, and log when due."""
        self._meter.step()
        self._skipped.append(result.skipped.detach())
        if self.should_log(step):
            self._write_line(step, result, extra_metrics)
        self._profiler.end(step)

    def _write_line(self, step: int, result: StepResult, extra_metrics: ExtraMetrics) -> None:
        means, done = self._means(extra_metrics), step + 1
        loss = float(result.loss)  # waits for the device, so that the window ends with the step
        waited, memory = self._world.all_reduce_max((self._meter.waited, memory_gb(self._world.device)))
        skipped = int(torch.stack(self._skipped).sum())
        self._skipped = []
        lr = self._schedule.lr(step)
        line: dict[str, Any] = {
            "epoch": round(self._schedule.epoch(done), 4),
            "loss": loss,
            "loss_max": float(result.loss_max),
            **means,
            "grad_norm": float(result.grad_norm),
            "lr": lr,
            "lr_min": lr * self._workload.lr_min_scale,
            **self._meter.read(waited=waited),
            "memory_gb": round(memory, 4),
            "skipped": skipped,
            "quarantined": count_lines(self._run.quarantine) if self._world.is_main else 0,
        }
        self._log.write("train", done, **line)
        self._warn_of_plateau(done, line)
        self.note = f"loss {loss:.4f}"

    def _means(self, extra_metrics: ExtraMetrics) -> dict[str, float]:
        """Means over all ranks, in one collective."""
        names = sorted(extra_metrics)
        if not names:
            return {}
        means_N2 = torch.stack([_numerator_and_denominator(extra_metrics[name]) for name in names]).detach()
        self._world.average_tensors([means_N2])
        return dict(zip(names, (means_N2[:, 0] / means_N2[:, 1]).tolist(), strict=True))

    def _warn_of_plateau(self, done: int, line: dict[str, Any]) -> None:
        if self._plateau is not None and self._plateau.trivial.key in line and self._world.is_main:
            warning = self._plateau.check(done, line[self._plateau.trivial.key])
            if warning:
                logger.warning("%s", warning)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Log a line of another kind after `step` steps."""
        self._log.write(kind, step, epoch=round(self._schedule.epoch(step), 4), **values)

    def summary(self, steps: int) -> dict[str, Any]:
        """The `steps` made, and the last loss and training seconds of the whole run, from metrics.jsonl."""
        lines = [line for line in read_metrics(self._run.metrics) if line["kind"] == "train"]
        return {
            "steps": steps,
            "loss": lines[-1]["loss"] if lines else None,
            "seconds": round(sum(line["seconds"] for line in lines), 3),
        }

    def close(self, *, seconds: float = math.inf) -> None:
        """Write the open profile and the log, and let W&B finish for at most `seconds`."""
        self._profiler.close()
        self._log.close(seconds=seconds)


def _numerator_and_denominator(metric: Tensor | Ratio) -> Tensor:
    """Numerator and denominator of a metric's mean, float32."""
    if isinstance(metric, Ratio):
        return torch.stack([metric.numerator.float(), metric.denominator.float()])
    return torch.stack([metric.float(), torch.ones_like(metric, dtype=torch.float32)])
