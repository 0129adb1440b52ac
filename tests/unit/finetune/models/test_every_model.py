"""What holds for every registered model: it learns, compiles, refuses other shapes and round-trips."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune import models
from videomae.config import parse, to_dict

SMALL: dict[str, dict[str, object]] = {
    "single_frame": {"frames": 3, "size": 33},
    "late_fusion": {"frames": 3, "size": 33},
    "late_fusion_fc": {"frames": 3, "size": 33},
    "early_fusion": {"frames": 3, "size": 33},
    "s3d": {"frames": 6, "size": 35, "dropout": 0.0},
    **{f"vivit_{n}": {"frames": 4, "size": 24, "patch": 8, "dim": 24, "depth": 2, "heads": 4} for n in (1, 2, 3, 4)},
    "videomae": {
        "encoder": {"frames": 4, "size": 24, "patch": 8, "dim": 24, "depth": 2, "heads": 3},
        "drop_path": 0.0,
    },
}
"""A small setting of each model, its size odd where it may be."""

CLASSES = 3


def config_of(name: str) -> models.ModelConfig:
    return parse(models.ModelConfig, {"name": name, **SMALL[name]}, source=name)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return models.build(config_of(name), CLASSES)


def clips(name: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *config_of(name).input.shape, generator=generator)


def test_every_registered_model_is_held_here():
    assert set(SMALL) == set(models.names())


@pytest.mark.parametrize("name", models.names())
def test_forward_and_backward_reach_every_trained_parameter(name: str):
    module = build(name)
    logits_BK = module(clips(name, 2))
    assert logits_BK.shape == (2, CLASSES)
    assert logits_BK.dtype == torch.float32
    functional.cross_entropy(logits_BK, torch.tensor([0, 2])).backward()
    trained = {key: value.grad for key, value in module.named_parameters() if value.requires_grad}
    assert trained
    assert [key for key, grad in trained.items() if grad is None or not grad.isfinite().all()] == []


@pytest.mark.parametrize("name", models.names())
def test_four_clips_are_overfitted(name: str):
    module = build(name).train()
    video_BCTHW, labels_B = clips(name, 4), torch.tensor([0, 1, 2, 1])
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0)
    for _ in range(60):
        loss = functional.cross_entropy(module(video_BCTHW), labels_B)
        if loss.item() < 0.1:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss is still {loss.item():.3f} after 60 steps")


@pytest.mark.parametrize("name", models.names())
def test_it_compiles_without_a_break_to_the_same_logits(name: str):
    module = build(name).eval()
    video_BCTHW = clips(name, 2)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(video_BCTHW), module(video_BCTHW))


@pytest.mark.parametrize("name", models.names())
def test_another_shape_is_refused_with_both_shapes_named(name: str):
    module, video_BCTHW = build(name), clips(name, 2)
    wanted = ", ".join(map(str, config_of(name).input.shape))
    for wrong in (video_BCTHW[:, :, :-1], video_BCTHW[..., :-1], video_BCTHW[0], video_BCTHW[:, :2]):
        with pytest.raises(models.InputError) as error:
            module(wrong)
        assert str(tuple(wrong.shape)) in str(error.value)
        assert wanted in str(error.value)


@pytest.mark.parametrize("name", models.names())
def test_state_and_config_round_trip(name: str):
    module = build(name).eval()
    config = parse(models.ModelConfig, to_dict(config_of(name)), source="dumped")
    assert config == config_of(name)
    torch.manual_seed(5)
    other = models.build(config, CLASSES, initialise=False).eval()
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    video_BCTHW = clips(name, 1)
    with torch.no_grad():
        assert torch.equal(module(video_BCTHW), other(video_BCTHW))
