"""The course's CNNs: which frames reach what, the first convolution's start, weights from torchvision or a file."""

from pathlib import Path

import pytest
import torch

from finetune.models import resnet
from finetune.models.c3d import C3d, C3dConfig
from finetune.models.cnn_lstm import CnnLstm, CnnLstmConfig
from finetune.models.time_fusion import (
    EarlyFusion,
    EarlyFusionConfig,
    LateFusion,
    LateFusionConfig,
    MultiResolution,
    MultiResolutionConfig,
    SingleFrame,
    SingleFrameConfig,
)
from finetune.models.torchvision_video import TorchvisionVideo, TorchvisionVideoConfig
from videomae.core.torchvision_compat import models
from videomae.models.flops import count_flops
from videomae.models.weights import WeightsError
from videomae.models.weights.torchvision import torchvision_state


@pytest.fixture
def image_weights(tmp_path: Path) -> str:
    torch.manual_seed(4)
    network = models.resnet18()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    return str(tmp_path / "resnet18.pth")


def video(frames: int = 4, size: int = 40) -> torch.Tensor:
    return torch.randn(1, 3, frames, size, size, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_each_frame_moves_only_its_own_logits_and_order_does_not_matter():
    model = SingleFrame(SingleFrameConfig(frames=4, size=40), 3).eval()
    video_BCTHW = video()
    before = model.frame_logits(video_BCTHW)
    torch.testing.assert_close(model(video_BCTHW), before.mean(1))
    torch.testing.assert_close(model(video_BCTHW.flip(2)), model(video_BCTHW))
    video_BCTHW[:, :, 2] += 1
    moved = (model.frame_logits(video_BCTHW) - before).abs().amax((0, 2)) > 0
    assert moved.tolist() == [False, False, True, False]


@torch.no_grad()
def test_only_the_concatenating_late_fusion_knows_the_order_of_frames():
    for name, knows in (("late_fusion", False), ("late_fusion_fc", True)):
        model = LateFusion(LateFusionConfig(name=name, frames=4, size=40), 3).eval()
        gap = (model(video().flip(2)) - model(video())).abs().max()
        assert (gap > 1e-5) == knows, name


@torch.no_grad()
def test_lstm_states_never_see_the_future():
    model = CnnLstm(CnnLstmConfig(frames=4, size=40, hidden=8), 3).eval()
    video_BCTHW = video()
    before = model.states(video_BCTHW)
    video_BCTHW[:, :, 2] += 1
    moved = (model.states(video_BCTHW) - before).abs().amax((0, 2)) > 0
    assert moved.tolist() == [False, False, True, True]


def test_a_frozen_cnn_keeps_weights_and_statistics_while_the_rest_trains(image_weights: str):
    config = CnnLstmConfig(name="cnn_lstm_frozen", frames=4, size=40, hidden=8, weights=image_weights)
    model = CnnLstm(config, 3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(video()).sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert not [key for key in changed if key.startswith("network.") and not key.startswith("network.fc.")]
    assert any(key.startswith("lstm.") for key in changed)
    assert config.pretrained == "file resnet18.pth, frozen CNN"


@torch.no_grad()
def test_early_fusion_of_a_still_video_starts_as_the_image_network(image_weights: str):
    torch.manual_seed(0)
    model = EarlyFusion(EarlyFusionConfig(frames=4, size=40, weights=image_weights), 3).eval()
    flat = models.resnet18().eval()
    flat.load_state_dict(torch.load(image_weights, weights_only=True))
    flat.fc = model.network.fc
    still = video(frames=1).expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(model(still), model.classifier(flat(still[:, :, 0])), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_fovea_is_the_centre_and_the_context_the_whole_at_half_size():
    model = MultiResolution(MultiResolutionConfig(frames=4, size=40), 3).eval()
    video_BCTHW = torch.zeros(1, 3, 4, 40, 40)
    video_BCTHW[..., 10:30, 10:30] = 1
    context, fovea = model.views(video_BCTHW)
    assert context.shape == fovea.shape == (4, 3, 20, 20)
    assert fovea.min() == 1
    assert context.mean() == 0.25


def test_c3d_convolutions_have_the_published_multiply_adds():
    with torch.device("meta"):
        model = C3d(C3dConfig(), 101)
    layers = count_flops(model, torch.empty(1, 3, 16, 112, 112)).layers
    measured = [layer.multiply_adds / 1e9 for layer in layers if layer.kind == "Conv3d"]
    assert measured == pytest.approx([1.04, 11.10, 5.55, 11.10, 2.77, 5.55, 0.69, 0.69], rel=0.01)


def test_our_mvit_has_the_keys_and_shapes_of_torchvisions():
    with torch.device("meta"):
        ours = TorchvisionVideo(TorchvisionVideoConfig(name="mvit_v2_s"), 400).network.state_dict()
        theirs = models.video.mvit_v2_s().state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_weights_of_another_network_are_refused_key_by_key(tmp_path: Path):
    torch.save(models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(WeightsError, match=r"unused keys: layer1\.2\."):
        resnet.resnet18(weights=str(tmp_path / "resnet34.pth"))


def test_published_weights_come_from_the_cache_and_a_failed_download_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    state = models.resnet18().state_dict()
    torch.save(state, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    cached = torchvision_state("resnet18", "imagenet")
    assert all(torch.equal(cached[key], value) for key, value in state.items())

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError, match=r"not in the cache.*no network.*model\.weights=PATH"):
        torchvision_state("resnet34", "imagenet")
    with pytest.raises(WeightsError, match="no kinetics weights of resnet18; it has imagenet"):
        torchvision_state("resnet18", "kinetics")
