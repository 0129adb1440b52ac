"""The outlines of objects, and the sprites that are cut along them out of a texture.

Outlines lie within a circle of radius 1. Shapes: H height, W width, C channels, R side of a sprite.
"""

from __future__ import annotations

import functools
import math
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # the corners of a closed polygon, (corners, 2)
Outline = tuple[Points, ...]  # a second polygon cuts a hole

EXTENT = 1.08  # half side of a sprite, in radii: room for the antialiased edge
_FIXED_POINT = 4  # binary places of the corners that OpenCV gets


@functools.cache
def outlines() -> tuple[Outline, ...]:
    """Disc, square, triangle, flower, ring, cross, bar and half disc."""
    circle, angle_N = _polar(np.ones(48)), _angles(60)
    arm, end = 0.3, 0.95
    corners = [(arm, -end), (arm, -arm), (end, -arm), (end, arm), (arm, arm), (arm, end)]
    return (
        (circle,),
        (_polar(np.ones(4)),),
        (_polar(np.ones(3)),),
        (_polar(0.45 + 0.55 * np.abs(np.cos(2.5 * angle_N))),),
        (circle, 0.45 * circle),
        (np.array([*corners, *[(-x, -y) for x, y in corners]]),),
        (np.array([(-0.96, -0.28), (0.96, -0.28), (0.96, 0.28), (-0.96, 0.28)]),),
        (circle[:25] - np.array([0.0, 0.4]),),
    )


def _angles(count: int) -> NDArray[np.float64]:
    return 2 * math.pi * np.arange(count) / count


def _polar(radius_N: NDArray[np.float64]) -> Points:
    """The polygon whose radius at evenly spaced angles is `radius_N`."""
    angle_N = _angles(len(radius_N))
    return np.stack([radius_N * np.cos(angle_N), radius_N * np.sin(angle_N)], axis=1)


def sprite(outline: Outline, texture_HWC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cut the outline out of the texture: sprite_RR4, RGB multiplied by the coverage and the coverage itself."""
    cover_RR = np.zeros((side, side), np.uint8)
    scale = side / (2 * EXTENT) * 2**_FIXED_POINT
    centre = (side - 1) / 2 * 2**_FIXED_POINT
    polygons = [np.rint(points * scale + centre).astype(np.int32) for points in outline]
    cv2.fillPoly(cover_RR, cast(Any, polygons), 255, lineType=cv2.LINE_AA, shift=_FIXED_POINT)
    colour_RRC = cv2.resize(texture_HWC, (side, side), interpolation=cv2.INTER_LINEAR)
    colour_RRC = cv2.multiply(colour_RRC, cv2.cvtColor(cover_RR, cv2.COLOR_GRAY2RGB), scale=1 / 255)
    return cast(NDArray[np.uint8], cv2.merge([*cv2.split(colour_RRC), cover_RR]))
