"""What is measured: metrics.jsonl on disk is the truth, all else (W&B, the live view) reads it.

recorder  what a training run measures and where it goes; it asks meter (times, rates, MFU by the peak of the device),
          plateau (a loss that sits where a model that has learnt nothing would) and profiler (a window of traces)
log       appends to the file, cuts it back, reads and follows it
mirror    keeps a W&B run like the file, from a process of its own
view      a run in the terminal: `videomae watch RUN`; standing and plot are its figures

The last three need no torch, so that the view starts at once.
"""

from videomae.run.metrics.config import MetricsConfig, ProfileConfig
from videomae.run.metrics.log import MetricsLog, read_metrics

__all__ = ["MetricsConfig", "MetricsLog", "ProfileConfig", "read_metrics"]
