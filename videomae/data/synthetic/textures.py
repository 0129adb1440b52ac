"""Textures, drawn anew for every object and every background, so that there is no set of them to memorise.

Shapes: H height, W width, C channels (RGB). Values are of 255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.images import open_images

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_LEAVES = 48
_SMALLEST_LEAF = 0.06  # radius, of the texture's side


@dataclass(frozen=True, kw_only=True)
class Palette:
    """What textures of a clip's part are drawn from: the mean colour's channels, the noise's deviation and coarseness.

    An octave of the noise is `coarse` times as strong as the next finer one.
    """

    tint: tuple[int, int]
    contrast: float
    coarse: float


BACKGROUND = Palette(tint=(64, 191), contrast=15, coarse=1.5)
OBJECT = Palette(tint=(38, 217), contrast=40, coarse=1.15)


def texture(config: SyntheticConfig, rng: np.random.Generator, palette: Palette, size: int) -> Pixels:
    """Draw texture_HWC of the configured kind; no sensor noise takes its values out of 0..255."""
    margin = 1 + math.ceil(3 * config.noise)
    if config.textures == "images":
        texture_HWC = _recoloured(rng, open_images(str(config.images)).crop(rng, size))
    elif config.textures == "procedural":
        kinds = (_strong_noise, _gradient, _waves, _leaves)
        texture_HWC = kinds[int(rng.integers(len(kinds)))](rng, palette, size)
    else:
        texture_HWC = _tinted(rng, replace(palette, contrast=0) if config.textures == "plain" else palette, size)
    return cast(Pixels, cv2.convertScaleAbs(np.clip(texture_HWC, margin, 255 - margin, out=texture_HWC)))


def noise(rng: np.random.Generator, size: int, *, coarse: float) -> Floats:
    """Draw noise_HWC of zero mean and unit deviation, octave by octave from coarse to fine.

    The spectrum falls as frequency^-(1 + log2(coarse)).
    """
    side = 2
    sum_HWC = rng.random((side, side, 3), dtype=np.float32)
    while side < size:
        side = min(2 * side, size)
        finer_HWC = rng.random((side, side, 3), dtype=np.float32)
        sum_HWC *= np.float32(coarse)
        finer_HWC += cv2.resize(sum_HWC, (side, side), interpolation=cv2.INTER_LINEAR)
        sum_HWC = finer_HWC
    mean, deviation = cv2.meanStdDev(sum_HWC.reshape(-1, 1))
    sum_HWC -= np.float32(mean[0, 0])
    sum_HWC *= np.float32(1 / max(float(deviation[0, 0]), 1e-6))
    return sum_HWC


def _colour(rng: np.random.Generator, palette: Palette) -> Floats:
    return rng.uniform(*palette.tint, 3).astype(np.float32)


def _tinted(rng: np.random.Generator, palette: Palette, size: int) -> Floats:
    colour_C = _colour(rng, palette)
    if not palette.contrast:
        return np.broadcast_to(colour_C, (size, size, 3)).copy()
    texture_HWC = noise(rng, size, coarse=palette.coarse)
    texture_HWC *= np.float32(palette.contrast)
    texture_HWC += colour_C
    return texture_HWC


def _strong_noise(rng: np.random.Generator, palette: Palette, size: int) -> Floats:
    contrast, coarse = rng.uniform(10, 60), 2.0 ** rng.uniform(-0.3, 1.3)
    return _tinted(rng, replace(palette, contrast=contrast, coarse=coarse), size)


def _along(rng: np.random.Generator, size: int) -> Floats:
    """The coordinate in [-1, 1] along a random direction, along_HW1."""
    angle = rng.uniform(0, 2 * math.pi)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    along_HW = np.float32(math.cos(angle)) * line + np.float32(math.sin(angle)) * line[:, None]
    return (along_HW[..., None] / (abs(math.cos(angle)) + abs(math.sin(angle)))).astype(np.float32)


def _gradient(rng: np.random.Generator, palette: Palette, size: int) -> Floats:
    return _blend(rng, palette, _along(rng, size))


def _waves(rng: np.random.Generator, palette: Palette, size: int) -> Floats:
    cycles, phase = math.exp(rng.uniform(0, math.log(6))), rng.uniform(0, 2 * math.pi)
    return _blend(rng, palette, np.sin(np.float32(math.pi * cycles) * _along(rng, size) + np.float32(phase)))


def _blend(rng: np.random.Generator, palette: Palette, share_HW1: Floats) -> Floats:
    """A colour where the share is -1, another one where it is 1."""
    first_C, last_C = _colour(rng, palette), _colour(rng, palette)
    return (0.5 * (first_C + last_C + share_HW1 * (last_C - first_C))).astype(np.float32)


def _leaves(rng: np.random.Generator, palette: Palette, size: int) -> Floats:
    """Discs that cover one another, whose radii are distributed as radius^-3 (dead leaves, Lee et al. 2001)."""
    leaves_HWC = np.full((size, size, 3), _colour(rng, palette).astype(np.uint8))
    centres = (rng.random((_LEAVES, 2)) * size * 16).astype(np.int64).tolist()
    radii = (_SMALLEST_LEAF * size * 16 / np.sqrt(1 - 0.96 * rng.random(_LEAVES))).astype(np.int64).tolist()
    colours = rng.uniform(*palette.tint, (_LEAVES, 3)).tolist()
    for centre, radius, colour in zip(centres, radii, colours, strict=True):
        cv2.circle(leaves_HWC, centre, radius, colour, thickness=-1, lineType=cv2.LINE_AA, shift=4)
    return leaves_HWC.astype(np.float32)


def _recoloured(rng: np.random.Generator, image_HWC: Pixels) -> Floats:
    """The image with another brightness, contrast and colour cast, and perhaps mirrored."""
    gain_C = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
    shift = rng.uniform(-25, 25)
    mirrored = image_HWC[:, ::-1] if rng.random() < 0.5 else image_HWC
    return (mirrored * gain_C.astype(np.float32) + np.float32(shift)).astype(np.float32)
