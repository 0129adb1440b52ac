"""Warn once when the loss stays at the value of a model that has learnt nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW = 20  # logged values
TOLERANCE = 0.02  # of the trivial loss


@dataclass(frozen=True)
class TrivialLoss:
    """The loss `value` of a trivial `answer`, the metric's `key`, and `advice` for the user."""

    key: str
    value: float
    answer: str
    advice: str


@dataclass
class Plateau:
    """Checks logged values after the warm-up; it warns when both halves of a window are at the trivial loss."""

    trivial: TrivialLoss
    warmup: int  # steps that are ignored
    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW), init=False)
    _warned: bool = field(default=False, init=False)

    def check(self, step: int, value: float) -> str | None:
        """The warning if it is due after `step`; at most once."""
        if self._warned or step <= self.warmup:
            return None
        self._seen.append(value)
        values, half = list(self._seen), WINDOW // 2
        if len(values) < WINDOW or not (self._is_trivial(values[:half]) and self._is_trivial(values[half:])):
            return None
        self._warned = True
        return (
            f"{self.trivial.key} has stayed at {sum(values) / WINDOW:.3f} for {WINDOW} log lines up to step {step}: "
            f"{self.trivial.answer} gives {self.trivial.value:.3f}, "
            f"so the model has learnt nothing yet; {self.trivial.advice}"
        )

    def _is_trivial(self, values: list[float]) -> bool:
        return abs(sum(values) / len(values) - self.trivial.value) <= TOLERANCE * self.trivial.value
