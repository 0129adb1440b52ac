"""Mixing: the targets carry the share of the pixels that came from each clip."""

import numpy as np
import pytest
import torch

from finetune.mixup import MixupConfig, cross_entropy, mix, soft_labels


def black_and_white() -> tuple[torch.Tensor, torch.Tensor]:
    video = torch.zeros(2, 3, 2, 16, 16)
    video[1] = 1
    return video, torch.eye(2)


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_the_share_of_white_is_the_target_of_white(settings: dict[str, float]) -> None:
    for seed in range(20):
        video, target = mix(*black_and_white(), MixupConfig(**settings), np.random.default_rng(seed))
        assert video[0].mean().item() == pytest.approx(target[0, 1].item(), abs=1e-5)
        assert target.sum(1).tolist() == pytest.approx([1, 1])


def test_cutmix_pastes_the_same_box_in_all_frames() -> None:
    video, _ = mix(*black_and_white(), MixupConfig(cutmix=1.0), np.random.default_rng(1))
    assert torch.equal(video[0, :, 0], video[0, :, 1])


def test_without_strength_nothing_changes() -> None:
    video, target = black_and_white()
    mixed, same = mix(video, target, MixupConfig(), np.random.default_rng(0))
    assert mixed is video
    assert same is target


def test_smoothing_and_loss() -> None:
    target = soft_labels(torch.tensor([1]), classes=4, smoothing=0.1)
    assert target.tolist()[0] == pytest.approx([0.025, 0.925, 0.025, 0.025])
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.1]])
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor([1]), label_smoothing=0.1)
    assert cross_entropy(logits, target).item() == pytest.approx(wanted.item(), rel=1e-6)
