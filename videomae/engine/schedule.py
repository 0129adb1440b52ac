"""Learning-rate schedules and durations, as pure functions of the step.

A duration is text with a unit, such as `800 epochs`, `20000 steps`, `1e6 samples` or `1e6 clips`; within a run also
`15 %` of it. It is converted to optimizer steps once the number of steps per epoch is known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from videomae.core.config import configclass
from videomae.core.errors import UserError

_DURATION = re.compile(r"\s*([0-9.]+(?:e[+]?[0-9]+)?)\s*(epochs?|steps?|samples?|clips?|%)\s*", re.IGNORECASE)


@configclass
class ScheduleConfig:
    """Linear warm-up to the peak learning rate, then one of two ways down to the final one.

    - cosine: half a cosine (Loshchilov and Hutter 2017), from the end of the warm-up on.
    - wsd: warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395): constant until `decay` before the end, then
      linear.
    """

    kind: Literal["cosine", "wsd"] = "cosine"
    duration: str = "800 epochs"
    warmup: str = "40 epochs"  # or a share of the duration, such as 5 %
    decay: str = "15 %"  # of wsd; a share of the duration, or epochs, steps or samples
    start_factor: float = 0.0  # of the peak learning rate, at step 0
    final_factor: float = 0.0  # of the peak learning rate, at the end

    def __post_init__(self) -> None:
        if _parse(self.duration)[1] == "%":
            raise UserError(f"schedule.duration={self.duration!r} must be in epochs, steps or samples")
        for text in (self.warmup, self.decay):
            _parse(text)


def steps_of(duration: str, *, steps_per_epoch: int, batch: int, total: int | None = None) -> int:
    """Return `duration` in optimizer steps, rounded to the nearest; `batch` is the global batch in samples.

    Raises:
        UserError: it is a share of the run, whose `total` steps are not given.
    """
    amount, unit = _parse(duration)
    if unit == "%":
        if total is None:
            raise UserError(f"duration {duration!r} must be in epochs, steps or samples here")
        return round(amount / 100 * total)
    if unit == "epoch":
        return round(amount * steps_per_epoch)
    return round(amount) if unit == "step" else round(amount / batch)


@dataclass(frozen=True)
class Schedule:
    """A run's durations in optimizer steps, and its learning rate at each step."""

    schedule: ScheduleConfig
    peak_lr: float
    steps_per_epoch: int
    total: int
    warmup: int
    decay: int  # of wsd

    def lr(self, step: int) -> float:
        """Return the learning rate of the 0-based `step`."""
        config = self.schedule
        if step < self.warmup:
            return self.peak_lr * (config.start_factor + (1 - config.start_factor) * step / self.warmup)
        if config.kind == "cosine":
            progress = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
            share = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            share = max(0.0, min(1.0, (self.total - step) / max(1, self.decay)))
        return self.peak_lr * (config.final_factor + (1 - config.final_factor) * share)

    def interval(self, duration: str, *, batch: int) -> int:
        """Return `duration` in steps, at least one, as the interval between recurring events."""
        return max(1, steps_of(duration, steps_per_epoch=self.steps_per_epoch, batch=batch))

    def epoch(self, step: int) -> float:
        return step / self.steps_per_epoch


def at_multiples(of: int, action: Callable[[int], object]) -> Callable[[int], None]:
    """Return a hook that calls `action(step)` when the completed `step` is a positive multiple of `of`."""

    def hook(step: int) -> None:
        if step and step % of == 0:
            action(step)

    return hook


def in_turn(*hooks: Callable[[int], object]) -> Callable[[int], None]:
    """Return a hook that calls the `hooks` one after another."""

    def hook(step: int) -> None:
        for each in hooks:
            each(step)

    return hook


def make_schedule(schedule: ScheduleConfig, *, peak_lr: float, steps_per_epoch: int, batch: int) -> Schedule:
    """Convert durations to steps for a data set of `steps_per_epoch` global batches of `batch` samples.

    Raises:
        UserError: the data set is smaller than a batch, or the run would have no step after warm-up.
    """
    if steps_per_epoch < 1:
        raise UserError(f"an epoch has no full batch of {batch}; lower batch, or add data")
    total = steps_of(schedule.duration, steps_per_epoch=steps_per_epoch, batch=batch)
    if total < 1:
        raise UserError(f"schedule.duration={schedule.duration!r} is less than one step")
    warmup = steps_of(schedule.warmup, steps_per_epoch=steps_per_epoch, batch=batch, total=total)
    decay = steps_of(schedule.decay, steps_per_epoch=steps_per_epoch, batch=batch, total=total)
    if schedule.kind == "wsd" and warmup + decay > total:
        raise UserError(
            f"schedule.warmup={schedule.warmup!r} and schedule.decay={schedule.decay!r} are {warmup} and {decay} "
            f"steps, more than the {total} of the run; shorten one of them"
        )
    if warmup >= total:
        raise UserError(
            f"schedule.warmup={schedule.warmup!r} is {warmup} steps and the whole run, "
            f"schedule.duration={schedule.duration!r}, only {total}; shorten the warm-up"
        )
    return Schedule(schedule, peak_lr, steps_per_epoch, total, warmup, decay)


def _parse(text: str) -> tuple[float, str]:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UserError(f"duration {text!r}: expected a number and a unit, such as '800 epochs', '20000 steps'")
    return float(match[1]), match[2].lower().removesuffix("s").replace("clip", "sample")
