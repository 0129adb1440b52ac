"""Detect unhealthy optimization: which steps to skip, and when to roll back.

Before each step the guard computes a threshold for the global gradient norm. On every rank, the engine skips a step
whose norm is above it or not finite. The guard tolerates a few skipped steps. Too many of them, or a loss that stays
far above its running median, request a rollback to the last healthy checkpoint, with other data. Every rank computes
this from globally reduced values with the same arithmetic, so the ranks need no communication.

The guard reads the values of a step after the next step is queued, so a GPU never waits for the host: the threshold of
step k depends on the steps up to k - 2. The checkpoint holds the guard's state.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from videomae.core.config import configclass
from videomae.engine.protocol import StepResult

_MAD_TO_STD = 1.4826  # from the median absolute deviation to the standard deviation of a normal distribution
_MIN_RELATIVE_STD = 0.02  # of the median: noise after a constant window is not a spike


@configclass
class HealthConfig:
    """Limits of a run's health. They do not affect a run that stays within them."""

    spike: float | None = Field(10.0, gt=1)  # skip above this factor of the running median, and so many deviations
    window: PositiveInt = 128  # steps of the running medians
    warmup: PositiveInt = 100  # accepted steps before the first threshold
    skips: PositiveInt = 16  # consecutive steps that may be skipped
    skip_fraction: float = Field(0.25, gt=0, le=1)  # fraction of the window that may be skipped
    diverged: PositiveInt = 64  # consecutive steps whose loss may be `spike` deviations above its running median
    rollbacks: NonNegativeInt = 3  # how often a run may roll back
    hang_seconds: PositiveFloat = 600.0  # without a step, evaluated batch or written file, until the run is ended
    start_seconds: PositiveFloat = 1800.0  # the same for slow operations: start-up and first step, a save, a rollback
    straggler: float = Field(1.5, gt=1)  # factor of the median compute time from which a rank is reported
    straggler_windows: PositiveInt = 3  # consecutive log lines before it is reported
    starts_without_progress: PositiveInt = 3  # consecutive starts that may end without a new checkpoint
    owner_seconds: PositiveFloat = 45.0  # without a heartbeat, until the owner on another machine counts as dead

    @property
    def collective_seconds(self) -> float:
        """Timeout of a collective: longer than the watchdog's, whose report says more."""
        return max(self.hang_seconds, self.start_seconds) + 120.0


@dataclass(frozen=True)
class PendingOutcome:
    """An `Outcome` on its way from the device to the host."""

    values_3: Tensor  # loss, gradient norm, skipped
    ready: Any = None  # CUDA event after the copy

    @classmethod
    def copy_from(cls, result: StepResult) -> PendingOutcome:
        """Start the copy, without waiting for the device."""
        norm = result.grad_norm.detach()
        values = torch.stack(
            [value.detach().to(norm.device, torch.float64) for value in (result.loss, norm, result.skipped)]
        )
        if values.device.type != "cuda":
            return cls(values)
        host = torch.empty(3, dtype=torch.float64, pin_memory=True)
        host.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return cls(host, event)

    def wait(self) -> Outcome:
        """Wait for this step, but not for those queued after it."""
        if self.ready is not None:
            self.ready.synchronize()
        loss, norm, skipped = self.values_3.tolist()
        return Outcome(loss, norm, bool(skipped) or not math.isfinite(norm) or not math.isfinite(loss))


@dataclass(frozen=True)
class Outcome:
    """A step's global loss and gradient norm, and whether it was skipped."""

    loss: float
    grad_norm: float
    skipped: bool


@dataclass
class Guard:
    """Observes the steps of a run; every rank has one, with the same state."""

    config: HealthConfig
    rollbacks: int = 0
    _norms: deque[float] = field(init=False)
    _losses: deque[float] = field(init=False)
    _skipped: deque[int] = field(init=False)
    _skip_streak: int = 0  # consecutive skipped steps, up to now
    _high_streak: int = 0  # consecutive steps with a high loss, up to now
    _accepted: int = 0
    _last: Outcome | None = None
    _pending: PendingOutcome | Outcome | None = None

    def __post_init__(self) -> None:
        self._norms, self._losses, self._skipped = (deque(maxlen=self.config.window) for _ in range(3))

    @property
    def skip_threshold(self) -> float:
        """The largest gradient norm with which the next step may be taken."""
        return self._limit(self._norms, self.config.spike)

    def observe(self, result: StepResult) -> None:
        """Register the step that was just queued, and read the one before it."""
        self._absorb()
        self._pending = PendingOutcome.copy_from(result)

    @property
    def failure(self) -> str | None:
        """Why the run has to roll back, or None."""
        config, last = self.config, self._last
        seen = f"last loss {last.loss:.4g}, gradient norm {last.grad_norm:.4g}" if last else ""
        if self._skip_streak > config.skips:
            return f"{self._skip_streak} consecutive steps were skipped (health.skips={config.skips}); {seen}"
        if sum(self._skipped) > config.skip_fraction * config.window:
            return (
                f"{sum(self._skipped)} of the last {len(self._skipped)} steps were skipped "
                f"(health.skip_fraction={config.skip_fraction}); {seen}"
            )
        if self._high_streak >= config.diverged:
            return (
                f"the loss has stayed above {self._loss_limit:.4g} for {self._high_streak} steps "
                f"(health.diverged={config.diverged}); {seen}"
            )
        return None

    @property
    def healthy(self) -> bool:
        """Whether the last step was not skipped and the loss is not high; waits for the last step."""
        pending = self._read_pending()
        return not self._skip_streak and not self._high_streak and (pending is None or not pending.skipped)

    @staticmethod
    def was_healthy(state: dict[str, Any] | None) -> bool:
        """Whether a checkpoint with this `state` was saved while the run was healthy; without a state, yes."""
        return state is None or bool(state["healthy"])

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values; waits for the last step."""
        pending = self._read_pending()
        return {
            "healthy": self.healthy,
            "norms": list(self._norms),
            "losses": list(self._losses),
            "skipped": list(self._skipped),
            "skip_streak": self._skip_streak,
            "high_streak": self._high_streak,
            "accepted": self._accepted,
            "rollbacks": self.rollbacks,
            "pending": None
            if pending is None
            else [_to_json(pending.loss), _to_json(pending.grad_norm), pending.skipped],
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore a checkpoint's `state`; a shorter window keeps the newest values, None keeps the initial state."""
        if state is None:
            return
        self._norms.extend(state["norms"])
        self._losses.extend(state["losses"])
        self._skipped.extend(state["skipped"])
        self._skip_streak, self._high_streak, self._accepted = (
            state["skip_streak"],
            state["high_streak"],
            state["accepted"],
        )
        self.rollbacks = state["rollbacks"]
        if state["pending"] is not None:
            loss, norm, skipped = state["pending"]
            self._pending = Outcome(_from_json(loss), _from_json(norm), skipped)

    @property
    def _loss_limit(self) -> float:
        return self._limit(self._losses, None)

    def _limit(self, accepted: Sequence[float], factor: float | None) -> float:
        """`spike` standard deviations above the running median, and at least `factor` times the median."""
        if self.config.spike is None or self._accepted < self.config.warmup:
            return math.inf
        median = statistics.median(accepted)
        spread = _MAD_TO_STD * statistics.median(abs(value - median) for value in accepted)
        limit = median + self.config.spike * max(spread, _MIN_RELATIVE_STD * abs(median))
        return max(limit, (factor or 0.0) * median)

    def _read_pending(self) -> Outcome | None:
        if isinstance(self._pending, PendingOutcome):
            self._pending = self._pending.wait()
        return self._pending

    def _absorb(self) -> None:
        outcome = self._read_pending()
        if outcome is None:
            return
        self._last, self._pending = outcome, None
        self._skipped.append(int(outcome.skipped))
        self._skip_streak = self._skip_streak + 1 if outcome.skipped else 0
        if outcome.skipped:
            return
        self._high_streak = self._high_streak + 1 if outcome.loss > self._loss_limit else 0
        self._norms.append(outcome.grad_norm)
        if not self._high_streak:
            self._losses.append(outcome.loss)
        self._accepted += 1


def _to_json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _from_json(value: float | None) -> float:
    return math.nan if value is None else value
