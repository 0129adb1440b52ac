"""Configuration of metrics and profiling."""

from __future__ import annotations

from typing import Literal

from videomae.core.config import configclass
from videomae.core.errors import UserError


@configclass
class ProfileConfig:
    """The steps that torch.profiler records; there is no cost outside of them."""

    start: int  # 0-based step
    steps: int = 3
    ranks: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.start < 0 or self.steps < 1:
            raise UserError(f"start must be at least 0 and steps at least 1, got {self.start} and {self.steps}")


@configclass
class MetricsConfig:
    """How often to log, and to which W&B project."""

    every: int = 10  # steps
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online when logged in, else offline
    project: str = "videomae"
    peak_tflops: float | None = None  # of one device, for the MFU; None: looked up in videomae/run/metrics/peak.py
    profile: ProfileConfig | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"every must be at least 1 step, got {self.every}")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise UserError(f"peak_tflops must be positive, or null to look it up, got {self.peak_tflops}")
