"""Notices a loss that sits where a model that has learnt nothing has it, and says so once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW = 20  # logged values
TOLERANCE = 0.02  # of the trivial loss


@dataclass(frozen=True)
class TrivialLoss:
    """The value of a trivial answer, under which key it is logged, what that answer is, and what to do about it."""

    key: str
    value: float
    answer: str
    advice: str


@dataclass
class Plateau:
    """Looks at logged values after the warm-up; both halves of a window at the trivial loss are worth a warning."""

    trivial: TrivialLoss
    warmup: int  # steps, in which nothing is expected of the loss
    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW), init=False)
    _warned: bool = field(default=False, init=False)

    def look(self, step: int, value: float) -> str | None:
        """The warning, when it is due after `step`; at most once."""
        if self._warned or step <= self.warmup:
            return None
        self._seen.append(value)
        values, half = list(self._seen), WINDOW // 2
        if len(values) < WINDOW or not (self._is_trivial(values[:half]) and self._is_trivial(values[half:])):
            return None
        self._warned = True
        return (
            f"{self.trivial.key} has sat at {sum(values) / WINDOW:.3f} for {WINDOW} log lines up to step {step}: "
            f"{self.trivial.answer} gives {self.trivial.value:.3f}, so nothing is learnt yet; {self.trivial.advice}"
        )

    def _is_trivial(self, values: list[float]) -> bool:
        return abs(sum(values) / len(values) - self.trivial.value) <= TOLERANCE * self.trivial.value
