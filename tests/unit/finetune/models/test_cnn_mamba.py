"""The selective scan against its recurrence written out, and its speed at a length that hurts."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from finetune.models.cnn_mamba import CnnMamba, CnnMambaConfig, MambaLayer, SelectiveScan, by_kernel, scan


def inputs(steps: int, *, channels: int = 3, state: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": draw(2, steps, channels),
        "delta": draw(2, steps, channels).exp(),
        "a": -draw(channels, state).exp(),
        "b": draw(2, steps, state),
        "c": draw(2, steps, state),
    }


def slowly(values: dict[str, Tensor]) -> Tensor:
    """Equation by equation, number by number."""
    x, delta, a, b, c = values.values()
    y = torch.zeros_like(x)
    for sample in range(x.shape[0]):
        for channel in range(x.shape[2]):
            hidden = [0.0] * a.shape[1]
            for step in range(x.shape[1]):
                size = delta[sample, step, channel].item()
                for n in range(a.shape[1]):
                    decay = torch.exp(size * a[channel, n]).item()
                    drive = size * b[sample, step, n].item() * x[sample, step, channel].item()
                    hidden[n] = decay * hidden[n] + drive
                y[sample, step, channel] = sum(h * c[sample, step, n].item() for n, h in enumerate(hidden))
    return y


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_scan_equals_the_recurrence_in_float64(steps: int):
    values = inputs(steps)
    ours = scan(values["x"], values["delta"], values["a"], b_BTN=values["b"], c_BTN=values["c"])
    torch.testing.assert_close(ours, slowly(values), atol=1e-12, rtol=1e-12)


def test_gradients_are_right():
    values = {name: value.requires_grad_() for name, value in inputs(4).items()}

    def of(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return scan(x, delta, a, b_BTN=b, c_BTN=c)

    assert torch.autograd.gradcheck(of, tuple(values.values()))


def test_half_precision_goes_through_float32():
    module = SelectiveScan(4, 3)
    x, delta, b, c = (torch.rand(1, 5, width) for width in (4, 4, 3, 3))
    y = module(x.bfloat16(), delta.bfloat16(), b.bfloat16(), c.bfloat16())
    assert y.dtype == torch.bfloat16
    exact = module(*(tensor.bfloat16().float() for tensor in (x, delta, b, c)))
    torch.testing.assert_close(y, exact.bfloat16())


def test_the_kernel_package_is_called_in_its_own_layout():
    def kernel(x_BET: Tensor, delta_BET: Tensor, a: Tensor, b_BNT: Tensor, c_BNT: Tensor, *, D: Tensor) -> Tensor:
        x, delta, b, c = (tensor.transpose(1, 2) for tensor in (x_BET, delta_BET, b_BNT, c_BNT))
        return (scan(x, delta, a, b_BTN=b, c_BTN=c) + D * x).transpose(1, 2)

    module = SelectiveScan(4, 3)
    values = tuple(torch.rand(2, 5, width) for width in (4, 4, 3, 3))
    torch.testing.assert_close(by_kernel(kernel, values, -module.log_decay.exp(), module.skip), module(*values))


@torch.no_grad()
def test_states_of_the_model_never_see_the_future():
    model = CnnMamba(CnnMambaConfig(frames=4, size=33, layers=2), 3).eval()
    video_BCTHW = torch.randn(1, 3, 4, 33, 33)
    before = model.states(video_BCTHW)
    video_BCTHW[:, :, 2] += 1
    moved = (model.states(video_BCTHW) - before).abs().amax((0, 2)) > 1e-7
    assert moved.tolist() == [False, False, True, True]


def graph_of(steps: int) -> Counter[str]:
    """How often each operation occurs in the backward pass over so many steps."""
    values = {name: value.requires_grad_() for name, value in inputs(steps).items()}
    ahead = [scan(values["x"], values["delta"], values["a"], b_BTN=values["b"], c_BTN=values["c"]).grad_fn]
    seen = set()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
    return Counter(node.name() for node in seen)


def test_a_long_sequence_is_read_in_linear_time():
    """The backward pass of an indexed step would fill a tensor of all steps with zeros, once for every step."""
    few, many = graph_of(8), graph_of(16)
    assert few["UnbindBackward0"] == many["UnbindBackward0"] == 2
    assert {name for name in many if many[name] > few[name]} == {"AddBackward0", "MulBackward0"}


def test_mamba_mixer_equals_transformers():
    import videomae.core.torchvision_compat  # transformers imports torchvision

    assert videomae
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaBlock

    config = MambaConfig(
        hidden_size=32, state_size=4, conv_kernel=4, expand=2, num_hidden_layers=1, layer_norm_epsilon=1e-5
    )
    theirs = MambaBlock(config, layer_idx=0).eval()
    ours = MambaLayer(32, CnnMambaConfig(state=4)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    names = {
        "norm.weight": "norm.weight",
        "expand.weight": "mixer.in_proj.weight",
        "conv.weight": "mixer.conv1d.weight",
        "conv.bias": "mixer.conv1d.bias",
        "select.weight": "mixer.x_proj.weight",
        "step.weight": "mixer.dt_proj.weight",
        "step.bias": "mixer.dt_proj.bias",
        "scan.log_decay": "mixer.A_log",
        "scan.skip": "mixer.D",
        "project.weight": "mixer.out_proj.weight",
    }
    state = theirs.state_dict()
    assert sorted(names.values()) == sorted(state)
    ours.load_state_dict({mine: state[their] for mine, their in names.items()})
    tokens_BTD = torch.randn(2, 7, 32)
    with torch.no_grad():
        assert (ours(tokens_BTD) - theirs(tokens_BTD)).abs().max() < 1e-5
