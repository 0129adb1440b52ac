"""Drawn clips: a function of the generator, moving as their class says, and saying little of it in a single frame."""

import numpy as np
import pytest

from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.drawing import draw_clip
from videomae.data.synthetic.motion import MOTIONS, PAIR, Motion, draw_track

CLEAN = SyntheticConfig(noise=0)


STAGES = {
    "static circles": SyntheticConfig(shapes="circles", motion="still", textures="plain", objects=(2, 4)),
    "moving shapes": SyntheticConfig(motion="constant", textures="plain", radius=(0.1, 0.4), noise=0),
    "accelerated": SyntheticConfig(motion="accelerated"),
    "transforming": SyntheticConfig(motion="transforming", textures="procedural", objects=(1, 6)),
    "single": SyntheticConfig(),
}


@pytest.mark.parametrize("config", STAGES.values(), ids=STAGES)
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
    track = draw_track(
        np.random.default_rng(5), SyntheticConfig(motion="single" if motion else "still"), frames=8, motion=motion
    )
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


@pytest.mark.parametrize(("frame", "low", "high"), [(0, 0.27, 0.34), (4, 0.125, 0.145), (8, 0.27, 0.34)])
def test_a_single_frame_says_little_of_the_motion(frame: int, low: float, high: float) -> None:
    """The best guess from an object's radius, on which alone the motion has an influence in a single frame."""
    rng, edges = np.random.default_rng(0), np.linspace(np.log(0.15), np.log(1.7), 24)
    radius_by_class = [
        [draw_track(rng, CLEAN, frames=9, motion=motion).radius_T[frame] for _ in range(2000)] for motion in MOTIONS
    ]
    share_by_class = [np.histogram(np.log(radii), edges)[0] / 2000 for radii in radius_by_class]
    assert low <= np.max(share_by_class, axis=0).sum() / len(MOTIONS) <= high


def test_a_strike_is_a_pass_that_turns_back_once() -> None:
    """With the same random numbers it differs in the way alone, is as fast, and has one of four directions."""
    directions = set()
    for number in range(40):
        passing, striking = (
            vars(draw_track(np.random.default_rng([7, number]), CLEAN, frames=24, motion=motion)) for motion in PAIR
        )
        assert all(np.array_equal(passing[name], striking[name]) for name in ("radius_T", "angle_T", "shear_T"))
        assert all(np.ptp(values) == 0 for name, values in passing.items() if name not in ("x_T", "y_T"))
        steps, other = (np.stack([np.diff(track["x_T"]), np.diff(track["y_T"])]) for track in (passing, striking))
        axis = int(np.abs(steps).max(axis=1).argmax())
        assert not steps[1 - axis].any()
        assert not other[1 - axis].any()
        np.testing.assert_allclose(steps[axis], steps[axis][0])
        back, forth = other[axis][:4], other[axis][-4:]
        np.testing.assert_allclose(back, -steps[axis][:4])
        np.testing.assert_allclose(forth, steps[axis][-4:])
        assert (np.diff(np.sign(other[axis])) != 0).sum() <= 2  # 2 where a step that turns back leads nowhere
        directions.add((axis, np.sign(steps[axis][0])))
    assert len(directions) == 4


@pytest.mark.parametrize("motion", [*MOTIONS, *PAIR])
def test_positions_and_angles_are_alike_in_every_class(motion: Motion) -> None:
    """Uniform on the torus and on the circle, at every instant: a quarter of them in each quarter."""
    tracks = [draw_track(np.random.default_rng([3, number]), CLEAN, frames=3, motion=motion) for number in range(400)]
    for name, period in (("x_T", 2), ("y_T", 2), ("angle_T", 2 * np.pi)):
        quarters_NT = (np.array([getattr(track, name) for track in tracks]) % period * 4 / period).astype(int)
        counts = np.array([np.bincount(quarters_T, minlength=4) for quarters_T in quarters_NT.T])
        assert np.abs(counts - 100).max() < 4.5 * np.sqrt(400 * 0.25 * 0.75)


def test_free_motion_is_as_its_stage_says() -> None:
    def steps(kind: str) -> dict[str, np.ndarray]:
        config = SyntheticConfig(motion=kind)  # pyright: ignore[reportArgumentType]
        return {
            name: np.diff(values)
            for name, values in vars(draw_track(np.random.default_rng(1), config, frames=9)).items()
        }

    still, constant, accelerated, transforming = map(steps, ("still", "constant", "accelerated", "transforming"))
    assert not any(values.any() for values in still.values())
    np.testing.assert_allclose(constant["x_T"], constant["x_T"][0])
    assert constant["x_T"][0] != 0
    np.testing.assert_allclose(np.diff(accelerated["x_T"]), np.diff(accelerated["x_T"])[0])
    assert abs(np.diff(accelerated["x_T"])[0]) > 1e-4
    assert [name for name, values in accelerated.items() if not values.any()] == ["radius_T", "angle_T", "shear_T"]
    assert all(values.any() for values in transforming.values())
