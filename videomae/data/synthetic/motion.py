"""How an object moves: its position, size, angle and shear at every frame of a clip.

Lengths are in halves of the frame's side, angles in radians, time in clips, from -0.5 at the first frame to 0.5.

In the eight single motions nothing but the motion depends on the class. The position is uniform on a torus (the frame,
whose opposite edges touch) and the angle on the circle, so at every instant both are independent of the motion. The
size is drawn at a random instant of the clip, and objects that keep their size get it from the same distribution: in
the middle of the clip it is independent of the class, at the ends it says a little of growing and shrinking.

Beside them stands a pair that no two instants tell apart unless the object turns back between them: one that passes in
any of the four directions, and one that strikes, that is, moves as fast there and back.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videomae.data.synthetic.config import SyntheticConfig

Floats = NDArray[np.float64]

TRAVEL = (0.7, 1.3)  # in a clip
GROWTH = (0.5, 0.9)  # of the logarithm of the radius, in a clip
TURN = 2.2  # radians for a travel of 1
SHEAR = 0.5  # largest, at the ends of a clip
_INSTANT = 0.25  # sizes are drawn at an instant from -0.25 to 0.25


class Motion(enum.Enum):
    """The motions that are classes of labelled sets; the value is the name of the class."""

    RIGHT = "right"
    LEFT = "left"
    DOWN = "down"
    UP = "up"
    GROW = "grow"
    SHRINK = "shrink"
    CLOCKWISE = "clockwise"
    COUNTER = "counterclockwise"
    PASS = "pass"
    STRIKE = "strike"


PAIR = (Motion.PASS, Motion.STRIKE)
MOTIONS = tuple(motion for motion in Motion if motion not in PAIR)  # the eight single motions
_DIRECTIONS = {Motion.RIGHT: (1, 0), Motion.LEFT: (-1, 0), Motion.DOWN: (0, 1), Motion.UP: (0, -1)}
_GROWTH = {Motion.GROW: 1, Motion.SHRINK: -1}
_TURN = {Motion.CLOCKWISE: 1, Motion.COUNTER: -1}


@dataclass(frozen=True, kw_only=True)
class Track:
    """An object's state at every frame: centre (x to the right, y down), radius, angle (clockwise) and shear."""

    x_T: Floats
    y_T: Floats
    radius_T: Floats
    angle_T: Floats
    shear_T: Floats


def draw_track(
    rng: np.random.Generator, config: SyntheticConfig, *, frames: int, motion: Motion | None = None
) -> Track:
    """Draw the track of an object; with config.motion=single it performs `motion`, or one that is drawn.

    Every kind of motion takes as many random numbers.
    """
    time_T = np.arange(frames) / max(1, frames - 1) - 0.5
    x, y, angle, travel, growth, size, kind, instant = rng.random(8).tolist()
    free = rng.random(6).tolist()
    log_radius = _between(math.log(config.radius[0]), math.log(config.radius[1]), size)
    placed = {"x": 2 * x - 1, "y": 2 * y - 1, "radius": log_radius, "angle": 2 * math.pi * angle}
    if config.motion == "single":
        motion = motion or MOTIONS[int(kind * len(MOTIONS))]
        return _single(time_T, placed, motion, (travel, growth, instant, free[0], free[1]))
    return _free(time_T, placed, config, (travel, *free))


def _single(time_T: Floats, placed: dict[str, float], motion: Motion, drawn: tuple[float, ...]) -> Track:
    travel, growth = _between(*TRAVEL, drawn[0]), _between(*GROWTH, drawn[1])
    instant = _INSTANT * (2 * drawn[2] - 1)
    any_direction = tuple(_DIRECTIONS.values())[int(drawn[4] * len(_DIRECTIONS))]
    to_right, down = any_direction if motion in PAIR else _DIRECTIONS.get(motion, (0, 0))
    path_T = travel * (np.abs(time_T - instant) if motion is Motion.STRIKE else time_T)
    grows, turns = _GROWTH.get(motion, 0), _TURN.get(motion, 0)
    log_radius_T = placed["radius"] + grows * growth * (time_T - instant)
    if not grows:
        log_radius_T += math.copysign(growth * instant, drawn[3] - 0.5)
    return Track(
        x_T=placed["x"] + to_right * path_T,
        y_T=placed["y"] + down * path_T,
        radius_T=np.exp(log_radius_T),
        angle_T=placed["angle"] + turns * TURN * travel * time_T,
        shear_T=np.zeros(len(time_T)),
    )


def _free(time_T: Floats, placed: dict[str, float], config: SyntheticConfig, drawn: tuple[float, ...]) -> Track:
    travel, direction, push, aside, growth, turn, shear = drawn
    moves, bends = config.motion != "still", config.motion in ("accelerated", "transforming")
    transforms = 1.0 if config.motion == "transforming" else 0.0
    velocity = _between(*TRAVEL, travel) * moves
    pull = 2 * _between(*TRAVEL, push) * bends
    along, across = 2 * math.pi * direction, 2 * math.pi * aside
    log_radius_T = placed["radius"] + transforms * GROWTH[1] * (2 * growth - 1) * time_T
    return Track(
        x_T=placed["x"] + velocity * math.cos(along) * time_T + 0.5 * pull * math.cos(across) * time_T**2,
        y_T=placed["y"] + velocity * math.sin(along) * time_T + 0.5 * pull * math.sin(across) * time_T**2,
        radius_T=np.exp(log_radius_T),
        angle_T=placed["angle"] + transforms * TURN * TRAVEL[1] * (2 * turn - 1) * time_T,
        shear_T=transforms * 2 * SHEAR * (2 * shear - 1) * time_T,
    )


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
