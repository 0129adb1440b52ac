"""AdamW: skipped, clipped and emad steps."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videomae.engine.optimizer import AdamW, OptimizerConfig, decide_step, parameter_groups


def decision(norm: float, loss: float = 1.0, *, clip: float | None = None, threshold: float = math.inf) -> tuple:
    found = decide_step(torch.tensor(norm), torch.tensor(loss), clip=clip, skip_threshold=threshold)
    return found.skip.item(), None if found.clip_coef is None else found.clip_coef.item()


@pytest.mark.parametrize(
    ("norm", "loss", "threshold", "skip"),
    [
        (1.0, 1.0, math.inf, 0),
        (1.0, 1.0, 1.0, 0),
        (1.1, 1.0, 1.0, 1),
        (math.inf, 1.0, math.inf, 1),
        (math.nan, 1.0, math.inf, 1),
        (1.0, math.nan, math.inf, 1),
        (1.0, math.inf, math.inf, 1),
        (0.0, 1.0, math.inf, 0),
    ],
)
def test_what_is_skipped(norm: float, loss: float, threshold: float, skip: float) -> None:
    assert decision(norm, loss, threshold=threshold)[0] == skip


def test_clipping_scales_a_large_norm_down_and_leaves_a_small_one() -> None:
    assert decision(4.0, clip=2.0)[1] == pytest.approx(2.0, rel=1e-5)
    assert decision(1.0, clip=2.0)[1] == 1.0
    assert decision(4.0)[1] is None


def step(optimizer: AdamW, gradients: list[Tensor], *, skip: bool = False, clip: float | None = None) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    norm = torch.nn.utils.get_total_norm(gradients)
    optimizer.set_lr(0.1)
    optimizer.set_decision(lambda: decide_step(norm, norm, clip=clip, skip_threshold=0.0 if skip else math.inf))
    optimizer.step()


def weights_and_optimizer(**config: Any) -> tuple[nn.Parameter, AdamW]:
    weights = nn.Parameter(torch.linspace(-1, 1, 5))
    optimizer = AdamW([{"params": [weights], "weight_decay": 0.1, "lr_scale": 0.5}], OptimizerConfig(**config))
    optimizer.init_state([[weights]])
    return weights, optimizer


GRADIENTS = [torch.linspace(3, -2, 5) * scale for scale in (1.0, 0.3, -0.5)]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_steps_are_those_of_torch(clip: float | None) -> None:
    weights, optimizer = weights_and_optimizer()
    other = nn.Parameter(weights.detach().clone())
    reference = torch.optim.AdamW([other], lr=0.05, betas=(0.9, 0.95), weight_decay=0.1)
    for gradient in GRADIENTS:
        step(optimizer, [gradient], clip=clip)
        other.grad = gradient.clone()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([other], clip)
        reference.step()
    torch.testing.assert_close(weights, other)


def test_a_skipped_step_changes_nothing() -> None:
    weights, optimizer = weights_and_optimizer(ema=0.9)
    other, undisturbed = weights_and_optimizer(ema=0.9)
    for gradient in GRADIENTS:
        step(optimizer, [torch.full_like(gradient, math.nan)], skip=True)
        step(optimizer, [gradient])
        step(undisturbed, [gradient])
    assert torch.equal(weights, other)
    assert all(torch.equal(value, undisturbed.state[other][key]) for key, value in optimizer.state[weights].items())
    assert optimizer.state[weights]["step"] == 3


def test_ema_follows_its_definition() -> None:
    weights, optimizer = weights_and_optimizer(ema=0.75)
    ema = weights.detach().clone()
    for gradient in GRADIENTS:
        step(optimizer, [gradient])
        ema = 0.75 * ema + 0.25 * weights.detach()
    torch.testing.assert_close(optimizer.state[weights]["ema"], ema)


def test_one_decision_serves_all_steps_of_an_update() -> None:
    _, optimizer = weights_and_optimizer()
    asked = []

    def decide():
        asked.append(1)
        return decide_step(torch.tensor(1.0), torch.tensor(1.0), clip=None, skip_threshold=math.inf)

    optimizer.set_decision(decide)
    assert optimizer.decision is None
    optimizer.step()
    optimizer.step()
    assert len(asked) == 1
    assert optimizer.decision is not None


def test_matrices_decay_and_vectors_do_not() -> None:
    groups = parameter_groups(nn.Linear(3, 2), weight_decay=0.1, lr_scale=lambda name: 0.5 if name == "bias" else 1)
    assert [(group["weight_decay"], group["lr_scale"]) for group in groups] == [(0.1, 1), (0.0, 0.5)]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"lr": 0.0}, "lr\n"), ({"clip": 0.0}, "clip\n"), ({"ema": 1.0}, "ema\n  Input should be less than 1")],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        OptimizerConfig(**settings)
