"""How an object moves: its position, size, angle and shear at every frame of a clip.

Lengths are in halves of the frame's side, angles in radians, time in clips, from -0.5 at the first frame to 0.5.

In the eight single motions nothing but the motion depends on the class. The position is uniform on a torus (the frame,
whose opposite edges touch) and the angle on the circle, so at every instant both are independent of the motion. The
size is drawn at a random instant of the clip, and objects that keep their size get it from the same distribution: in
the middle of the clip it is independent of the class, at the ends it says a little of growing and shrinking.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TRAVEL = (0.5, 1.1)  # in a clip
GROWTH = (0.4, 0.8)  # of the logarithm of the size
TURN = 2.2  # radians for a travel of 1
SIZE = (0.4, 0.55)  # radius at the instant of drawing
_INSTANT = 0.25  # sizes are drawn at an instant from -0.25 to 0.25


class Motion(enum.Enum):
    """The eight single motions; the value is the name of the class."""

    RIGHT = "right"
    LEFT = "left"
    DOWN = "down"
    UP = "up"
    GROW = "grow"
    SHRINK = "shrink"
    CLOCKWISE = "clockwise"
    COUNTER = "counterclockwise"


MOTIONS = tuple(Motion)
_DIRECTIONS = {Motion.RIGHT: (1, 0), Motion.LEFT: (-1, 0), Motion.DOWN: (0, 1), Motion.UP: (0, -1)}
_GROWTH = {Motion.GROW: 1, Motion.SHRINK: -1}
_TURN = {Motion.CLOCKWISE: 1, Motion.COUNTER: -1}


@dataclass(frozen=True, kw_only=True)
class Track:
    """An object's state at every frame: centre (x to the right, y down), radius, angle (clockwise)."""

    x_T: Floats
    y_T: Floats
    radius_T: Floats
    angle_T: Floats


def draw_track(rng: np.random.Generator, motion: Motion | None, *, frames: int) -> Track:
    """Draw the track of an object that performs `motion`, or stands still."""
    x, y, turned, travel, growth, instant, spread, size = rng.random(8).tolist()
    time_T = np.arange(frames) / max(1, frames - 1) - 0.5
    travel = TRAVEL[0] + (TRAVEL[1] - TRAVEL[0]) * travel
    growth = GROWTH[0] + (GROWTH[1] - GROWTH[0]) * growth
    instant = _INSTANT * (2 * instant - 1)
    along_x, along_y = _DIRECTIONS.get(motion, (0, 0)) if motion else (0, 0)
    grows = _GROWTH.get(motion, 0) if motion else 0
    turns = _TURN.get(motion, 0) if motion else 0
    size = math.log(SIZE[0]) + math.log(SIZE[1] / SIZE[0]) * size
    if grows:
        size_T = size + grows * growth * (time_T - instant)
    else:
        size_T = np.full(frames, size - math.copysign(growth * instant, spread - 0.5))
    return Track(
        x_T=2 * x - 1 + along_x * travel * time_T,
        y_T=2 * y - 1 + along_y * travel * time_T,
        radius_T=np.exp(size_T),
        angle_T=2 * math.pi * turned + turns * TURN * travel * time_T,
    )
