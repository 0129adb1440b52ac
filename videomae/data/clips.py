"""What every training stage is told of its clips, whatever it does with them."""

from __future__ import annotations

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.order.order import Partial


@configclass
class ClipsConfig:
    """What the data part of every training stage is told; the stages' own add to it."""

    repeated_aug: int = 1  # clips from one decoded video: crops and masks of their own (VideoMAEv2, section 3.2: 4)
    # The last, incomplete batch of an epoch. drop: it is left out, other samples in each epoch. pad: each sample comes
    # exactly once an epoch; the batch is filled up with others, which weigh nothing in loss and gradients, so that the
    # step is that of the real ones' mean: the fewer they are, the noisier (health.spike watches it as any step). Batch
    # norms do see the others, and samples_per_second counts them as work.
    partial: Partial = "drop"

    def __post_init__(self) -> None:
        if self.repeated_aug < 1:
            raise UserError(f"repeated_aug must be at least 1, got {self.repeated_aug}")
