"""Muon: Newton-Schulz, agreement with torch's Muon, skipped steps, and which parameters it optimizes."""

import math

import pytest
import torch
from torch import Tensor, nn

from pretrain.autoencoder import MaskedAutoencoder
from tests.tiny import TINY_DECODER, TINY_ENCODER, world_of_one
from videomae.engine.muon import Muon, newton_schulz
from videomae.engine.optimizer import OptimizerConfig, decide_step, parameter_groups


def muon_of(module: nn.Module, *, ema: float | None = None) -> Muon:
    groups = parameter_groups(module, weight_decay=0.1, kind="muon")
    optimizer = Muon(groups, OptimizerConfig(kind="muon", ema=ema), world_of_one())
    optimizer.init_state(group["params"] for group in groups)
    return optimizer


class Blocks(nn.Module):
    """Matrices of two shapes, and what Muon leaves to AdamW."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"square": nn.Linear(8, 8), "tall": nn.Linear(8, 32)}) for _ in range(2)
        )
        self.head = nn.Linear(8, 3)


def step(optimizer: Muon, module: nn.Module, gradients: dict[str, Tensor], *, skip: bool = False) -> None:
    for name, parameter in module.named_parameters():
        parameter.grad = gradients[name].clone()
    norm = torch.tensor(math.nan if skip else 1.0)
    optimizer.set_lr(0.1)
    optimizer.set_decision(lambda: decide_step(norm, norm, clip=None, skip_threshold=math.inf))
    optimizer.step()


def gradients_of(module: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in module.named_parameters()}


@pytest.mark.parametrize("columns", [16, 40])
def test_newton_schulz_keeps_singular_vectors_and_brings_singular_values_near_one(columns: int) -> None:
    matrices_NRC = torch.randn(3, 12, columns, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrices_NRC, full_matrices=False)
    found = left.mT @ newton_schulz(matrices_NRC) @ right.mT
    values = found.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.65
    assert values.max() < 1.25
    torch.testing.assert_close(found, torch.diag_embed(values), atol=1e-4, rtol=0)


def test_steps_are_those_of_torch() -> None:
    """Of torch's Muon, which computes in bfloat16, on the matrices; of AdamW on the rest."""
    module, other = Blocks(), Blocks()
    optimizer = muon_of(module)
    matrices = {
        name: value for name, value in other.named_parameters() if name.startswith("blocks") and value.ndim == 2
    }
    reference = torch.optim.Muon(list(matrices.values()), lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for seed in range(3):
        gradients = gradients_of(module, seed)
        step(optimizer, module, gradients)
        for name, matrix in matrices.items():
            matrix.grad = gradients[name].clone()
        reference.step()
    for name, matrix in matrices.items():
        torch.testing.assert_close(module.get_parameter(name), matrix, atol=0.02, rtol=0)
    adamw = torch.optim.AdamW(other.head.parameters(), lr=0.1, betas=(0.9, 0.95), weight_decay=0.1)
    adamw.param_groups[0]["params"], bias = [other.head.weight], other.head.bias
    adamw.add_param_group({"params": [bias], "weight_decay": 0.0})
    for seed in range(3):
        for name, parameter in other.head.named_parameters():
            parameter.grad = gradients_of(module, seed)[f"head.{name}"]
        adamw.step()
    torch.testing.assert_close(module.head.weight, other.head.weight)
    torch.testing.assert_close(module.head.bias, other.head.bias)


def test_a_skipped_step_changes_nothing() -> None:
    module, undisturbed = Blocks(), Blocks()
    one, other = muon_of(module, ema=0.9), muon_of(undisturbed, ema=0.9)
    for seed in range(3):
        broken = {name: value * math.nan for name, value in gradients_of(module, seed).items()}
        step(one, module, broken, skip=True)
        step(one, module, gradients_of(module, seed))
        step(other, undisturbed, gradients_of(module, seed))
    for parameter, counterpart in zip(module.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(parameter, counterpart)
        state, expected = one.state[parameter], other.state[counterpart]
        assert state.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in state.items())
        assert state["step"] == 3


def test_muon_optimizes_the_matrices_of_the_blocks() -> None:
    model = MaskedAutoencoder(TINY_ENCODER, TINY_DECODER)
    groups = parameter_groups(model, weight_decay=0.05, kind="muon")
    matrices = {name: shape for group in groups for name, shape in group.get("matrices", {}).items()}
    kinds = {name.split(".", 3)[-1] for name in matrices}
    assert kinds == {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}
    assert len(matrices) == 4 * (TINY_ENCODER.depth + TINY_DECODER.depth)
    assert matrices["encoder.blocks.0.attn.qkv.weight"] == (144, 48)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear has none; type optimizer.kind=adamw"):
        parameter_groups(nn.Linear(3, 2), weight_decay=0.1, kind="muon")
