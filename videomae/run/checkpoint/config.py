"""When a run saves, how many checkpoints it keeps, what it resumes from, and how it handles failed saves."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from videomae.core.config import configclass

RESUME_MODES = ("auto", "must", "never")


@configclass
class CheckpointConfig:
    """Checkpoint settings; all of them may change when a run is restarted."""

    every: str = "1 epoch"
    keep: PositiveInt = 2  # the latest ones
    keep_every: str | None = None  # also keep, permanently, the first checkpoint of each interval such as "50 epochs"
    resume: str = Field("auto", min_length=1)  # auto, must, never, a checkpoint's folder or a run directory: resume.py
    asynchronous: bool = False  # write in the background while training continues; takes host memory for a copy
    failures: NonNegativeInt = 3  # consecutive intervals without a save before the run stops; each raises an alarm
    deadline: PositiveFloat | None = 110.0  # seconds for the save at a stop and W&B; the launcher kills after 120
