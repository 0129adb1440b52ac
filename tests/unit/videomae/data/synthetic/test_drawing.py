"""Drawn clips: a function of the generator, moving as their class says, and saying little of it in a single frame."""

import numpy as np
import pytest

from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.drawing import draw_clip
from videomae.data.synthetic.motion import MOTIONS, Motion, draw_track

CLEAN = SyntheticConfig(noise=0)


@pytest.mark.parametrize("config", [SyntheticConfig(), SyntheticConfig(shapes="circles", textures="plain", noise=0)])
def test_a_clip_is_a_function_of_its_generator(config: SyntheticConfig) -> None:
    first, again, other = (draw_clip(config, np.random.default_rng(seed), frames=4, size=32) for seed in (1, 1, 2))
    assert first.shape == (4, 32, 32, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_clip_is_drawn_into_the_memory_that_is_given() -> None:
    memory = np.zeros((2, 4, 48, 48, 3), np.uint8)
    draw_clip(CLEAN, np.random.default_rng(0), frames=4, size=48, out=memory[1])
    assert np.array_equal(memory[1], draw_clip(CLEAN, np.random.default_rng(0), frames=4, size=48))
    assert not memory[0].any()


def test_what_leaves_on_one_side_comes_in_on_the_other() -> None:
    """The area that differs from the background stays the same while a disc crosses the edge."""
    config = SyntheticConfig(shapes="circles", textures="plain", noise=0)
    for seed in range(3):
        clip_THWC = draw_clip(config, np.random.default_rng(seed), frames=8, size=64, motion=Motion.RIGHT).astype(int)
        values, counts = np.unique(clip_THWC.reshape(-1, 3), axis=0, return_counts=True)
        background = values[counts.argmax()]
        areas_T = (np.abs(clip_THWC - background).sum(-1) > 0).sum((1, 2))
        assert areas_T.max() - areas_T.min() <= 0.1 * areas_T.mean()


def test_noise_moves_each_channel_by_its_deviation_and_no_carry_reaches_the_next() -> None:
    quiet, noisy = (
        draw_clip(SyntheticConfig(noise=noise, textures="plain"), np.random.default_rng(3), frames=8, size=64)
        for noise in (0.0, 10.0)
    )
    change = noisy.astype(int) - quiet
    assert 9 < change.std() < 11
    assert np.abs(change).max() <= 31
    assert (change == change[..., :1]).all()


@pytest.mark.parametrize("motion", [*MOTIONS, None])
def test_tracks_change_in_nothing_but_their_motion(motion: Motion | None) -> None:
    track = draw_track(np.random.default_rng(5), motion, frames=8)
    steps = {
        name: np.diff(values) for name, values in vars(track).items()
    }  # of x, y, radius and angle, in the order of the classes
    moving = {name: float(np.sign(values[0])) for name, values in steps.items() if np.abs(values).max() > 1e-12}
    expected = {
        Motion.RIGHT: {"x_T": 1.0},
        Motion.LEFT: {"x_T": -1.0},
        Motion.DOWN: {"y_T": 1.0},
        Motion.UP: {"y_T": -1.0},
        Motion.GROW: {"radius_T": 1.0},
        Motion.SHRINK: {"radius_T": -1.0},
        Motion.CLOCKWISE: {"angle_T": 1.0},
        Motion.COUNTER: {"angle_T": -1.0},
        None: {},
    }
    assert moving == expected[motion]


def test_sizes_in_the_middle_of_the_clip_are_distributed_alike_in_every_class() -> None:
    rng = np.random.default_rng(0)
    tracks = [[draw_track(rng, motion, frames=3) for _ in range(800)] for motion in MOTIONS]
    means = [np.mean([np.log(track.radius_T[1]) for track in same]) for same in tracks]
    assert np.ptp(means) < 0.04
