"""The encoder: positions, token order, visible subsets, refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.tiny import TINY_ENCODER
from videomae.models.encoder import (
    EncoderConfig,
    VideoEncoder,
    patchify,
    position_table,
    sincos_table,
    take_tokens,
)
from videomae.models.transformer import DropPath, attend_in_products


def test_position_table_is_the_published_formula() -> None:
    table = sincos_table(50, 8).numpy()
    for index in (0, 1, 49):
        for channel in range(8):
            angle = index / 10000 ** (2 * (channel // 2) / 8)
            assert table[index, channel] == pytest.approx(
                np.sin(angle) if channel % 2 == 0 else np.cos(angle), abs=1e-6
            )


def test_positions_over_three_axes_concatenate_one_table_each() -> None:
    config = EncoderConfig(frames=4, size=24, tubelet=2, patch=8, dim=16, depth=1, heads=2, positions="sincos_3d")
    table_ND = position_table(config, 16)
    assert table_ND.shape == (2 * 3 * 3, 16)
    for t, h, w in ((0, 0, 0), (1, 0, 2), (1, 2, 1)):
        expected = torch.cat([
            sincos_table(2, 8, base=100)[t], sincos_table(3, 4, base=100)[h], sincos_table(3, 4, base=100)[w],
        ])  # fmt: skip
        torch.testing.assert_close(table_ND[(t * 3 + h) * 3 + w], expected, rtol=0, atol=0)
    assert len(table_ND.unique(dim=0)) == 18


def test_all_tokens_visible_equals_no_mask() -> None:
    torch.manual_seed(0)
    encoder = VideoEncoder(TINY_ENCODER).eval()
    video = torch.randn(2, 3, 4, 32, 32)
    everything = torch.arange(TINY_ENCODER.num_patches).expand(2, -1)
    torch.testing.assert_close(encoder(video, everything), encoder(video))


def test_the_embedding_is_the_convolution_of_the_published_models() -> None:
    torch.manual_seed(0)
    proj = VideoEncoder(TINY_ENCODER).patch_embed.proj
    video = torch.randn(2, 3, 4, 32, 32)
    expected = functional.conv3d(video, proj.weight, proj.bias, stride=proj.stride).flatten(2).transpose(1, 2)
    torch.testing.assert_close(proj(patchify(video, TINY_ENCODER)), expected, rtol=1e-5, atol=1e-5)


def test_rows_of_any_type_are_taken_per_sample() -> None:
    tokens = torch.arange(2 * 5 * 3, dtype=torch.uint8).view(2, 5, 3)
    index = torch.tensor([[4, 0], [1, 1]])
    assert torch.equal(take_tokens(tokens, index), torch.stack([tokens[0, index[0]], tokens[1, index[1]]]))


@pytest.mark.parametrize("tokens", [1, 26])
def test_attention_by_products_is_that_of_the_fused_operator(tokens: int) -> None:
    torch.manual_seed(0)
    products = [torch.randn(2, 3, count, 16).bfloat16().requires_grad_() for count in (tokens, 26, 26)]
    fused = [part.detach().float().requires_grad_() for part in products]
    attend: Any = functional.scaled_dot_product_attention
    expected, found = attend(*fused), attend_in_products(*products)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)
    expected.square().sum().backward()
    found.float().square().sum().backward()
    for one, other in zip(products, fused, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=0.05, atol=0.05)


def test_tokens_run_over_time_then_height_then_width() -> None:
    encoder = VideoEncoder(TINY_ENCODER)
    video = torch.zeros(1, 3, 4, 32, 32)
    video[:, :, 2:4, 8:16, 24:32] = 1  # slice 1, row 1, column 3
    with torch.no_grad():
        tokens, plain = (encoder.patch_embed(patchify(one, TINY_ENCODER)) for one in (video, torch.zeros_like(video)))
        difference = tokens - plain
    touched = difference.abs().sum(-1)[0].nonzero().flatten().tolist()
    assert touched == [1 * 16 + 1 * 4 + 3]


def test_the_keys_have_no_bias() -> None:
    attention: Any = VideoEncoder(TINY_ENCODER).blocks[0].attn
    assert attention.qkv.bias is None
    assert {name for name, _ in attention.named_parameters()} == {
        "q_bias", "v_bias", "qkv.weight", "proj.weight", "proj.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"frames": 5}, "multiple of tubelet"),
        ({"size": 30, "patch": 16}, "multiple of patch"),
        ({"dim": 10, "heads": 3}, "multiple of heads"),
        ({"depth": 0}, "depth\n  Input should be greater than 0"),
        ({"drop_path": 1.0}, "drop_path"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        EncoderConfig(**settings)


def test_another_input_size_is_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 32, 32\), got \(3, 8, 32, 32\)"):
        VideoEncoder(TINY_ENCODER)(torch.zeros(1, 3, 8, 32, 32))


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(4000, 3, 2))
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    per_sample = dropped.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert torch.equal(DropPath(0.25).eval()(torch.ones(2, 2)), torch.ones(2, 2))
