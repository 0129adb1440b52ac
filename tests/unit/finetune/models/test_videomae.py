"""VideoMAE's heads: the start from an export, settings that must agree, probes that leave the encoder alone."""

from pathlib import Path

import pytest
import torch
from torch import nn

from finetune import models
from finetune.models.probes import AttentivePool, Probe, ProbeConfig
from finetune.models.videomae import VideomaeClassifier, VideomaeConfig
from videomae.core.config import ConfigError, parse
from videomae.data.transforms.augment import IMAGENET_MEAN
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.weights import WeightsError, load_encoder, save_encoder

ENCODER = EncoderConfig(frames=4, size=24, patch=8, dim=24, depth=2, heads=3)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    encoder = VideoEncoder(ENCODER)
    generator = torch.Generator().manual_seed(0)
    for parameter in encoder.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    save_encoder(encoder.state_dict(), ENCODER, tmp_path / "export", {"run": "first-light"})
    return tmp_path / "export"


def test_the_classifier_starts_from_the_export_without_its_final_norm(export: Path):
    config = VideomaeConfig(weights=str(export))
    assert (config.frames, config.size, config.input.mean) == (4, 24, IMAGENET_MEAN)
    assert config.pretrained == "VideoMAE (first-light)"
    assert VideomaeConfig().pretrained == "scratch"
    model = VideomaeClassifier(config, 3)
    exported = load_encoder(str(export)).state
    own = model.encoder.state_dict()
    assert own.keys() == {key for key in exported if not key.startswith("norm.")}
    assert all(torch.equal(value, exported[key]) for key, value in own.items())
    other = VideomaeClassifier(config, 3, initialise=False)
    assert not torch.equal(other.encoder.blocks[0].mlp.fc1.weight, model.encoder.blocks[0].mlp.fc1.weight)


def test_settings_that_contradict_the_export_are_named_with_both_values(export: Path):
    config = VideomaeConfig(
        weights=str(export), encoder=EncoderConfig(frames=8, size=24, patch=8, dim=24, depth=3, heads=3)
    )
    with pytest.raises(WeightsError) as error:
        models.build(config, 3)
    for part in ("frames is 8 in the config and 4 in", "depth is 3 in the config and 2 in", str(export)):
        assert part in str(error.value)
    assert models.build(VideomaeConfig(weights=str(export), encoder=ENCODER), 3)


def test_an_export_that_is_not_there_says_what_to_give(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"no encoder\.json in .*runs/NAME/export"):
        models.build(VideomaeConfig(weights=str(tmp_path)), 3)


def test_an_encoder_cannot_start_a_network_of_another_kind(export: Path):
    config = parse(models.ModelConfig, {"name": "single_frame", "weights": str(export)}, source="x")
    with pytest.raises(WeightsError, match="exported VideoMAE encoder, a transformer"):
        models.build(config, 3)
    with pytest.raises(ConfigError, match="weights"):
        parse(models.ModelConfig, {"name": "slow_fusion", "weights": str(export)}, source="x")


@pytest.mark.parametrize("settings", [{"frames": 8}, {"size": 40}, {"tubelet": 1}, {"patch": 4}, {"mlp_ratio": 3.0}])
def test_any_frames_size_patch_and_tubelet_that_divide(settings: dict[str, int]):
    base = {"frames": 4, "size": 24, "tubelet": 2, "patch": 8, "dim": 24, "depth": 1, "heads": 3}
    config = VideomaeConfig(encoder=EncoderConfig(**(base | settings)))
    assert models.build(config, 3)(torch.zeros(2, *config.input.shape)).shape == (2, 3)


@pytest.mark.parametrize("name", ["videomae_linear", "videomae_attentive"])
def test_a_probe_leaves_the_encoder_alone(export: Path, name: str):
    model = Probe(ProbeConfig(name=name, weights=str(export)), 3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 4, 24, 24)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert "head.weight" in changed
    assert not [key for key in changed if key.startswith("encoder.")]
    assert models.published(name)
    assert model.encoder.norm.weight.shape == (24,)


@torch.no_grad()
def test_attentive_weights_are_those_that_mix_the_tokens():
    pool = AttentivePool(24, 3)
    tokens_BND = torch.randn(2, 5, 24)
    weights_BHN = pool.weights(tokens_BND)
    torch.testing.assert_close(weights_BHN.sum(-1), torch.ones(2, 3))
    _, value_BHND = pool._split(tokens_BND)
    mixed = torch.einsum("bhn,bhnd->bhd", weights_BHN, value_BHND).flatten(1)
    torch.testing.assert_close(pool(tokens_BND), pool.proj(mixed))
