"""Metrics of a run. metrics.jsonl is the source of truth; W&B and the live view read it.

recorder  measures a training run, with meter (times, throughput, MFU from the device's peak), plateau (a warning when
          the loss stays at its trivial value) and profiler (traces of some steps)
log       appends to the file, truncates, reads and follows it
wandb_*   send the file to W&B, from a separate process
view      a run in the terminal: `videomae watch RUN`

log, wandb_* and view import no torch, so that they start at once.
"""

from videomae.run.metrics.config import MetricsConfig, ProfileConfig
from videomae.run.metrics.log import MetricsLog, read_metrics

__all__ = ["MetricsConfig", "MetricsLog", "ProfileConfig", "read_metrics"]
