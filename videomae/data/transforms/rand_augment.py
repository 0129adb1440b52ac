"""RandAugment (Cubuk et al. 2020) on a clip: the same operations, with the same arguments, on every frame.

Follows timm's `auto_augment`: its settings string, its two tables of operations and the argument of every operation at
every level. In the default table posterize and solarize grow weaker with the level, and colour, contrast, brightness
and sharpness go from 0.1 to 1.9. In the increasing table (`-inc1`, the official VideoMAE recipes) all grow stronger.
Geometric operations interpolate bilinearly, where timm draws bilinear or bicubic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from videomae.core.errors import UserError
from videomae.core.torchvision_compat import transforms_v2

_SETTINGS = re.compile(r"^rand-m(?P<m>\d+)-n(?P<n>\d+)(-mstd(?P<mstd>\d+(\.\d+)?))?(-inc(?P<inc>[01]))?$")
_MAX_LEVEL = 10.0
_PROBABILITY = 0.5
_FILL = 128.0
_functional = transforms_v2.functional


@dataclass(frozen=True)
class RandAugmentSettings:
    """`num_layers` operations, drawn with replacement; levels from N(magnitude, magnitude_std), clipped to [0, 10]."""

    magnitude: int
    num_layers: int
    magnitude_std: float = 0.0
    increasing: bool = False

    @classmethod
    def parse(cls, text: str) -> RandAugmentSettings:
        """Parse a settings string such as rand-m7-n4-mstd0.5-inc1. Raises UserError if it is malformed."""
        match = _SETTINGS.match(text)
        if not match or int(match["m"]) > _MAX_LEVEL:
            raise UserError(
                f"got {text!r} for rand_augment; wanted a string such as 'rand-m7-n4-mstd0.5-inc1', with m from 0 to 10"
            )
        return cls(int(match["m"]), int(match["n"]), float(match["mstd"] or 0), match["inc"] == "1")


@dataclass(frozen=True)
class Operation:
    """An image operation and its argument as a function of the level (0..10) and a random sign (1 or -1)."""

    argument: Callable[[float, float], float]
    apply: Callable[[Tensor, float], Tensor]  # frames_TCHW and the argument


def rand_augment(frames_TCHW: Tensor, settings: str, rng: np.random.Generator) -> Tensor:
    """Apply randomly drawn operations, each with probability 0.5, to uint8 frames. Shape and dtype do not change."""
    parsed = RandAugmentSettings.parse(settings)
    operations = tuple((INCREASING_OPERATIONS if parsed.increasing else OPERATIONS).values())
    for number in rng.integers(len(operations), size=parsed.num_layers):
        applied = rng.random() < _PROBABILITY
        level = float(np.clip(rng.normal(parsed.magnitude, parsed.magnitude_std), 0, _MAX_LEVEL))
        sign = 1.0 if rng.random() < 0.5 else -1.0
        if applied:
            operation = operations[number]
            frames_TCHW = operation.apply(frames_TCHW, operation.argument(level, sign))
    return frames_TCHW


def _no_argument(level: float, sign: float) -> float:
    return 0.0


def _signed(maximum: float) -> Callable[[float, float], float]:
    return lambda level, sign: sign * level / _MAX_LEVEL * maximum


def _truncated(maximum: int) -> Callable[[float, float], float]:
    return lambda level, sign: int(level / _MAX_LEVEL * maximum)


def _enhance_factor(level: float, sign: float) -> float:
    return level / _MAX_LEVEL * 1.8 + 0.1


def _enhance_factor_increasing(level: float, sign: float) -> float:
    """A factor of 1 changes nothing."""
    return max(0.1, 1.0 + sign * level / _MAX_LEVEL * 0.9)


def _affine(
    frames_TCHW: Tensor,
    *,
    angle: float = 0.0,
    translate: tuple[float, float] = (0.0, 0.0),
    shear: tuple[float, float] = (0.0, 0.0),
    center: list[float] | None = None,
) -> Tensor:
    """Rotate counter-clockwise by degrees, shift by pixels and shear by slopes around `center` (default: centre)."""
    return _functional.affine(
        frames_TCHW,
        angle=-angle,
        translate=list(translate),
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in shear],
        interpolation=transforms_v2.InterpolationMode.BILINEAR,
        fill=[_FILL] * 3,
        center=center,
    )


def _solarize(frames_TCHW: Tensor, threshold: float) -> Tensor:
    # torchvision refuses 256, at which no pixel is inverted.
    return frames_TCHW if threshold > 255 else _functional.solarize(frames_TCHW, threshold)


def _solarize_add(frames_TCHW: Tensor, amount: float) -> Tensor:
    brighter = (frames_TCHW.int() + int(amount)).clamp(0, 255).to(frames_TCHW.dtype)
    return brighter.where(frames_TCHW < 128, frames_TCHW)


# The keys are timm's names. Shear maps from the top left corner, as PIL's affine transform does.
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(_no_argument, lambda frames, _: _functional.autocontrast(frames)),
    "Equalize": Operation(_no_argument, lambda frames, _: _functional.equalize(frames)),
    "Invert": Operation(_no_argument, lambda frames, _: _functional.invert(frames)),
    "Rotate": Operation(_signed(30.0), lambda frames, degrees: _affine(frames, angle=degrees)),
    "Posterize": Operation(_truncated(4), lambda frames, bits: _functional.posterize(frames, int(bits))),
    "Solarize": Operation(_truncated(256), _solarize),
    "SolarizeAdd": Operation(_truncated(110), _solarize_add),
    "Color": Operation(_enhance_factor, _functional.adjust_saturation),
    "Contrast": Operation(_enhance_factor, _functional.adjust_contrast),
    "Brightness": Operation(_enhance_factor, _functional.adjust_brightness),
    "Sharpness": Operation(_enhance_factor, _functional.adjust_sharpness),
    "ShearX": Operation(_signed(0.3), lambda frames, slope: _affine(frames, shear=(slope, 0.0), center=[0.0, 0.0])),
    "ShearY": Operation(_signed(0.3), lambda frames, slope: _affine(frames, shear=(0.0, slope), center=[0.0, 0.0])),
    "TranslateXRel": Operation(
        _signed(0.45), lambda frames, share: _affine(frames, translate=(-share * frames.shape[-1], 0.0))
    ),
    "TranslateYRel": Operation(
        _signed(0.45), lambda frames, share: _affine(frames, translate=(0.0, -share * frames.shape[-2]))
    ),
}
_INCREASING_ARGUMENTS: dict[str, Callable[[float, float], float]] = {
    "Posterize": lambda level, sign: 4 - _truncated(4)(level, sign),
    "Solarize": lambda level, sign: 256 - _truncated(256)(level, sign),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), _enhance_factor_increasing),
}
INCREASING_OPERATIONS: dict[str, Operation] = {
    name + "Increasing" if name in _INCREASING_ARGUMENTS else name: Operation(
        _INCREASING_ARGUMENTS.get(name, operation.argument), operation.apply
    )
    for name, operation in OPERATIONS.items()
}
