"""Activation checkpointing and compilation change memory and speed, not numbers."""

import functools
import shutil
from typing import Any

import pytest
import torch
from torch import nn

from finetune.models.vivit import VivitConfig, build
from pretrain.autoencoder import MaskedAutoencoder
from tests.engine_cases import Reference
from tests.engine_runs import make_engine, micro_batches, run_steps
from tests.tiny import TINY_DECODER, TINY_ENCODER, world_of_one
from videomae.engine.factory import prepare_blocks, transformer_blocks
from videomae.engine.protocol import EngineConfig
from videomae.models.encoder import EncoderConfig, VideoEncoder, patchify, take_tokens

PLAIN = Reference(clip=False, ema=False, decay=False)
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore:The .grad attribute")  # of torch


def saved_bytes(model: nn.Module) -> int:
    """Return the bytes saved for the backward pass of one batch."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    (batch,) = micro_batches(0, world_of_one(), 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        patches_BVP = take_tokens(patchify(batch.video_BCTHW, TINY_ENCODER), batch.visible_BV)
        model(patches_BVP.float(), batch.visible_BV, batch.hidden_BH).sum()
    return sum(kept.values())


def test_blocks_of_encoder_and_decoder_are_found() -> None:
    assert (
        len(transformer_blocks(MaskedAutoencoder(TINY_ENCODER, TINY_DECODER)))
        == TINY_ENCODER.depth + TINY_DECODER.depth
    )


@pytest.mark.parametrize("name", ["vivit_1", "vivit_2", "vivit_3", "vivit_4"])
def test_blocks_of_every_vivit_are_found(name: Any) -> None:
    config = VivitConfig(name=name, frames=4, size=32, patch=16, dim=48, depth=3, heads=2)
    blocks = transformer_blocks(build(config, 2))
    temporal = config.temporal_depth if name == "vivit_2" else 0
    assert len(blocks) == 3 + temporal


def test_checkpointing_computes_the_same_and_keeps_less() -> None:
    engines = [
        make_engine(world_of_one(), PLAIN, kind="local", activation_checkpointing=on, precision="bf16")
        for on in (False, True)
    ]
    plain, checkpointed = (run_steps(engine, count=3) for engine in engines)
    assert checkpointed == plain
    state, other = (engine.full_state() for engine in engines)
    assert all(torch.equal(value, other[name]) for name, value in state.items())
    assert saved_bytes(engines[1].module) < 0.7 * saved_bytes(engines[0].module)


def test_checkpointing_recomputes_with_the_same_drop_path() -> None:
    losses = []
    for on in (False, True):
        torch.manual_seed(0)
        encoder = VideoEncoder(EncoderConfig(frames=4, size=32, patch=8, dim=48, depth=3, heads=3, drop_path=0.5))
        prepare_blocks(encoder, checkpointing=on, compiled=False)
        encoder(torch.randn(4, 3, 4, 32, 32)).square().mean().backward()
        losses.append([parameter.grad for parameter in encoder.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*losses, strict=True))


INDUCTOR = pytest.param(
    "inductor",
    marks=[
        pytest.mark.long,
        pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's inductor needs g++ on a CPU"),
    ],
)


@pytest.mark.parametrize("backend", ["aot_eager", INDUCTOR])
@compiles
def test_compiled_blocks_compute_the_same_under_the_same_names(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch.compiler.reset()
    plain, compiled = (make_engine(world_of_one(), PLAIN, kind="local", compile=on) for on in (False, True))
    losses = run_steps(plain, count=3)["losses"]
    assert run_steps(compiled, count=3)["losses"] == pytest.approx(losses, rel=1e-5)
    assert compiled.full_state().keys() == plain.full_state().keys()


@compiles
def test_blocks_that_differ_in_their_rate_of_drop_path_are_compiled_once() -> None:
    from torch._dynamo.utils import counters

    encoder = VideoEncoder(EncoderConfig(frames=4, size=32, patch=8, dim=48, depth=12, heads=3, drop_path=0.2))
    torch.compiler.reset()
    counters.clear()
    for block in transformer_blocks(encoder):
        block.forward = torch.compile(block.forward, backend="eager")
    encoder(torch.randn(2, 3, 4, 32, 32)).sum().backward()
    assert counters["stats"]["unique_graphs"] == 2  # the first block drops nothing


@pytest.mark.parametrize("setting", ["activation_checkpointing", "compile"])
def test_a_model_without_blocks_is_refused(setting: str) -> None:
    settings = {"checkpointing": setting == "activation_checkpointing", "compiled": setting == "compile"}
    with pytest.raises(
        ValueError, match=rf"engine\.{setting}=true needs .* Linear has none; type engine\.{setting}=fal"
    ):
        prepare_blocks(nn.Linear(2, 2), **settings)


def test_compiling_under_zero_3_is_refused() -> None:
    with pytest.raises(ValueError, match=r"type engine\.compile=false, or engine\.zero_stage=2"):
        EngineConfig(zero_stage=3, compile=True)
