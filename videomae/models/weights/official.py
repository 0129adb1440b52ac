"""Checkpoints of the official VideoMAE and VideoMAEv2 releases, and others with their key names.

Pretraining files hold `encoder.*`, `encoder_to_decoder.weight`, `mask_token` and `decoder.*`, which equal our names.
Fine-tuned files hold the encoder without a prefix, then `fc_norm.*` and `head.*`. Files of compiled models prefix
`_orig_mod.`, those of wrapped ones `module.` or `model.`. mmaction2 prefixes `backbone.`, has other names in the patch
embedding, the MLPs and the head, and stores the fixed position embeddings, which must equal ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from videomae.core.errors import listing
from videomae.models.encoder import SIZES, EncoderConfig, sincos_table
from videomae.models.weights.files import State, WeightsError, strip_wrappers

_BLOCK = r"(norm1|norm2|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)|attn\.(q_bias|v_bias|qkv\.weight)"
_ENCODER = re.compile(rf"patch_embed\.proj\.(weight|bias)|blocks\.\d+\.({_BLOCK})|norm\.(weight|bias)")
_DECODER = re.compile(
    rf"encoder_to_decoder\.weight|mask_token|decoder\.(blocks\.\d+\.({_BLOCK})|(norm|head)\.(weight|bias))"
)
_MMACTION = {
    r"^patch_embed\.projection\.": "patch_embed.proj.",
    r"\.mlp\.layers\.0\.0\.": ".mlp.fc1.",
    r"\.mlp\.layers\.1\.": ".mlp.fc2.",
    r"^cls_head\.fc_cls\.": "head.",
}
_HEAD = re.compile(r"(fc_norm|head)\.(weight|bias)")


@dataclass(frozen=True)
class OfficialState:
    """A split checkpoint: `encoder` under the keys of VideoEncoder, `rest` under the official keys.

    `rest` is the decoder of a pretraining checkpoint, the head of a fine-tuned one, or empty.
    """

    encoder: State
    rest: State
    pretraining: bool


def take_apart(state: Mapping[str, Tensor], *, source: str) -> OfficialState:
    """Split the state of an official checkpoint.

    Raises:
        WeightsError: a key belongs to neither a pretraining nor a fine-tuned checkpoint; all such keys are listed.
    """
    plain = _official_names(strip_wrappers(state, source=source), source=source)
    pretraining = any(key.startswith("encoder.") for key in plain)
    prefix = "encoder." if pretraining else ""
    encoder: State = {}
    rest: State = {}
    unknown: list[str] = []
    for key, value in plain.items():
        if key.startswith(prefix) and _ENCODER.fullmatch(key.removeprefix(prefix)):
            encoder[key.removeprefix(prefix)] = value
        elif (_DECODER if pretraining else _HEAD).fullmatch(key):
            rest[key] = value
        else:
            unknown.append(key)
    if unknown or not encoder:
        raise WeightsError(
            f"{source} is not a VideoMAE checkpoint: "
            + (f"unused keys: {listing(unknown)}" if unknown else "it has no encoder")
            + "; it must hold exactly the keys of an official pretraining or fine-tuned file"
        )
    return OfficialState(encoder, rest, pretraining)


def _official_names(state: State, *, source: str) -> State:
    """The state with mmaction2's names replaced by the official ones."""
    if "patch_embed.projection.weight" not in state:
        return state
    renamed: State = {}
    for key, value in state.items():
        if key == "pos_embed":
            fixed_ND = sincos_table(*value.shape[-2:])
            if value.numel() != fixed_ND.numel() or not torch.allclose(
                value.reshape(fixed_ND.shape), fixed_ND, atol=1e-5
            ):
                raise WeightsError(f"{source}: its position embeddings were trained; wanted the fixed sine-cosine ones")
            continue
        for theirs, ours in _MMACTION.items():
            key = re.sub(theirs, ours, key)
        renamed[key] = value
    return renamed


def encoder_config(state: Mapping[str, Tensor], *, frames: int, size: int, heads: int | None) -> EncoderConfig:
    """The encoder's config, inferred from its tensors, under the keys of VideoEncoder, and from the arguments.

    `frames` and `size` may be any multiples of the patch. `heads` of None is the published number for this width.

    Raises:
        WeightsError: the patch kernel is missing, or the width is no published one and `heads` is not given.
    """
    if "patch_embed.proj.weight" not in state or "blocks.0.mlp.fc1.weight" not in state:
        raise WeightsError("missing keys: patch_embed.proj.weight or blocks.0.mlp.fc1.weight; give a whole checkpoint")
    dim, _, tubelet, patch, _ = state["patch_embed.proj.weight"].shape
    known = {int(settings["dim"]): int(settings["heads"]) for settings in SIZES.values()}
    if heads is None and dim not in known:
        raise WeightsError(f"width {dim} is not a published one {sorted(known)}; give the number of heads")
    return EncoderConfig(
        frames=frames,
        size=size,
        tubelet=tubelet,
        patch=patch,
        dim=dim,
        depth=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        heads=heads if heads is not None else known[dim],
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        final_norm="norm.weight" in state,
    )
