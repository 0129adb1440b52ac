"""What a check is made of: a probe on every rank, and a judgement of all ranks' answers in one place.

A probe looks at its own machine and gives back plain values; a judgement is a pure function of them. So every red line
can be had in a test by handing over answers, and a probe that crashes or hangs is itself an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launch.plan.model import Config
from videomae.core.distributed import World

Level = Literal["green", "yellow", "red"]
_ORDER: tuple[Level, ...] = ("green", "yellow", "red")


@dataclass(frozen=True)
class Finding:
    """One line of the table: how it stands, and what to do where it is not green."""

    check: str
    level: Level
    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Answer:
    """What a probe gave on one rank: a value, or why there is none."""

    rank: int
    host: str
    value: Any = None
    fault: str | None = None

    @property
    def place(self) -> str:
        """For messages."""
        return f"rank {self.rank} ({self.host})"


@dataclass(frozen=True)
class Context:
    """What probes and judgements are told."""

    world: World
    host: str
    config: Config | None = None
    run: Path | None = None  # the run's directory; it need not be there
    patience: float = 60.0  # seconds for all ranks to answer
    clock: Callable[[], float] = field(default=time.time)


Probe = Callable[[Context], Any]
Judge = Callable[[Sequence[Answer], Context], Sequence[Finding]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A probe, its judgement, and the seconds after which a probe counts as hung."""

    name: str
    probe: Probe
    judge: Judge
    seconds: float = 20.0
    together: bool = False  # the probe is a meeting of all ranks
    wanted: Callable[[Context], bool] = lambda context: True


def worst(findings: Sequence[Finding]) -> Level:
    """The gravest level."""
    return _ORDER[max((_ORDER.index(finding.level) for finding in findings), default=0)]


def places(answers: Sequence[Answer], most: int = 4) -> str:
    """Ranks in words, hosts named once."""
    named = [answer.place for answer in answers[:most]]
    more = f" and {len(answers) - most} more" if len(answers) > most else ""
    return ", ".join(named) + more


def by_host(answers: Sequence[Answer]) -> list[Answer]:
    """The first rank's answer of each host."""
    first: dict[str, Answer] = {}
    for answer in answers:
        first.setdefault(answer.host, answer)
    return list(first.values())
