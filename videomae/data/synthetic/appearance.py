"""What an object looks like: its outline and its texture, and the sprite that both make.

Shapes: H height, W width, C channels, R side of a sprite. Outlines lie within a circle of radius 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Outline = tuple[NDArray[np.float64], ...]  # closed polygons, (points, 2) each; a second one cuts a hole

EXTENT = 1.08  # half side of a sprite, in radii: room for the antialiased edge
_FIXED_POINT = 4  # binary places of the vertices that OpenCV gets


def noise(rng: np.random.Generator, size: int, *, coarse: float) -> Floats:
    """Draw noise_HWC of zero mean and unit deviation; an octave is `coarse` times as strong as the next finer one.

    The spectrum falls as frequency^-(1 + log2(coarse)).
    """
    side = 2
    sum_HWC = rng.random((side, side, 3), dtype=np.float32) - np.float32(0.5)
    while side < size:
        side = min(2 * side, size)
        finer_HWC = rng.random((side, side, 3), dtype=np.float32)
        finer_HWC -= np.float32(0.5)
        sum_HWC *= np.float32(coarse)
        sum_HWC = cv2.resize(sum_HWC, (side, side), interpolation=cv2.INTER_LINEAR)
        sum_HWC += finer_HWC
    mean, deviation = cv2.meanStdDev(sum_HWC.reshape(-1, 1))
    sum_HWC -= np.float32(mean[0, 0])
    sum_HWC *= np.float32(1 / max(float(deviation[0, 0]), 1e-6))
    return cast(Floats, sum_HWC)


@dataclass(frozen=True, kw_only=True)
class TextureRange:
    """What textures are drawn from: the mean colour's channels, of 255, the noise's deviation and its coarseness."""

    tint: tuple[float, float]
    contrast: float
    coarse: float


def texture(rng: np.random.Generator, size: int, drawn_from: TextureRange, *, margin: int) -> NDArray[np.uint8]:
    """Draw texture_HWC; its values keep a `margin` from 0 and from 255."""
    colour_C = rng.uniform(*drawn_from.tint, 3).astype(np.float32)
    if not drawn_from.contrast:
        return np.broadcast_to(colour_C.astype(np.uint8), (size, size, 3)).copy()
    texture_HWC = noise(rng, size, coarse=drawn_from.coarse)
    texture_HWC *= np.float32(drawn_from.contrast)
    texture_HWC += colour_C
    return cast(NDArray[np.uint8], cv2.convertScaleAbs(np.clip(texture_HWC, margin, 255 - margin, out=texture_HWC)))


def polar(radius_N: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """The polygon whose radius at evenly spaced angles is `radius_N`."""
    angle_N = 2 * math.pi * np.arange(points) / points
    return np.stack([radius_N * np.cos(angle_N), radius_N * np.sin(angle_N)], axis=1)


def _regular(corners: int) -> Outline:
    return (polar(np.ones(corners), corners),)


def _box(width: float, height: float) -> NDArray[np.float64]:
    return np.array([[-width, -height], [width, -height], [width, height], [-width, height]])


@functools.cache
def outlines() -> tuple[Outline, ...]:
    """Disc, square, triangle, flower, ring, cross, bar and half disc."""
    circle = polar(np.ones(48), 48)
    angle_N = 2 * math.pi * np.arange(60) / 60
    flower = polar((0.45 + 0.55 * np.abs(np.cos(2.5 * angle_N))), 60)
    arm, end = 0.3, 0.95
    corners = [(arm, -end), (arm, -arm), (end, -arm), (end, arm), (arm, arm), (arm, end)]
    cross = np.array([*corners, *[(-x, -y) for x, y in corners]])
    half = polar(np.ones(48), 48)[:25] - np.array([0.0, 0.4])
    shapes: Sequence[Outline] = (
        (circle,),
        _regular(4),
        _regular(3),
        (flower,),
        (circle, 0.45 * circle),
        (cross,),
        (_box(0.96, 0.28),),
        (half,),
    )
    return tuple(shapes)


def sprite(outline: Outline, texture_HWC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cut the outline out of the texture: sprite_RR4, RGB multiplied by the coverage and the coverage itself."""
    cover_RR = np.zeros((side, side), np.uint8)
    scale = side / (2 * EXTENT) * 2**_FIXED_POINT
    centre = (side - 1) / 2 * 2**_FIXED_POINT
    polygons = [np.rint(points * scale + centre).astype(np.int32) for points in outline]
    cv2.fillPoly(cover_RR, cast(Any, polygons), 255, lineType=cv2.LINE_AA, shift=_FIXED_POINT)
    colour_RRC = cv2.resize(texture_HWC, (side, side), interpolation=cv2.INTER_LINEAR)
    colour_RRC = cv2.multiply(colour_RRC, cv2.merge([cover_RR] * 3), scale=1 / 255)
    return cast(NDArray[np.uint8], cv2.merge([*cv2.split(colour_RRC), cover_RR]))
