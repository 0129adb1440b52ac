"""Flow: the right direction and length, cut and centred, and in the temporal stream's first layer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.models import two_stream
from finetune.models.two_stream import TemporalStream, TwoStream, TwoStreamConfig
from videomae.core.torchvision_compat import models


def moving(x: int, y: int, frames: int = 3) -> Tensor:
    """A smooth texture that moves by (x, y) pixels a frame: uint8 (1, T, 64, 64)."""
    noise = torch.rand(1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.avg_pool2d(noise, 9, stride=1)[0, 0]
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    places = [(60 - y * t, 60 - x * t) for t in range(frames)]
    return (
        torch.stack([smooth[top : top + 64, left : left + 64] for top, left in places])[None].mul(255).to(torch.uint8)
    )


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (-4, 1)])
def test_flow_points_where_the_texture_goes(x: int, y: int):
    field = two_stream.optical_flow(moving(x, y))
    assert field.shape == (1, 2, 2, 64, 64)
    inner = field[0, :, :, 16:48, 16:48].flatten(2).median(-1).values
    assert np.allclose(inner, [[x, y], [x, y]], atol=0.3)


def test_stacked_flow_is_centred_cut_and_ordered_by_pair_then_axis():
    grey = moving(3, 0).float() / 255
    video_BCTHW = (grey[:, None].expand(-1, 3, -1, -1, -1) - 0.5) / 0.25
    stacked = two_stream.stacked_flow(video_BCTHW, (0.5,) * 3, (0.25,) * 3)
    assert stacked.shape == (1, 4, 64, 64)
    assert stacked.abs().max() <= 1
    expected = two_stream.optical_flow(moving(3, 0)).flatten(1, 2)
    expected = (expected - expected.mean((2, 3), keepdim=True)).clamp(-20, 20) / 20
    torch.testing.assert_close(stacked, expected)


def test_the_operator_is_well_formed():
    torch.library.opcheck(two_stream.optical_flow, (moving(1, 1),))


def test_the_temporal_stream_has_two_channels_a_pair_and_starts_from_the_mean_over_colours(tmp_path: Path):
    network = models.resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    model = TemporalStream(TwoStreamConfig(name="temporal_stream", frames=5, weights=str(tmp_path / "resnet18.pth")), 2)
    assert model.network.conv1.weight.shape == (64, 8, 7, 7)
    torch.testing.assert_close(model.network.conv1.weight[:, 5], network.conv1.weight.mean(1))
    still = torch.randn(1, 3, 1, 64, 64).expand(-1, -1, 5, -1, -1)
    small = TemporalStream(TwoStreamConfig(name="temporal_stream", frames=5, size=64), 2).eval()
    torch.testing.assert_close(small(still), small(torch.zeros_like(still)), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_fusion_is_the_mean_of_the_streams_probabilities():
    model = TwoStream(TwoStreamConfig(frames=3, size=64), 4).eval()
    video_BCTHW = torch.randn(2, 3, 3, 64, 64)
    expected = (model.spatial(video_BCTHW).softmax(-1) + model.temporal(video_BCTHW).softmax(-1)) / 2
    torch.testing.assert_close(model(video_BCTHW).softmax(-1), expected)
    torch.testing.assert_close(model(video_BCTHW).exp(), expected)
