"""Configuration of metrics."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from videomae.core.config import configclass


@configclass
class MetricsConfig:
    """How often to log, and to which W&B project."""

    every: PositiveInt = 10  # steps
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online when logged in, else offline
    project: str = "videomae"
    peak_tflops: PositiveFloat | None = None  # of one device, for the MFU; None: looked up in metrics/peak.py
