"""Frame indices: inside the video, spread as promised, fixed without a generator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomae.data.transforms.frame_sampling import dense_clip, multi_view_clips, uniform_segments

totals, frames, strides, seeds = st.integers(1, 400), st.integers(1, 40), st.integers(1, 8), st.integers(0, 99)


@given(totals, frames, strides, seeds, st.booleans())
def test_indices_are_inside_in_order_and_reproducible(
    total: int, count: int, stride: int, seed: int, random: bool
) -> None:
    def rng() -> np.random.Generator | None:
        return np.random.default_rng(seed) if random else None

    for choose in (
        lambda: uniform_segments(total, count, rng()),
        lambda: dense_clip(total, count, stride, rng()),
    ):
        indices = choose()
        assert indices.shape == (count,)
        assert indices.dtype == np.int64
        assert (np.diff(indices) >= 0).all()
        assert indices[0] >= 0
        assert indices[-1] < total
        assert np.array_equal(indices, choose())


@given(totals, frames, st.one_of(st.none(), strides), st.integers(1, 6))
def test_views_are_inside_and_in_order(total: int, count: int, stride: int | None, clips: int) -> None:
    indices = multi_view_clips(total, count, stride, clips)
    assert indices.shape == (clips, count)
    assert (np.diff(indices, axis=1) >= 0).all()
    assert (np.diff(indices, axis=0) >= 0).all()
    assert indices.min() >= 0
    assert indices.max() < total


def test_one_frame_of_every_segment() -> None:
    for seed in range(50):
        indices = uniform_segments(64, 8, np.random.default_rng(seed))
        assert np.array_equal(indices // 8, np.arange(8))
    assert uniform_segments(64, 8, None).tolist() == [4, 12, 20, 28, 36, 44, 52, 60]


def test_dense_starts_reach_both_ends() -> None:
    starts = {int(dense_clip(20, 4, 3, np.random.default_rng(seed))[0]) for seed in range(300)}
    assert starts == set(range(11))
    assert dense_clip(20, 4, 3, None).tolist() == [5, 8, 11, 14]
    assert dense_clip(5, 4, 3, None).tolist() == [0, 1, 3, 4]  # too short for the stride: the whole of it


def test_views_reach_both_ends() -> None:
    assert multi_view_clips(100, 4, 10, 3)[:, 0].tolist() == [0, 34, 69]
    assert multi_view_clips(100, 4, 10, 1).tolist() == [dense_clip(100, 4, 10, None).tolist()]
    assert multi_view_clips(100, 5, None, 1).tolist() == [uniform_segments(100, 5, None).tolist()]


@pytest.mark.parametrize("call", [(0, 4), (4, 0)])
def test_nothing_to_choose_is_an_error(call: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        uniform_segments(*call, None)
