"""The autoencoder: what it sees, what it cannot see, and that it learns."""

import dataclasses

import numpy as np
import torch

from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.masking import MaskConfig, draw_mask
from pretrain.objective import Objective, ObjectiveConfig
from pretrain.reconstruct import reconstruct
from tests.tiny import TINY_DECODER, TINY_ENCODER, tiny_batch, world_of_one
from videomae.engine.local import LocalEngine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import EngineConfig, EnginePlan
from videomae.models.encoder import patchify, take_tokens, unpatchify


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


def test_overfitting_one_batch_brings_the_loss_down() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY_ENCODER, TINY_DECODER)
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


def test_reconstruction_keeps_visible_patches_and_greys_hidden_ones() -> None:
    model = MaskedAutoencoder(TINY_ENCODER, TINY_DECODER).eval()
    batch = tiny_batch(seed=3)
    original, masked, rebuilt = (
        patchify(part, TINY_ENCODER) for part in reconstruct(model, batch, normalized=True).unbind(1)
    )
    for sample in range(len(original)):
        visible, hidden = batch.visible_BV[sample], batch.hidden_BH[sample]
        assert torch.equal(original[sample, visible], rebuilt[sample, visible])
        assert torch.equal(original[sample, visible], masked[sample, visible])
        assert (masked[sample, hidden] == 128).all()
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
