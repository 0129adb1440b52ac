"""The settings of synthetic clips, which are drawn while a run trains instead of being read from a file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from videomae.core.config import configclass
from videomae.core.errors import UserError


@configclass
class SyntheticConfig:
    """What the clips show, in stages as in "Learning Video Representations without Natural Videos" (arXiv 2410.24213).

    Lengths are in halves of the frame's side: a disc of radius 1 touches all four edges.
    """

    epoch: PositiveInt = 100_000  # clips that count as one epoch; the supply itself does not end
    shapes: Literal["circles", "mixed"] = "mixed"
    # still; constant velocity; accelerated; transforming: accelerated, and the object grows, turns and shears;
    # single: it does one of the eight things that are the classes of the labelled sets, and nothing else
    motion: Literal["still", "constant", "accelerated", "transforming", "single"] = "single"
    # plain colours; coloured noise; procedural: noise, gradients, waves and dead leaves; crops of images
    textures: Literal["plain", "noise", "procedural", "images"] = "noise"
    images: str | None = None  # textures=images: a folder of JPEG, PNG or WebP files, or a split of shards
    objects: tuple[int, int] = (1, 1)  # fewest and most in a clip
    radius: tuple[float, float] = (0.6, 0.85)  # smallest and largest at the instant at which the size is drawn
    noise: float = Field(1.0, ge=0, le=16)  # standard deviation of the sensor noise, of 255

    def __post_init__(self) -> None:
        fewest, most = self.objects
        if not 1 <= fewest <= most <= 64:
            raise UserError(f"objects must be two counts from 1 to 64, fewest first, got [{fewest}, {most}]")
        smallest, largest = self.radius
        if not 0.02 <= smallest <= largest <= 1:
            raise UserError(f"radius must be two numbers from 0.02 to 1, smallest first, got [{smallest}, {largest}]")
        if self.textures == "images" and not self.images:
            raise UserError("textures=images needs images=FOLDER, with image files or a split of shards")
        if self.textures != "images" and self.images:
            raise UserError(f"images={self.images} has no use with textures={self.textures}; set textures=images")
