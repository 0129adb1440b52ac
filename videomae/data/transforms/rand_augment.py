"""RandAugment (Cubuk et al. 2020) on a clip: the same operations, of the same strength, on every frame.

Owns the settings string that timm made common, such as rand-m7-n4-mstd0.5: magnitude m of 10, n operations, magnitudes
spread by a normal distribution of deviation mstd. Each chosen operation is applied with probability one half.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from videomae.core.errors import UserError
from videomae.core.torchvision_compat import transforms_v2

_SETTINGS = re.compile(
    r"^rand-m(?P<magnitude>\d+(\.\d+)?)-n(?P<operations>\d+)(-mstd(?P<spread>\d+(\.\d+)?))?(-inc1)?$"
)
_MOST = 10.0
_PROBABILITY = 0.5
_functional = transforms_v2.functional
_Operation = Callable[[Tensor, float, float], Tensor]  # frames_TCHW, strength in [0, 1], sign


@dataclass(frozen=True)
class RandAugmentSettings:
    """`operations` drawn with replacement, of `magnitude` out of 10, spread by `spread`."""

    magnitude: float
    operations: int
    spread: float

    @classmethod
    def parse(cls, text: str) -> RandAugmentSettings:
        """Read a settings string. Raises ValueError if it is none."""
        match = _SETTINGS.match(text)
        if not match or float(match["magnitude"]) > _MOST:
            raise UserError(f"got {text!r}; wanted something like 'rand-m7-n4-mstd0.5', with m from 0 to 10")
        return cls(float(match["magnitude"]), int(match["operations"]), float(match["spread"] or 0))


def rand_augment(frames_TCHW: Tensor, settings: str, rng: np.random.Generator) -> Tensor:
    """Alter uint8 frames by randomly drawn operations; the picture's size and type stay."""
    parsed = RandAugmentSettings.parse(settings)
    for number in rng.integers(len(_OPERATIONS), size=parsed.operations):
        applied = rng.random() < _PROBABILITY
        strength = float(np.clip(rng.normal(parsed.magnitude, parsed.spread), 0, _MOST)) / _MOST
        sign = 1.0 if rng.random() < 0.5 else -1.0
        if applied:
            frames_TCHW = _OPERATIONS[number](frames_TCHW, strength, sign)
    return frames_TCHW


def _affine(
    frames_TCHW: Tensor,
    *,
    angle: float = 0.0,
    across: float = 0.0,
    down: float = 0.0,
    shear: tuple[float, float] = (0, 0),
) -> Tensor:
    height, width = frames_TCHW.shape[2:]
    shift = [float(round(across * width)), float(round(down * height))]
    bilinear = transforms_v2.InterpolationMode.BILINEAR
    degrees = [float(np.degrees(np.arctan(side))) for side in shear]
    return _functional.affine(
        frames_TCHW, angle=angle, translate=shift, scale=1.0, shear=degrees, interpolation=bilinear, fill=[128.0] * 3
    )


def _solarize_add(frames_TCHW: Tensor, strength: float, sign: float) -> Tensor:
    brighter = (frames_TCHW.int() + int(110 * strength)).clamp(0, 255).to(frames_TCHW.dtype)
    return brighter.where(frames_TCHW < 128, frames_TCHW)


# Ranges at full strength as in the paper's policies: 30 degrees, shear 0.3, shift 0.45 of a side, factor 1 +- 0.9.
_OPERATIONS: tuple[_Operation, ...] = (
    lambda frames, strength, sign: _functional.autocontrast(frames),
    lambda frames, strength, sign: _functional.equalize(frames),
    lambda frames, strength, sign: _functional.invert(frames),
    lambda frames, strength, sign: _affine(frames, angle=sign * 30 * strength),
    lambda frames, strength, sign: _functional.posterize(frames, max(1, int(4 * strength))),
    lambda frames, strength, sign: _functional.solarize(frames, float(int(256 * strength))),
    _solarize_add,
    lambda frames, strength, sign: _functional.adjust_saturation(frames, 1 + sign * 0.9 * strength),
    lambda frames, strength, sign: _functional.adjust_contrast(frames, 1 + sign * 0.9 * strength),
    lambda frames, strength, sign: _functional.adjust_brightness(frames, 1 + sign * 0.9 * strength),
    lambda frames, strength, sign: _functional.adjust_sharpness(frames, 1 + sign * 0.9 * strength),
    lambda frames, strength, sign: _affine(frames, shear=(sign * 0.3 * strength, 0.0)),
    lambda frames, strength, sign: _affine(frames, shear=(0.0, sign * 0.3 * strength)),
    lambda frames, strength, sign: _affine(frames, across=sign * 0.45 * strength),
    lambda frames, strength, sign: _affine(frames, down=sign * 0.45 * strength),
)
