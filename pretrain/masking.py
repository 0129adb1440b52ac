"""Which tokens the encoder sees: masks as two index tensors, visible and hidden, with exact and equal counts.

A mask is drawn on the host from a random generator that depends on nothing but the sample's place in the run. Tube
masking (Tong et al. 2022, section 3.3) hides the same spatial positions in every temporal slice, so that what is hidden
cannot be read off the neighbouring frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from videomae.config import configclass
from videomae.encoder import EncoderConfig


@configclass
class MaskConfig:
    """How much is hidden, and in which pattern."""

    kind: Literal["tube"] = "tube"
    ratio: float = 0.9  # of the positions in a temporal slice; the count hidden is int(ratio * positions)

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"mask ratio must lie between 0 and 1, got {self.ratio}")


@dataclass(frozen=True)
class Mask:
    """Token indices of one clip, int64, each ascending: `visible_V` and `hidden_H` together are all tokens once."""

    visible_V: np.ndarray
    hidden_H: np.ndarray


def hidden_positions(config: MaskConfig, encoder: EncoderConfig) -> int:
    """How many positions of each temporal slice are hidden: int(ratio * positions), at least one left on each side.

    Raises:
        ValueError: the ratio hides nothing, or leaves nothing visible, at this grid.
    """
    hidden = int(config.ratio * encoder.positions)
    if not 0 < hidden < encoder.positions:
        raise ValueError(
            f"mask.ratio={config.ratio} hides {hidden} of the {encoder.positions} positions of a "
            f"{encoder.side} x {encoder.side} grid; at least one must be hidden and one visible"
        )
    return hidden


def draw_mask(config: MaskConfig, encoder: EncoderConfig, rng: np.random.Generator) -> Mask:
    """A tube mask: a uniform choice of positions, the same in all temporal slices."""
    hidden = hidden_positions(config, encoder)
    shuffled_P = rng.permutation(encoder.positions)
    return Mask(
        visible_V=_through_time(shuffled_P[hidden:], encoder),
        hidden_H=_through_time(shuffled_P[:hidden], encoder),
    )


def _through_time(positions_P: np.ndarray, encoder: EncoderConfig) -> np.ndarray:
    """Token indices of the given spatial positions in every temporal slice."""
    starts_T1 = np.arange(encoder.slices, dtype=np.int64)[:, None] * encoder.positions
    return (starts_T1 + np.sort(positions_P)).reshape(-1)
