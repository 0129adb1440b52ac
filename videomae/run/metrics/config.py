"""Configuration of metrics and profiling."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from videomae.core.config import configclass


@configclass
class ProfileConfig:
    """The steps that torch.profiler records; there is no cost outside of them."""

    start: NonNegativeInt  # 0-based step
    steps: PositiveInt = 3
    ranks: tuple[int, ...] = (0,)


@configclass
class MetricsConfig:
    """How often to log, and to which W&B project."""

    every: PositiveInt = 10  # steps
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online when logged in, else offline
    project: str = "videomae"
    peak_tflops: PositiveFloat | None = None  # of one device, for the MFU; None: looked up in metrics/peak.py
    profile: ProfileConfig | None = None
