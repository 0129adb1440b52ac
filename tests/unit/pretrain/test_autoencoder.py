"""The autoencoder: what it sees, what it cannot see, and that it learns."""

import dataclasses
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.masking import MaskConfig, draw_mask
from pretrain.objective import Objective, ObjectiveConfig
from pretrain.reconstruct import reconstruct
from tests.tiny import TINY_DECODER, TINY_ENCODER, tiny_batch, world_of_one
from videomae.engine.local import LocalEngine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import EngineConfig, EnginePlan
from videomae.models.encoder import patchify, take_tokens, unpatchify
from videomae.models.transformer import Block


def test_predictions_do_not_depend_on_hidden_pixels() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY_ENCODER, TINY_DECODER).eval()
    batch = tiny_batch(seed=1)
    video = batch.video_BCTHW.float() / 255

    def predict(video: torch.Tensor) -> torch.Tensor:
        patches_BVP = take_tokens(patchify(video, TINY_ENCODER), batch.visible_BV)
        return model(patches_BVP, batch.visible_BV, batch.hidden_BH)

    def alter(index_BK: torch.Tensor) -> torch.Tensor:
        """The video with the pixels of those patches replaced by values a hundred times as large."""
        patches = patchify(video, TINY_ENCODER)
        index = index_BK[..., None].expand(-1, -1, patches.shape[-1])
        return unpatchify(patches.scatter(1, index, 100 * torch.rand(index.shape)), TINY_ENCODER)

    with torch.no_grad():
        original = predict(video)
        assert torch.equal(predict(alter(batch.hidden_BH)), original)
        assert ((predict(alter(batch.visible_BV[:, :1])) - original).abs().amax(-1) > 1e-3).all()


def predictions(
    decoder: DecoderConfig, hidden_BH: torch.Tensor, ignored_BS: torch.Tensor | None = None
) -> torch.Tensor:
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY_ENCODER, decoder).eval()
    visible_BV = tiny_batch(seed=1).visible_BV
    return model(torch.ones(*visible_BV.shape, TINY_ENCODER.patch_dim), visible_BV, hidden_BH, ignored_BS)


@torch.no_grad()
def test_mask_tokens_see_each_other_in_the_self_decoder_alone() -> None:
    hidden_BH = tiny_batch(seed=1).hidden_BH
    kinds: Any = {"self": False, "cross": True}
    for kind, same in kinds.items():
        decoder = DecoderConfig(kind=kind, dim=24, depth=2, heads=3)
        few, many = predictions(decoder, hidden_BH[:, 3:5]), predictions(decoder, hidden_BH)[:, 3:5]
        ignoring = predictions(decoder, hidden_BH[:, 3:5], hidden_BH[:, :3])
        assert (torch.allclose(few, many, atol=1e-6), torch.allclose(few, ignoring, atol=1e-6)) == (same, same), kind


@torch.no_grad()
def test_the_last_block_computes_the_same_for_predicted_tokens_as_for_all() -> None:
    torch.manual_seed(0)
    block = Block(24, 3).eval()
    nn.init.normal_(block.attn.q_bias)
    nn.init.normal_(block.attn.v_bias)
    tokens_BND = torch.randn(2, 10, 24)
    torch.testing.assert_close(block(tokens_BND, 7), block(tokens_BND)[:, -7:])
    torch.testing.assert_close(block(tokens_BND, 10), block(tokens_BND))


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_overfitting_one_batch_brings_the_loss_down(kind: Literal["self", "cross"]) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY_ENCODER, dataclasses.replace(TINY_DECODER, kind=kind))
    world = world_of_one()
    optimizer = OptimizerConfig(weight_decay=0.0)
    plan = EnginePlan(EngineConfig(kind="local"), optimizer, world)
    engine = LocalEngine(model, parameter_groups(model, weight_decay=0.0), plan)
    objective = Objective(ObjectiveConfig(), encoder=TINY_ENCODER, device=world.device)
    # Smooth pictures: white noise could only be learnt by heart, which takes far longer.
    rows = torch.linspace(0, 255, TINY_ENCODER.size)
    picture = (rows[:, None] * 0.5 + rows[None, :] * 0.5).to(torch.uint8)
    batch = tiny_batch(seed=2)
    batch = dataclasses.replace(batch, video_BCTHW=picture.expand_as(batch.video_BCTHW).contiguous())
    losses = [engine.train_step([batch], objective, lr=3e-3).loss.item() for _ in range(60)]
    assert losses[0] > 0.9
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_reconstruction_keeps_visible_patches_and_greys_hidden_ones(share: float) -> None:
    model = MaskedAutoencoder(TINY_ENCODER, TINY_DECODER).eval()
    batch = tiny_batch(seed=3)
    original, masked, rebuilt = (
        patchify(part, TINY_ENCODER) for part in reconstruct(model, batch, normalized=True, share=share).unbind(1)
    )
    for sample in range(len(original)):
        visible, hidden = batch.visible_BV[sample], batch.hidden_BH[sample]
        assert torch.equal(original[sample, visible], rebuilt[sample, visible])
        assert torch.equal(original[sample, visible], masked[sample, visible])
        assert (masked[sample, hidden] == 128).all()
        assert (rebuilt[sample, hidden] != 128).any(dim=1).all()  # each is predicted
    assert torch.equal(original, patchify(batch.video_BCTHW, TINY_ENCODER))


def test_module_names_are_the_official_keys() -> None:
    keys = set(MaskedAutoencoder(TINY_ENCODER, DecoderConfig(dim=24, depth=1, heads=3)).state_dict())
    assert {"mask_token", "encoder_to_decoder.weight", "encoder.patch_embed.proj.weight"} <= keys
    assert {"encoder.blocks.0.attn.q_bias", "encoder.blocks.0.attn.qkv.weight", "decoder.head.bias"} <= keys
    assert "encoder_to_decoder.bias" not in keys
    assert not any("position" in key for key in keys)


def test_masks_differ_between_samples_but_not_in_size() -> None:
    masks = [draw_mask(MaskConfig(ratio=0.75), TINY_ENCODER, np.random.default_rng(seed)) for seed in range(2)]
    assert masks[0].hidden_H.shape == masks[1].hidden_H.shape
    assert not np.array_equal(masks[0].hidden_H, masks[1].hidden_H)
