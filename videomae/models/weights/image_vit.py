"""Weights of timm's image ViTs under the parameter names of our blocks."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from videomae.models.encoder import SIZES
from videomae.models.weights.files import State, WeightsError, read_state, strip_wrappers, without

_TIMM_SIZES = {(size["dim"], size["depth"]): name for name, size in SIZES.items()}


def image_label(source: str | None) -> str:
    """The label of the weights `source` in tables."""
    if source is None:
        return "scratch"
    return "ImageNet ViT" if source == "imagenet" else f"file {Path(source).name}"


def image_vit_state(source: str, *, dim: int, depth: int, patch: int) -> State:
    """The state of an image ViT of this size under our parameter names, without its classifier.

    `source` is a file, or "imagenet" for timm's weights, from its cache or a download.

    Raises:
        WeightsError: the file cannot be read, or timm has no such weights or cannot download them.
    """
    if source == "imagenet":
        state = _timm_state(dim, depth, patch)
    else:
        state = strip_wrappers(read_state(Path(source)), source=source)
    return split_qkv_bias(without(state, ["head.", "pre_logits.", "head_dist."]))


def split_qkv_bias(state: State) -> State:
    """Split timm's `attn.qkv.bias` into `q_bias` and `v_bias`; the key's bias is dropped, since softmax cancels it."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("attn.qkv.bias"):
            query, _, value_bias = value.chunk(3)
            stem = key.removesuffix("qkv.bias")
            renamed |= {stem + "q_bias": query, stem + "v_bias": value_bias}
        else:
            renamed[key] = value
    return renamed


def _timm_state(dim: int, depth: int, patch: int) -> State:
    import_module("videomae.core.torchvision_compat")  # timm imports torchvision, which this module makes importable
    import timm

    size = _TIMM_SIZES.get((dim, depth))
    name = f"vit_{size}_patch{patch}_224"
    if size is None or not timm.is_model_pretrained(name):
        raise WeightsError(f"timm has no image ViT of dim {dim}, depth {depth} and patch {patch}; give a file")
    try:
        model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"the weights of timm's {name} are not in the cache and cannot be downloaded ({error}); "
            "set model.weights=PATH of a file with its state, or model.weights=null"
        ) from None
    return {key: torch.as_tensor(value) for key, value in model.state_dict().items()}
