"""The loss of a batch that is filled up is that of its real clips, mixing and smoothing included."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.mixup import MixupConfig, mix, partners
from finetune.models.interface import ModelInput
from finetune.objective import Objective
from finetune.stream import LabelledBatch

REAL = torch.tensor([0, 2, 3])
MIXING = [
    MixupConfig(),
    MixupConfig(smoothing=0.1),
    MixupConfig(mixup=0.8),
    MixupConfig(cutmix=1.0),
    MixupConfig(mixup=0.8, cutmix=1.0, smoothing=0.1),
]


def filled_up() -> LabelledBatch:
    """Eight clips, of which three are real."""
    video = torch.randint(0, 256, (8, 3, 2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    weight_B = torch.zeros(8).index_fill(0, REAL, 8 / 3)
    return LabelledBatch(video, torch.tensor([0, 1, 2, 1, 0, 2, 2, 1]), weight_B)


def cut(batch: LabelledBatch, index: Tensor | slice) -> LabelledBatch:
    weight_B = None if batch.weight_B is None else batch.weight_B[index]
    return LabelledBatch(batch.video_BCTHW[index], batch.label_B[index], weight_B)


def step(micro_batches: list[LabelledBatch], mixing: MixupConfig, *, seed: int) -> tuple[float, list[Tensor]]:
    """The loss and the gradients of a small network over `micro_batches` that are added up."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv3d(3, 4, (2, 5, 5), stride=(1, 3, 3)), nn.GELU(), nn.Flatten(), nn.LazyLinear(3))
    module(torch.zeros(1, 3, 2, 16, 16))
    input = ModelInput(frames=2, size=16, stride=1)
    objective = Objective(mixing, input=input, classes=3, device=torch.device("cpu"))
    total = 0.0
    for batch in micro_batches:
        objective.seed(seed, 0, 0)
        loss = objective(module, batch) / len(micro_batches)
        loss.backward()
        total += loss.item()
    return total, [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("mixing", MIXING, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_and_gradients_are_those_of_the_real_clips_alone(mixing: MixupConfig, seed: int) -> None:
    batch = filled_up()
    alone = LabelledBatch(batch.video_BCTHW[REAL], batch.label_B[REAL])
    loss, gradients = step([batch], mixing, seed=seed)
    wanted, wanted_gradients = step([alone], mixing, seed=seed)
    assert loss == pytest.approx(wanted, rel=1e-6)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-4, atol=1e-7)


def test_micro_batches_of_any_size_add_up_to_the_same_also_one_of_padding_alone() -> None:
    whole = step([filled_up()], MixupConfig(smoothing=0.1), seed=0)
    for size in (1, 2, 4):
        parts = [cut(filled_up(), slice(first, first + size)) for first in range(0, 8, size)]
        loss, gradients = step(parts, MixupConfig(smoothing=0.1), seed=0)
        assert loss == pytest.approx(whole[0], rel=1e-6)
        torch.testing.assert_close(gradients, whole[1], rtol=1e-4, atol=1e-7)


def test_padding_is_mixed_into_nothing_and_real_clips_in_reverse_order() -> None:
    weight_B = filled_up().weight_B
    assert weight_B is not None
    assert partners(weight_B).tolist() == [3, 1, 2, 0, 4, 5, 6, 7]
    assert partners(torch.full((4,), 1.5)).tolist() == [3, 2, 1, 0]
    assert partners(torch.zeros(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("mixing", MIXING[2:], ids=str)
def test_a_batch_of_real_clips_is_mixed_as_without_weights(mixing: MixupConfig) -> None:
    video, target = torch.rand(6, 3, 2, 16, 16), torch.eye(6)
    plain = mix(video, target, mixing, np.random.default_rng(3))
    weighed = mix(video, target, mixing, np.random.default_rng(3), partners(torch.full((6,), 2.0)))
    assert all(torch.equal(one, other) for one, other in zip(plain, weighed, strict=True))
