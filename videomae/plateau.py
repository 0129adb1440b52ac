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
    """Looks at the logged values after the warm-up; one window of them at the trivial loss is worth a warning."""

    trivial: TrivialLoss
    warmup: int  # steps, in which nothing is expected of the loss
    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW), init=False)
    _warned: bool = field(default=False, init=False)

    def look(self, step: int, value: float) -> str | None:
        """The warning, when it is due after `step`; at most once."""
        if self._warned or step <= self.warmup:
            return None
        self._seen.append(value)
        middle = sum(self._seen) / len(self._seen)
        if len(self._seen) < WINDOW or not abs(middle - self.trivial.value) <= TOLERANCE * self.trivial.value:
            return None
        self._warned = True
        return (
            f"{self.trivial.key} has sat at {middle:.3f} for {WINDOW} log lines up to step {step}: "
            f"{self.trivial.answer} gives {self.trivial.value:.3f}, so nothing is learnt yet; {self.trivial.advice}"
        )
