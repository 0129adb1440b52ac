"""The settings of synthetic clips, which are drawn while a run trains instead of being read from a file."""

from __future__ import annotations

from typing import Literal

from videomae.core.config import configclass
from videomae.core.errors import UserError


@configclass
class SyntheticConfig:
    """What the clips show, in stages as in "Learning Video Representations without Natural Videos" (arXiv 2410.24213).

    Sizes are in halves of the frame's side: an object of radius 1 touches all four edges.
    """

    epoch: int = 100_000  # clips that count as one epoch; the supply itself does not end
    shapes: Literal["circles", "mixed"] = "mixed"
    # single: each object does one of the eight motions of the labelled sets
    motion: Literal["still", "single"] = "single"
    textures: Literal["plain", "procedural"] = "procedural"
    objects: tuple[int, int] = (1, 1)  # fewest and most in a clip
    noise: float = 2.5  # standard deviation of the sensor noise, of 255

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise UserError(f"epoch must be at least 1 clip, got {self.epoch}")
        fewest, most = self.objects
        if not 1 <= fewest <= most <= 64:
            raise UserError(f"objects must be two counts from 1 to 64, fewest first, got [{fewest}, {most}]")
        if not 0 <= self.noise <= 16:
            raise UserError(f"noise must lie between 0 and 16 of 255, got {self.noise}")
