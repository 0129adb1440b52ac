"""What holds for every registered model: it learns, compiles, refuses other shapes and round-trips."""

import copy
import shutil

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune import models
from finetune.models.tables import layer_rows
from tests.small_models import CLASSES, SMALL, build, config_of
from videomae.core.config import ConfigError, parse, to_dict

RATES = {
    **dict.fromkeys(("example_late", "example_early", "example_3d"), 3e-2),
    "slow_fusion": 1e-2,
    "cnn_lstm": 1e-3,
    "cnn_lstm_many": 1e-3,
    **dict.fromkeys(("videomae_linear", "videomae_attentive"), 1e-1),
    **dict.fromkeys(("mvit_v2_s", "swin3d_t"), 3e-4),
    **dict.fromkeys(("swin3d_s", "swin3d_b"), 1e-4),
}
"""Learning rates where the usual 3e-3 does not suit: tiny networks, and deep transformers."""

DEEP = ("swin3d_s", "swin3d_b")  # the code of swin3d_t, with more blocks
EVERY = pytest.mark.parametrize("name", models.names(), scope="module")  # all tests of a model, then those of the next
SHALLOW = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long) if name in DEEP else name for name in models.names()],
    scope="module",
)


def clips(name: str, count: int) -> Tensor:
    """Noise around a colour of each clip's own: easy to tell apart, so that a few steps must do."""
    generator = torch.Generator().manual_seed(1)
    colours_BC = torch.randn(count, 3, generator=generator)
    noise_BCTHW = torch.randn(count, *config_of(name).input.shape, generator=generator)
    return 0.5 * noise_BCTHW + 2 * colours_BC[..., None, None, None]


def without_chance(module: nn.Module) -> nn.Module:
    """No dropped units or branches: with them, whether a few steps suffice is luck."""
    for layer in module.modules():
        if type(layer).__name__ in ("Dropout", "StochasticDepth"):
            layer.p = 0.0
    return module


def test_every_registered_model_is_held_here():
    assert set(SMALL) == set(models.names())


@EVERY
def test_forward_and_backward_reach_every_trained_parameter(name: str):
    module = build(name)
    logits_BK = module(clips(name, 2))
    assert logits_BK.shape == (2, CLASSES)
    assert logits_BK.dtype == torch.float32
    functional.cross_entropy(logits_BK, torch.tensor([0, 2])).backward()
    trained = {key: value.grad for key, value in module.named_parameters() if value.requires_grad}
    assert trained
    assert [key for key, grad in trained.items() if grad is None or not grad.isfinite().all()] == []


@EVERY
@torch.no_grad()
def test_weights_in_half_precision_take_pixels_in_float32(name: str):
    logits_BK = build(name).eval().bfloat16()(clips(name, 1))
    assert logits_BK.dtype == torch.bfloat16
    assert logits_BK.isfinite().all()


@SHALLOW
def test_four_clips_are_overfitted(name: str):
    module = without_chance(build(name)).train()
    video_BCTHW, labels_B = clips(name, 4), torch.tensor([0, 1, 2, 1])
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATES.get(name, 3e-3), weight_decay=0.0)
    for _ in range(80):
        loss = functional.cross_entropy(module(video_BCTHW), labels_B)
        if loss.item() < 0.2:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss is still {loss.item():.3f} after 80 steps")


@SHALLOW
def test_it_compiles_without_a_break_to_the_same_logits(name: str):
    module = build(name).eval()
    video_BCTHW = clips(name, 2)
    # The compiler leaves an LSTM to its own kernel, which breaks the graph by design.
    torch.compiler.reset()  # models compiled before in this process count towards a limit
    compiled = torch.compile(module, backend="eager", fullgraph="lstm" not in name)
    with torch.no_grad():
        torch.testing.assert_close(compiled(video_BCTHW), module(video_BCTHW))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="the default compiler of torch.compile needs g++ on a CPU")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # from its own imports
def test_the_default_compiler_gives_the_same_gradients():
    module, video_BCTHW = build("videomae"), clips("videomae", 2)
    plain = torch.autograd.grad(module(video_BCTHW).square().sum(), list(module.parameters()))
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True)
    gradients = torch.autograd.grad(compiled(video_BCTHW).square().sum(), list(module.parameters()))
    torch.testing.assert_close(gradients, plain, atol=1e-4, rtol=1e-4)


@EVERY
def test_another_shape_is_refused_with_both_shapes_named(name: str):
    module, video_BCTHW = build(name), clips(name, 2)
    wanted = ", ".join(map(str, config_of(name).input.shape))
    for wrong in (video_BCTHW[:, :, :-1], video_BCTHW[..., :-1], video_BCTHW[0], video_BCTHW[:, :2]):
        with pytest.raises(models.InputError) as error:
            module(wrong)
        assert str(tuple(wrong.shape)) in str(error.value)
        assert wanted in str(error.value)


@pytest.mark.parametrize(("frames", "size"), [(1, 7), (2, 50), (3, 2), (17, 31)])
@EVERY
def test_odd_sizes_are_refused_by_the_config_or_run(name: str, frames: int, size: int):
    values = {"name": name, **SMALL[name]}
    if isinstance(encoder := SMALL[name].get("encoder"), dict):
        values["encoder"] = {**encoder, "frames": frames, "size": size}
    else:
        values |= {"frames": frames, "size": size}
    try:
        config = models.parse_model(values, source=name)
    except ConfigError as error:
        refusal = str(error)
    else:
        with torch.device("meta"):
            logits_BK = models.build(config, CLASSES).eval()(torch.empty(1, *config.input.shape))
        assert logits_BK.shape == (1, CLASSES)
        return
    assert str(frames) in refusal or str(size) in refusal


@EVERY
def test_its_layer_table_can_be_made(name: str):
    rows = layer_rows(config_of(name), CLASSES)
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in build(name).parameters())
    fields = [row.receptive_field for row in rows if row.receptive_field != "-"]
    if name == "temporal_stream":  # optical flow has no gradient
        assert not fields
    else:
        assert all(int(span) > 0 for field in fields for span in field.split("x"))
        assert len(fields) > len(rows) / 3


@EVERY
def test_state_and_config_round_trip(name: str):
    module = build(name).eval()
    config = parse(models.ModelConfig, to_dict(config_of(name)), source="dumped")
    assert config == config_of(name)
    torch.manual_seed(5)
    other = models.build(config, CLASSES, initialise=False).eval()
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    video_BCTHW = clips(name, 1)
    with torch.no_grad():
        torch.testing.assert_close(module(video_BCTHW), other(video_BCTHW))
