"""Loss and errors of a batch that is filled up are those of its real clips, however it is cut."""

import dataclasses

import pytest
import torch
from torch import Tensor

from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.objective import Objective, ObjectiveConfig
from tests.tiny import TINY_DECODER, TINY_ENCODER, tiny_batch

REAL = torch.tensor([0, 1, 4])


def filled_up() -> PretrainBatch:
    """Eight clips, of which three are real."""
    return dataclasses.replace(tiny_batch(seed=0, samples=8), weight_B=torch.zeros(8).index_fill(0, REAL, 8 / 3))


def cut(batch: PretrainBatch, index: Tensor | slice) -> PretrainBatch:
    parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return PretrainBatch(**{name: None if part is None else part[index] for name, part in parts.items()})


def step(micro_batches: list[PretrainBatch], config: ObjectiveConfig) -> tuple[dict[str, float], list[Tensor]]:
    """The loss and the errors beside it, and the gradients, of a tiny autoencoder over `micro_batches` added up."""
    torch.manual_seed(0)
    module = MaskedAutoencoder(TINY_ENCODER, TINY_DECODER)
    objective = Objective(config, encoder=TINY_ENCODER, device=torch.device("cpu"))
    objective.measuring = True
    losses = [objective(module, batch) for batch in micro_batches]
    loss = torch.stack(losses).mean()
    loss.backward()
    errors = {name: ratio.value.item() for name, ratio in objective.measured().items()}
    return {"loss": loss.item(), **errors}, [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("config", [ObjectiveConfig(), ObjectiveConfig(normalize=False)], ids=str)
def test_loss_errors_and_gradients_are_those_of_the_real_clips_alone(config: ObjectiveConfig) -> None:
    batch = filled_up()
    alone = dataclasses.replace(cut(batch, REAL), weight_B=None)
    figures, gradients = step([batch], config)
    wanted, wanted_gradients = step([alone], config)
    assert figures == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("config", [ObjectiveConfig(), ObjectiveConfig(normalize=False)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_add_up_to_the_same_also_with_some_of_padding_alone(config: ObjectiveConfig, size: int) -> None:
    figures, gradients = step([filled_up()], config)
    parts = [cut(filled_up(), slice(first, first + size)) for first in range(0, 8, size)]
    in_parts, gradients_in_parts = step(parts, config)
    assert in_parts == pytest.approx(figures, rel=1e-5)
    torch.testing.assert_close(gradients_in_parts, gradients, rtol=1e-4, atol=1e-7)


def test_weights_move_with_their_batch() -> None:
    batch = filled_up()
    moved = batch.to(torch.device("meta"))
    assert moved.weight_B is not None
    assert moved.weight_B.device.type == "meta"
    assert tiny_batch(seed=0).to(torch.device("meta")).weight_B is None
