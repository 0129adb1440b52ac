"""Counting against figures worked out by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from videomae.models.flops import count_flops, training_multiply_adds


def test_linear_counts_in_times_out_per_row():
    result = count_flops(nn.Linear(30, 7), torch.empty(5, 11, 30))
    assert result.multiply_adds == 5 * 11 * 30 * 7
    assert result.parameters == 30 * 7 + 7


@pytest.mark.parametrize(("groups", "expected"), [(1, 8 * 6 * 27 * 4 * 5 * 6), (2, 8 * 3 * 27 * 4 * 5 * 6)])
def test_convolution_counts_kernel_per_output_voxel(groups: int, expected: int):
    layer = nn.Conv3d(6, 8, 3, padding=1, stride=2, groups=groups)
    assert count_flops(layer, torch.empty(1, 6, 8, 10, 12)).multiply_adds == expected


def test_lstm_counts_four_gates_per_step():
    layer = nn.LSTM(10, 6, num_layers=2, batch_first=True)
    assert count_flops(layer, torch.empty(3, 7, 10)).multiply_adds == 3 * 7 * 4 * 6 * ((10 + 6) + (6 + 6))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        query, key, value = self.project(tokens_BND).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value)


def test_attention_counts_scores_and_weighted_sum_in_the_module_that_does_them():
    result = count_flops(Attention(), torch.empty(2, 9, 16))
    own = {layer.name: layer.multiply_adds for layer in result.layers}
    assert own == {"": 2 * (2 * 9 * 9 * 16), "project": 2 * 9 * 16 * 48}


class Scan(nn.Module):
    def forward(self, steps_BTD: Tensor) -> Tensor:
        return steps_BTD.cumsum(1)

    def extra_multiply_adds(self, steps_BTD: Tensor) -> int:
        return steps_BTD.numel()


def test_a_module_can_say_what_no_product_shows():
    assert count_flops(nn.Sequential(Scan(), nn.Linear(4, 1)), torch.empty(2, 3, 4)).multiply_adds == 24 + 24


def test_layers_stand_in_call_order_with_output_shapes_and_shared_weights_count_once():
    shared = nn.Linear(4, 4)
    result = count_flops(nn.Sequential(shared, nn.ReLU(), shared), torch.empty(2, 4))
    assert [(layer.name, layer.kind, layer.output) for layer in result.layers[1:]] == [
        ("0", "Linear", (2, 4)),
        ("1", "ReLU", (2, 4)),
    ]
    assert result.parameters == 20
    assert result.multiply_adds == 64


class Reaching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, rows_BD: Tensor) -> Tensor:
        return functional.linear(rows_BD, self.inner.weight)


def test_parameters_of_a_module_that_is_never_called_stand_with_the_one_round_it():
    result = count_flops(nn.Sequential(Reaching()), torch.empty(1, 4))
    assert [(layer.name, layer.parameters) for layer in result.layers] == [("", 0), ("0", 10)]


def test_the_counted_module_is_left_as_it_was():
    layer = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    count_flops(layer, torch.randn(4, 3))
    assert layer.training
    assert not layer[0]._forward_hooks
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    assert layer[0].weight.device.type == "cpu"


def test_a_module_without_memory_can_be_counted():
    with torch.device("meta"):
        layer = nn.Linear(1_000_000, 1_000_000)
    assert count_flops(layer, torch.empty(1, 1_000_000)).gmacs == 1000.0


def test_the_backward_pass_does_a_product_twice_but_for_what_needs_no_gradient():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 2))
    first, second, third = 4 * 8, 8 * 16, 16 * 2
    counted = count_flops(model, torch.empty(1, 4))
    assert training_multiply_adds(model, counted) == {"": 0, "0": 2 * first, "1": 3 * second, "2": 3 * third}
    model[0].requires_grad_(False)
    assert training_multiply_adds(model, counted) == {"": 0, "0": first, "1": 2 * second, "2": 3 * third}
    model[0].requires_grad_(True)
    model[1].requires_grad_(False)
    assert training_multiply_adds(model, counted)["1"] == 2 * second
