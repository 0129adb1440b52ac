"""Tube masks: exact counts, the same positions in every temporal slice, every token once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.masking import MaskConfig, draw_mask, hidden_positions
from videomae.encoder import EncoderConfig


def test_the_published_setting_shows_160_and_hides_1408_tokens() -> None:
    mask = draw_mask(MaskConfig(ratio=0.9), EncoderConfig(), np.random.default_rng(0))
    assert len(mask.visible_V) == 160
    assert len(mask.hidden_H) == 1408


@given(
    ratio=st.floats(0.05, 0.95),
    side=st.integers(4, 14),
    slices=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_counts_are_exact_and_positions_run_through_time(ratio: float, side: int, slices: int, seed: int) -> None:
    encoder = EncoderConfig(frames=2 * slices, size=4 * side, patch=4)
    config = MaskConfig(ratio=ratio)
    if int(ratio * side * side) == 0:
        with pytest.raises(ValueError, match="hides 0 of"):
            hidden_positions(config, encoder)
        return
    mask = draw_mask(config, encoder, np.random.default_rng(seed))
    hidden = mask.hidden_H.reshape(slices, -1)
    assert hidden.shape[1] == int(ratio * side * side)
    assert (hidden % encoder.positions == hidden[0]).all()
    assert sorted([*mask.visible_V, *mask.hidden_H]) == list(range(encoder.tokens))


def test_every_position_is_hidden_equally_often() -> None:
    encoder = EncoderConfig(frames=2, size=16, patch=4)
    rng = np.random.default_rng(0)
    counts = np.zeros(16)
    for _ in range(4000):
        counts[draw_mask(MaskConfig(ratio=0.5), encoder, rng).hidden_H] += 1
    assert np.abs(counts / 4000 - 0.5).max() < 0.04  # five deviations of a binomial
