"""When a run saves, how many checkpoints it keeps, what it resumes from, and how it handles failed saves."""

from __future__ import annotations

from videomae.core.config import configclass
from videomae.core.errors import UserError

RESUME_MODES = ("auto", "must", "never")


@configclass
class CheckpointConfig:
    """Checkpoint settings; all of them may change when a run is restarted."""

    every: str = "1 epoch"
    keep: int = 2  # the latest ones
    keep_every: str | None = None  # also keep, permanently, the first checkpoint of each interval such as "50 epochs"
    resume: str = "auto"  # auto | must | never | a checkpoint's folder or a run directory; see resume.py
    asynchronous: bool = False  # write in the background while training continues; takes host memory for a copy
    failures: int = 3  # consecutive intervals without a successful save before the run stops; each raises an alarm
    deadline: float | None = 110.0  # seconds for the save at a stop and W&B; the launcher kills after 120

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UserError(f"keep must be at least 1, got {self.keep}")
        if self.failures < 0:
            raise UserError(f"failures must be 0 (the first failed save stops the run) or more, got {self.failures}")
        if self.deadline is not None and self.deadline <= 0:
            raise UserError(f"deadline must be positive seconds, or null for none, got {self.deadline}")
        if not self.resume:
            raise UserError(f"resume must be one of {', '.join(RESUME_MODES)} or a path, got {self.resume!r}")
