"""Masks: exact and equal counts, the pattern that each kind promises, every token in its place."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.masking import Mask, MaskConfig, draw_mask, hidden_count, running_cell
from videomae.models.encoder import EncoderConfig


def draw(config: MaskConfig, encoder: EncoderConfig, seed: int = 0) -> Mask:
    return draw_mask(config, encoder, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", ["tube", "random"])
def test_the_published_setting_shows_a_tenth_and_hides_the_rest(kind: Any) -> None:
    mask = draw(MaskConfig(kind=kind, ratio=0.9), EncoderConfig())
    assert (len(mask.visible_V), len(mask.hidden_H)) == {"tube": (160, 1408), "random": (157, 1411)}[kind]
    assert len(mask.ignored_S) == 0


@given(
    kind=st.sampled_from(["tube", "random", "frame"]),
    ratio=st.floats(0.05, 0.95),
    side=st.integers(4, 14),
    slices=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_counts_are_exact_and_every_token_is_visible_or_hidden(
    kind: Any, ratio: float, side: int, slices: int, seed: int
) -> None:
    encoder = EncoderConfig(frames=2 * slices, size=4 * side, patch=4)
    config = MaskConfig(kind=kind, ratio=ratio)
    total = {"tube": side * side, "random": encoder.num_patches, "frame": slices}[kind]
    if int(ratio * total) == 0:
        with pytest.raises(ValueError, match="hides 0 of"):
            hidden_count(config, encoder)
        return
    mask = draw(config, encoder, seed)
    assert sorted([*mask.visible_V, *mask.hidden_H]) == list(range(encoder.num_patches))
    assert len(mask.hidden_H) == int(ratio * total) * encoder.num_patches // total
    assert mask.visible_V.dtype == mask.hidden_H.dtype == mask.ignored_S.dtype == np.int64
    assert (np.diff(mask.visible_V) > 0).all()
    assert (np.diff(mask.hidden_H) > 0).all()
    if kind == "tube":  # the same positions in every slice
        hidden = mask.hidden_H.reshape(slices, -1)
        assert (hidden % encoder.patches_per_frame == hidden[0]).all()
    if kind == "frame":  # all positions of a slice, or none
        assert (
            np.bincount(mask.hidden_H // encoder.patches_per_frame, minlength=slices) % encoder.patches_per_frame == 0
        ).all()


@pytest.mark.parametrize("kind", ["tube", "random", "frame"])
def test_every_token_is_hidden_equally_often(kind: Any) -> None:
    encoder = EncoderConfig(frames=4, size=16, patch=4)
    config = MaskConfig(kind=kind, ratio=0.5)
    rng = np.random.default_rng(0)
    counts = np.zeros(encoder.num_patches)
    for _ in range(4000):
        counts[draw_mask(config, encoder, rng).hidden_H] += 1
    assert np.abs(counts / 4000 - 0.5).max() < 0.04  # five deviations of a binomial


@given(
    ratio=st.floats(0.1, 0.95),
    side=st.integers(4, 14),
    rounds=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_dual_masking_has_mask_tokens_at_exactly_half_of_all_places(
    ratio: float, side: int, rounds: int, seed: int
) -> None:
    encoder = EncoderConfig(frames=8 * rounds, size=4 * side, patch=4)
    plain = draw(MaskConfig(ratio=ratio), encoder, seed)
    dual = draw(MaskConfig(ratio=ratio, decoder="running_cell"), encoder, seed)
    assert np.array_equal(dual.visible_V, plain.visible_V)  # the encoder sees the same
    assert len(dual.hidden_H) * 2 == len(plain.hidden_H)
    assert len(dual.ignored_S) * 2 == len(plain.visible_V)
    assert np.isin(dual.hidden_H, plain.hidden_H).all()
    assert np.isin(dual.ignored_S, plain.visible_V).all()


def test_the_running_cell_keeps_two_neighbours_and_goes_round_in_four_slices() -> None:
    encoder = EncoderConfig(frames=8, size=16, patch=4)
    for phase in range(4):
        kept_THW = running_cell(encoder, phase=phase).reshape(4, 4, 4)
        cell_T22 = kept_THW[:, :2, :2]
        assert (kept_THW == np.tile(cell_T22, (1, 2, 2))).all()
        assert (cell_T22.sum((1, 2)) == 2).all()
        assert (cell_T22.sum(0) == 2).all()
        assert len({cell.tobytes() for cell in cell_T22}) == 4
        diagonals = cell_T22[:, 0, 0] & cell_T22[:, 1, 1] | cell_T22[:, 0, 1] & cell_T22[:, 1, 0]
        assert not diagonals.any()
    first = [running_cell(encoder, phase=phase)[:2].tolist() for phase in range(4)]
    assert len({tuple(pair) for pair in first}) == 4


def test_all_four_phases_are_drawn() -> None:
    encoder = EncoderConfig(frames=8, size=16, patch=4)
    config = MaskConfig(ratio=0.5, decoder="running_cell")
    kept = [np.concatenate([mask.hidden_H, mask.ignored_S]) for mask in (draw(config, encoder, n) for n in range(40))]
    assert len({np.sort(part).tobytes() for part in kept}) == 4


@pytest.mark.parametrize("decoder", ["all", "running_cell"])
def test_a_share_predicts_a_random_part_and_leaves_the_encoder_as_it_was(
    decoder: Literal["all", "running_cell"],
) -> None:
    encoder = EncoderConfig(frames=8, size=16, patch=4)
    config = MaskConfig(ratio=0.75, decoder=decoder)
    counts = np.zeros(encoder.num_patches)
    for seed in range(200):
        whole = draw(config, encoder, seed)
        part = draw_mask(config, encoder, np.random.default_rng(seed), share=0.25)
        assert np.array_equal(part.visible_V, whole.visible_V)
        assert np.isin(part.hidden_H, whole.hidden_H).all()
        assert (np.diff(part.hidden_H) > 0).all()
        assert part.hidden_H.dtype == np.int64
        assert (len(part.hidden_H), len(part.ignored_S)) == (round(0.25 * len(whole.hidden_H)), 0)
        counts[part.hidden_H] += 1
    assert counts.min() > 0  # every patch is predicted for some clip
    assert len(draw_mask(config, encoder, np.random.default_rng(0), share=1e-6).hidden_H) == 1


def test_what_cannot_be_exact_is_refused() -> None:
    with pytest.raises(ValueError, match="only with tube masks"):
        MaskConfig(kind="random", decoder="running_cell")
    with pytest.raises(ValueError, match="multiple of 8"):
        hidden_count(MaskConfig(decoder="running_cell"), EncoderConfig(frames=4))
    with pytest.raises(ValueError, match="of the 2 times"):
        hidden_count(MaskConfig(kind="frame", ratio=0.4), EncoderConfig(frames=4))


@torch.no_grad()
def test_ignored_mask_tokens_are_seen_by_the_decoder_and_not_predicted() -> None:
    encoder = EncoderConfig(frames=8, size=16, patch=4, dim=16, depth=1, heads=2)
    model = MaskedAutoencoder(encoder, DecoderConfig(dim=16, depth=1, heads=2)).eval()
    mask = draw(MaskConfig(ratio=0.75, decoder="running_cell"), encoder)
    visible_BV, hidden_BH, ignored_BS = (
        torch.from_numpy(part)[None] for part in (mask.visible_V, mask.hidden_H, mask.ignored_S)
    )
    patches_BVP = torch.randn(1, len(mask.visible_V), encoder.patch_dim)
    with_ignored = model(patches_BVP, visible_BV, hidden_BH, ignored_BS)
    without = model(patches_BVP, visible_BV, hidden_BH)
    assert with_ignored.shape == without.shape == (1, len(mask.hidden_H), encoder.patch_dim)
    assert (with_ignored - without).abs().max() > 1e-6
    torch.testing.assert_close(model(patches_BVP, visible_BV, hidden_BH, ignored_BS[:, :0]), without)
