"""Inflation and non-local blocks against their identities."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.models.i3d import I3d, I3dConfig, NonLocal, Similarity, inflate_resnet
from videomae.core.torchvision_compat import models

SIMILARITIES: tuple[Similarity, ...] = ("gaussian", "embedded_gaussian", "dot_product")


def trained(architecture: str) -> models.ResNet:
    """A ResNet whose batch norms have seen something."""
    torch.manual_seed(0)
    network = models.get_model(architecture, weights=None)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
@torch.no_grad()
def test_an_inflated_network_gives_on_a_still_video_what_the_image_network_gives(architecture: str):
    network = trained(architecture)
    frame_BCHW = torch.randn(2, 3, 64, 64)
    expected = network(frame_BCHW)
    inflated = inflate_resnet(network)
    still = frame_BCHW[:, :, None].expand(-1, -1, 9, -1, -1)
    torch.testing.assert_close(inflated(still), expected, atol=1e-4, rtol=1e-4)
    moving = still + torch.randn(2, 3, 9, 1, 1)
    assert (inflated(moving) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_i3d_takes_the_weights_of_the_image_network(tmp_path: Path):
    network = trained("resnet18")
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    config = I3dConfig(frames=5, size=64, resnet="resnet18", weights=str(tmp_path / "resnet18.pth"))
    model = I3d(config, 3).eval()
    frame_BCHW = torch.randn(1, 3, 64, 64)
    network.fc = model.network.fc
    still = frame_BCHW[:, :, None].expand(-1, -1, 5, -1, -1)
    torch.testing.assert_close(model(still), network(frame_BCHW), atol=1e-4, rtol=1e-4)
    assert config.pretrained == "file resnet18.pth, inflated"


@pytest.mark.parametrize("similarity", SIMILARITIES)
@torch.no_grad()
def test_a_fresh_non_local_block_changes_nothing_and_a_trained_one_sees_everywhere(similarity: Similarity):
    block = NonLocal(8, similarity=similarity)
    maps = torch.randn(2, 8, 3, 5, 4)
    for mode in (True, False):
        assert torch.equal(block.train(mode)(maps), maps)
    nn.init.ones_(block.norm.weight)
    before = block(maps)
    other = maps.clone()
    other[:, :, 0, 0, 0] += 1
    assert ((block(other) - before)[:, :, 2, 4, 3].abs() > 0).any()


@pytest.mark.parametrize("similarity", SIMILARITIES)
@torch.no_grad()
def test_non_local_weights_are_those_of_the_paper(similarity: Similarity):
    block = NonLocal(6, similarity=similarity).double()
    maps = torch.randn(1, 6, 2, 4, 4, dtype=torch.float64)
    weights_NM = block.weights(maps)[0]
    assert weights_NM.shape == (32, 8)
    sampled = block.subsample(maps)
    queries, keys = (maps, sampled) if similarity == "gaussian" else (block.theta(maps), block.phi(sampled))
    row = torch.stack([queries[0, :, 1, 2, 3] @ keys[0, :, t, h, w] for t in (0, 1) for h in (0, 1) for w in (0, 1)])
    expected = row / 8 if similarity == "dot_product" else row.exp() / row.exp().sum()
    torch.testing.assert_close(weights_NM[1 * 16 + 2 * 4 + 3], expected)


@torch.no_grad()
def test_i3d_with_fresh_non_local_blocks_is_the_same_i3d():
    with_blocks = I3d(I3dConfig(name="i3d_non_local", frames=3, size=32, resnet="resnet18"), 3).eval()
    blocks = [name for name, layer in with_blocks.named_modules() if isinstance(layer, NonLocal)]
    assert [name.split(".")[1] for name in blocks] == ["layer2", "layer3"]
    plain = I3d(I3dConfig(frames=3, size=32, resnet="resnet18"), 3).eval()
    kept = {key: value for key, value in with_blocks.state_dict().items() if not key.startswith(tuple(blocks))}
    plain.load_state_dict(kept)
    video = torch.randn(1, 3, 3, 32, 32)
    torch.testing.assert_close(plain(video), with_blocks(video))


def test_time_is_halved_where_a_stage_halves_space():
    network = inflate_resnet(models.resnet18())
    shapes: list[torch.Size] = []
    for stage in (network.maxpool, network.layer1, network.layer2, network.layer3, network.layer4):
        stage.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    network(torch.zeros(1, 3, 16, 64, 64))
    assert [tuple(shape[2:]) for shape in shapes] == [(16, 16, 16), (16, 16, 16), (8, 8, 8), (4, 4, 4), (2, 2, 2)]
    assert all(before[1] <= after[1] for before, after in pairwise(shapes))
