"""Which tokens the encoder sees and the decoder predicts, as index tensors of the same length for every sample.

Masks are drawn on the host, from a generator that depends only on the sample's position in the run.

- tube (Tong et al. 2022, section 3.3) hides the same spatial positions at every time, so that hidden patches cannot be
  copied from neighbouring frames;
- random hides arbitrary tokens, frame hides all tokens of some times (both from the ablation in table 1c);
- dual masking (Wang et al. 2023, VideoMAEv2, section 3.1) restricts the decoder's mask tokens to half of all positions,
  which a running 2 x 2 cell selects;
- a share below 1 (Fu et al. 2024, CrossMAE, section 3.3) predicts a random part of the hidden tokens, which dual
  masking may have restricted before, and mask tokens stand at those alone.

"Time" means one of the `grid_t` temporal positions of the patch grid. Shapes: N tokens, P positions of one time,
T times, V visible, H hidden and S ignored tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.models.encoder import EncoderConfig

_PHASES = 4  # positions in the running cell, and its period along time


@configclass
class MaskConfig:
    """Masking pattern and ratio."""

    kind: Literal["tube", "random", "frame"] = "tube"
    ratio: float = Field(0.9, gt=0, lt=1)  # of positions (tube), tokens (random) or times (frame); rounded down
    decoder: Literal["all", "running_cell"] = "all"  # which hidden tokens are predicted; running_cell: dual masking

    def __post_init__(self) -> None:
        if self.decoder == "running_cell" and self.kind != "tube":
            raise UserError(
                f"mask.decoder=running_cell gives every sample the same number of tokens only with tube masks, "
                f"got mask.kind={self.kind}; set mask.kind=tube or mask.decoder=all"
            )


@dataclass(frozen=True)
class Mask:
    """Token indices of one clip, int64, each ascending.

    The encoder sees `visible_V`. The decoder predicts `hidden_H`: all other tokens, or those that dual masking and the
    share select. It also gets mask tokens at `ignored_S`, which dual masking selects among the visible tokens; their
    predictions do not enter the loss. `ignored_S` is empty without dual masking and with a share below 1.
    """

    visible_V: np.ndarray
    hidden_H: np.ndarray
    ignored_S: np.ndarray


def hidden_count(config: MaskConfig, encoder: EncoderConfig) -> int:
    """Number of hidden units: positions per time (tube), tokens (random) or times (frame).

    Raises:
        UserError: the ratio hides nothing or everything, or grid_t is no multiple of the running cell's period.
    """
    total, unit = {
        "tube": (encoder.patches_per_frame, f"positions of a {encoder.grid_size} x {encoder.grid_size} grid"),
        "random": (encoder.num_patches, "tokens"),
        "frame": (encoder.grid_t, "times"),
    }[config.kind]
    hidden = int(config.ratio * total)
    if not 0 < hidden < total:
        raise UserError(
            f"mask.ratio={config.ratio} hides {hidden} of the {total} {unit}; "
            "at least one must be hidden and one visible"
        )
    if config.decoder == "running_cell" and encoder.grid_t % _PHASES:
        raise UserError(
            f"mask.decoder=running_cell needs frames / tubelet to be a multiple of {_PHASES}, got {encoder.grid_t}; "
            f"set encoder.frames to a multiple of {_PHASES * encoder.tubelet}"
        )
    return hidden


def draw_mask(config: MaskConfig, encoder: EncoderConfig, rng: np.random.Generator, *, share: float = 1.0) -> Mask:
    """Draw a mask of the configured kind; every choice of hidden units is equally likely.

    `share` is the part of the hidden tokens to predict, at least one, each choice again equally likely. It does not
    change what the encoder sees.
    """
    mask = _draw_whole(config, encoder, rng)
    if share == 1:
        return mask
    predicted = max(1, round(share * len(mask.hidden_H)))
    hidden_H = np.sort(rng.choice(mask.hidden_H, predicted, replace=False, shuffle=False))
    return Mask(mask.visible_V, hidden_H, ignored_S=mask.ignored_S[:0])


def _draw_whole(config: MaskConfig, encoder: EncoderConfig, rng: np.random.Generator) -> Mask:
    hidden = hidden_count(config, encoder)
    if config.kind == "random":
        shuffled_N = rng.permutation(encoder.num_patches)
        visible_V, hidden_H = np.sort(shuffled_N[hidden:]), np.sort(shuffled_N[:hidden])
    elif config.kind == "frame":
        shuffled_T = rng.permutation(encoder.grid_t)
        visible_V, hidden_H = (_all_positions(part, encoder) for part in (shuffled_T[hidden:], shuffled_T[:hidden]))
    else:
        shuffled_P = rng.permutation(encoder.patches_per_frame)
        visible_V, hidden_H = (_all_times(part, encoder) for part in (shuffled_P[hidden:], shuffled_P[:hidden]))
    if config.decoder == "all":
        return Mask(visible_V, hidden_H, ignored_S=np.empty(0, dtype=np.int64))
    kept_N = running_cell(encoder, phase=int(rng.integers(_PHASES)))
    return Mask(visible_V, hidden_H[kept_N[hidden_H]], ignored_S=visible_V[kept_N[visible_V]])


def running_cell(encoder: EncoderConfig, *, phase: int) -> np.ndarray:
    """The tokens that dual masking selects for the decoder, bool (N,): two neighbours of each 2 x 2 cell at every time.

    The pair advances around the cell from time to time, so that every position is selected at exactly half of them.
    """
    row_H1 = np.arange(encoder.grid_size)[:, None] % 2
    column_1W = np.arange(encoder.grid_size)[None] % 2
    corner_HW = np.where(row_H1 == 0, column_1W, 3 - column_1W)  # clockwise: 0 1 / 3 2
    step_T11 = (np.arange(encoder.grid_t) + phase)[:, None, None]
    return ((corner_HW - step_T11) % _PHASES < _PHASES // 2).reshape(-1)


def _all_times(positions_P: np.ndarray, encoder: EncoderConfig) -> np.ndarray:
    """Token indices of the given spatial positions at every time."""
    starts_T1 = np.arange(encoder.grid_t, dtype=np.int64)[:, None] * encoder.patches_per_frame
    return (starts_T1 + np.sort(positions_P)).reshape(-1)


def _all_positions(times_T: np.ndarray, encoder: EncoderConfig) -> np.ndarray:
    """Token indices of all positions at the given times."""
    starts_T1 = np.sort(times_T).astype(np.int64)[:, None] * encoder.patches_per_frame
    return (starts_T1 + np.arange(encoder.patches_per_frame)).reshape(-1)
