"""Whether the optimization is healthy: steps that are skipped, when to go back, and when to give up.

Before each step the guard gives a ceiling for the global gradient norm; the engine skips a step above it, or one that
is not finite, on every rank alike. The guard then reads what happened. A few skips are let pass; too many, or a loss
that stays far above where it was, ask for the last good checkpoint and for other data. Everything is decided from
globally reduced values, by the same arithmetic on every rank, so that no rank has to ask another.

The values of a step are read when the next step has been queued, so that a GPU never waits for the host: the ceiling of
step k comes from the steps up to k - 2, on every device alike. The guard's state stands in the checkpoint.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.engine.protocol import StepResult

_TO_DEVIATION = 1.4826  # from the median absolute deviation to the standard deviation of a normal distribution
_LEAST_SPREAD = 0.02  # of the median: a flat window makes no spike of noise


@configclass
class HealthConfig:
    """Limits of a run's health. They say when to step in; a run that never comes near them is not changed by them."""

    spike: float | None = 10.0  # times the running median of the gradient's norm, and so many deviations; None: off
    window: int = 128  # steps that the running medians look back on
    warmup: int = 100  # accepted steps before there is a ceiling
    skips: int = 16  # steps in a row that may be skipped
    skip_fraction: float = 0.25  # of the window that may be skipped
    diverged: int = 64  # steps in a row whose loss may be `spike` deviations above its running median
    rollbacks: int = 3  # times that a run may go back to a checkpoint and take other data
    hang_seconds: float = 600.0  # without a step, an evaluated batch or a written file before the run is ended
    start_seconds: float = 1800.0  # the same for what takes longer: the start with its first step, and each save
    straggler: float = 1.5  # times the median time of its own work at which a rank is named
    straggler_windows: int = 3  # log lines in a row that it takes
    starts_without_progress: int = 3  # starts in a row that may end without a new checkpoint
    owner_seconds: float = 45.0  # without a sign of life, after which a start on another machine is taken for dead

    def __post_init__(self) -> None:
        for name in ("window", "warmup", "skips", "diverged", "straggler_windows", "starts_without_progress"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("hang_seconds", "start_seconds", "owner_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be more than 0, got {getattr(self, name)}")
        if (self.spike is not None and self.spike <= 1) or self.straggler <= 1:
            raise UserError(f"spike and straggler must be more than 1, got {self.spike} and {self.straggler}")
        if not 0 < self.skip_fraction <= 1 or self.rollbacks < 0:
            raise UserError(
                f"skip_fraction must lie in (0, 1] and rollbacks be at least 0, got {self.skip_fraction}, "
                f"{self.rollbacks}"
            )

    @property
    def collective_seconds(self) -> float:
        """How long a collective may take: longer than the watchdog waits, which says more when it ends a run."""
        return max(self.hang_seconds, self.start_seconds) + 120.0


@dataclass(frozen=True)
class Reading:
    """What the guard wants to know of a step, on its way from the device to the host."""

    values_3: Tensor  # loss, gradient norm, skipped
    ready: Any = None  # CUDA event behind the copy

    @classmethod
    def of(cls, update: StepResult) -> Reading:
        """Start the copy; does not wait for the device."""
        norm = update.gradient_norm.detach()
        values = torch.stack(
            [value.detach().to(norm.device, torch.float64) for value in (update.loss, norm, update.skipped)]
        )
        if values.device.type != "cuda":
            return cls(values)
        host = torch.empty(3, dtype=torch.float64, pin_memory=True)
        host.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return cls(host, event)

    def read(self) -> Outcome:
        """The values; waits for this step, not for those queued after it."""
        if self.ready is not None:
            self.ready.synchronize()
        loss, norm, skipped = self.values_3.tolist()
        return Outcome(loss, norm, bool(skipped) or not math.isfinite(norm) or not math.isfinite(loss))


@dataclass(frozen=True)
class Outcome:
    """A step's global loss and gradient norm, and whether it was skipped."""

    loss: float
    gradient_norm: float
    skipped: bool


@dataclass
class Guard:
    """Watches the steps of a run; one on every rank, all with the same state."""

    config: HealthConfig
    rollbacks: int = 0
    _norms: deque[float] = field(init=False)
    _losses: deque[float] = field(init=False)
    _skipped: deque[int] = field(init=False)
    _row: int = 0  # skipped steps up to now
    _high: int = 0  # steps with a high loss up to now
    _accepted: int = 0
    _last: Outcome | None = None
    _pending: Reading | Outcome | None = None

    def __post_init__(self) -> None:
        self._norms, self._losses, self._skipped = (deque(maxlen=self.config.window) for _ in range(3))

    @property
    def skip_threshold(self) -> float:
        """The largest gradient norm with which the next step may be taken."""
        return self._limit(self._norms, self.config.spike)

    def observe(self, update: StepResult) -> None:
        """Take in a step that has been queued, and read the one before it."""
        self._absorb()
        self._pending = Reading.of(update)

    @property
    def failure(self) -> str | None:
        """Why the run should go back to a checkpoint, or None."""
        config, last = self.config, self._last
        seen = f"the last had the loss {last.loss:.4g} and the gradient norm {last.gradient_norm:.4g}" if last else ""
        if self._row > config.skips:
            return f"{self._row} steps in a row were skipped (health.skips={config.skips}); {seen}"
        if sum(self._skipped) > config.skip_fraction * config.window:
            return (
                f"{sum(self._skipped)} of the last {len(self._skipped)} steps were skipped "
                f"(health.skip_fraction={config.skip_fraction}); {seen}"
            )
        if self._high >= config.diverged:
            return (
                f"the loss has stayed above {self._loss_limit:.4g} for {self._high} steps "
                f"(health.diverged={config.diverged}); {seen}"
            )
        return None

    @property
    def healthy(self) -> bool:
        """Whether the last step was taken and the loss is where it was; waits for the last step."""
        pending = self._read_pending()
        return not self._row and not self._high and (pending is None or not pending.skipped)

    @staticmethod
    def was_healthy(state: dict[str, Any] | None) -> bool:
        """Whether a checkpoint with this `state` was taken while all was well; one without is believed to be."""
        return state is None or bool(state["healthy"])

    def state_dict(self) -> dict[str, Any]:
        """All of it as JSON; waits for the last step."""
        pending = self._read_pending()
        return {
            "healthy": self.healthy,
            "norms": list(self._norms),
            "losses": list(self._losses),
            "skipped": list(self._skipped),
            "row": self._row,
            "high": self._high,
            "accepted": self._accepted,
            "rollbacks": self.rollbacks,
            "pending": None
            if pending is None
            else [_to_json(pending.loss), _to_json(pending.gradient_norm), pending.skipped],
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take over a checkpoint's `state`; another window keeps what fits, and None is a fresh start."""
        if state is None:
            return
        self._norms.extend(state["norms"])
        self._losses.extend(state["losses"])
        self._skipped.extend(state["skipped"])
        self._row, self._high, self._accepted = state["row"], state["high"], state["accepted"]
        self.rollbacks = state["rollbacks"]
        if state["pending"] is not None:
            loss, norm, skipped = state["pending"]
            self._pending = Outcome(_from_json(loss), _from_json(norm), skipped)

    @property
    def _loss_limit(self) -> float:
        return self._limit(self._losses, None)

    def _limit(self, accepted: Sequence[float], factor: float | None) -> float:
        """`spike` deviations above the running median, and at least `factor` times it."""
        if self.config.spike is None or self._accepted < self.config.warmup:
            return math.inf
        median = statistics.median(accepted)
        spread = _TO_DEVIATION * statistics.median(abs(value - median) for value in accepted)
        limit = median + self.config.spike * max(spread, _LEAST_SPREAD * abs(median))
        return max(limit, (factor or 0.0) * median)

    def _read_pending(self) -> Outcome | None:
        if isinstance(self._pending, Reading):
            self._pending = self._pending.read()
        return self._pending

    def _absorb(self) -> None:
        outcome = self._read_pending()
        if outcome is None:
            return
        self._last, self._pending = outcome, None
        self._skipped.append(int(outcome.skipped))
        self._row = self._row + 1 if outcome.skipped else 0
        if outcome.skipped:
            return
        self._high = self._high + 1 if outcome.loss > self._loss_limit else 0
        self._norms.append(outcome.gradient_norm)
        if not self._high:
            self._losses.append(outcome.loss)
        self._accepted += 1


def _to_json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _from_json(value: float | None) -> float:
    return math.nan if value is None else value
