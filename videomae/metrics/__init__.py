"""What is measured: metrics.jsonl on disk is the truth, all else (W&B, the live view) reads it.

log      appends to the file, cuts it back, reads and follows it
mirror   keeps a W&B run like the file, from a process of its own
watch    the view of a run in the terminal: `python -m videomae.metrics watch RUN`

Nothing here needs torch, so that the view starts at once.
"""

from videomae.metrics.config import MetricsConfig, ProfileConfig
from videomae.metrics.log import MetricsLog, read

__all__ = ["MetricsConfig", "MetricsLog", "ProfileConfig", "read"]
