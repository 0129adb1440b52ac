"""When a run saves, how much it keeps, what it starts from, and what it does when a save fails."""

from __future__ import annotations

from videomae.core.config import configclass
from videomae.core.errors import UserError

MODES = ("auto", "must", "never")


@configclass
class CheckpointConfig:
    """Settings of a run's checkpoints; all of them may change from one start of a run to the next."""

    every: str = "1 epoch"
    keep: int = 2  # the newest ones
    keep_every: str | None = None  # and for ever the first one of each such stretch, such as "50 epochs"
    resume: str = "auto"  # auto | must | never | a checkpoint's folder or a run's directory; see resume.py
    asynchronous: bool = False  # train on while a copy of the state is written; costs the state's size in host memory
    failures: int = 3  # intervals in a row that may pass without a save before the run stops; each raises an alarm
    deadline: float | None = 110.0  # seconds for the save of a stop and W&B, below the launcher's 120 before it kills

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UserError(f"keep must be at least 1, got {self.keep}")
        if self.failures < 0:
            raise UserError(f"failures must be 0 (the first failed save stops the run) or more, got {self.failures}")
        if self.deadline is not None and self.deadline <= 0:
            raise UserError(f"deadline must be positive seconds, or null for none, got {self.deadline}")
        if not self.resume:
            raise UserError(f"resume must be one of {', '.join(MODES)} or a path, got {self.resume!r}")
