"""Which tokens the encoder sees and the decoder predicts: index tensors of exact counts, equal for every sample.

A mask is drawn on the host from a random generator that depends on nothing but the sample's place in the run.

- tube (Tong et al. 2022, section 3.3) hides the same spatial positions in every temporal slice, so that what is hidden
  cannot be read off the neighbouring frames;
- random hides tokens anywhere, frame hides whole temporal slices (both of the ablation in table 1c);
- dual masking (Wang et al. 2023, VideoMAEv2, section 3.1) lets the decoder see mask tokens at half of all positions
  only, those that a cell of 2 x 2 running through time keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.models.encoder import EncoderConfig

_PHASES = 4  # places in the running cell, and slices until it stands as at first


@configclass
class MaskConfig:
    """How much is hidden, and in which pattern."""

    kind: Literal["tube", "random", "frame"] = "tube"
    ratio: float = (
        0.9  # the count hidden is int(ratio * n): of a slice's positions (tube), tokens (random), slices (frame)
    )
    decoder: Literal["all", "running_cell"] = "all"  # which hidden tokens are predicted; running_cell: dual masking

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise UserError(f"mask ratio must lie between 0 and 1, got {self.ratio}")
        if self.decoder == "running_cell" and self.kind != "tube":
            raise UserError(
                f"mask.decoder=running_cell needs tubes for its counts to be the same for every sample, "
                f"got mask.kind={self.kind}; set mask.kind=tube or mask.decoder=all"
            )


@dataclass(frozen=True)
class Mask:
    """Token indices of one clip, int64, each ascending.

    The encoder sees `visible_V`. The decoder predicts `hidden_H`: all others, or those of them that dual masking keeps.
    At `silent_S` it has mask tokens too whose predictions do not count, since the encoder has seen those places: empty
    but for dual masking.
    """

    visible_V: np.ndarray
    hidden_H: np.ndarray
    ignored_S: np.ndarray


def hidden_count(config: MaskConfig, encoder: EncoderConfig) -> int:
    """How many units are hidden: positions of each slice (tube), tokens (random) or slices (frame).

    Raises:
        UserError: the ratio hides nothing or leaves nothing visible, or the running cell does not close its round.
    """
    total, unit = {
        "tube": (encoder.patches_per_frame, f"positions of a {encoder.grid_size} x {encoder.grid_size} grid"),
        "random": (encoder.num_patches, "tokens"),
        "frame": (encoder.grid_t, "temporal slices"),
    }[config.kind]
    hidden = int(config.ratio * total)
    if not 0 < hidden < total:
        raise UserError(
            f"mask.ratio={config.ratio} hides {hidden} of the {total} {unit}; "
            "at least one must be hidden and one visible"
        )
    if config.decoder == "running_cell" and encoder.grid_t % _PHASES:
        raise UserError(
            f"mask.decoder=running_cell comes round after {_PHASES} temporal slices, got {encoder.grid_t}; "
            f"set encoder.frames to a multiple of {_PHASES * encoder.tubelet}"
        )
    return hidden


def draw_mask(config: MaskConfig, encoder: EncoderConfig, rng: np.random.Generator) -> Mask:
    """A mask of the configured kind, every choice of its units equally likely."""
    hidden = hidden_count(config, encoder)
    if config.kind == "random":
        shuffled_N = rng.permutation(encoder.num_patches)
        visible_V, hidden_H = np.sort(shuffled_N[hidden:]), np.sort(shuffled_N[:hidden])
    elif config.kind == "frame":
        shuffled_T = rng.permutation(encoder.grid_t)
        visible_V, hidden_H = (_slices(part, encoder) for part in (shuffled_T[hidden:], shuffled_T[:hidden]))
    else:
        shuffled_P = rng.permutation(encoder.patches_per_frame)
        visible_V, hidden_H = (_through_time(part, encoder) for part in (shuffled_P[hidden:], shuffled_P[:hidden]))
    if config.decoder == "all":
        return Mask(visible_V, hidden_H, ignored_S=np.empty(0, dtype=np.int64))
    kept_N = running_cell(encoder, phase=int(rng.integers(_PHASES)))
    return Mask(visible_V, hidden_H[kept_N[hidden_H]], ignored_S=visible_V[kept_N[visible_V]])


def running_cell(encoder: EncoderConfig, *, phase: int) -> np.ndarray:
    """Which tokens dual masking keeps for the decoder, bool (N,): two neighbours of each 2 x 2 cell in every slice.

    The pair steps round the cell from slice to slice, so that every position is kept in exactly half of the slices.
    """
    row_H1 = np.arange(encoder.grid_size)[:, None] % 2
    column_1W = np.arange(encoder.grid_size)[None] % 2
    place_HW = np.where(row_H1 == 0, column_1W, 3 - column_1W)  # 0 1 / 3 2: round the cell
    step_T11 = (np.arange(encoder.grid_t) + phase)[:, None, None]
    return ((place_HW - step_T11) % _PHASES < _PHASES // 2).reshape(-1)


def _through_time(positions_P: np.ndarray, encoder: EncoderConfig) -> np.ndarray:
    """Token indices of the given spatial positions in every temporal slice."""
    starts_T1 = np.arange(encoder.grid_t, dtype=np.int64)[:, None] * encoder.patches_per_frame
    return (starts_T1 + np.sort(positions_P)).reshape(-1)


def _slices(slices_T: np.ndarray, encoder: EncoderConfig) -> np.ndarray:
    """Token indices of all positions in the given temporal slices."""
    starts_T1 = np.sort(slices_T).astype(np.int64)[:, None] * encoder.patches_per_frame
    return (starts_T1 + np.arange(encoder.patches_per_frame)).reshape(-1)
