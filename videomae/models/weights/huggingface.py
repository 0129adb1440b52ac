"""Convert VideoMAE states between the key names of Hugging Face transformers and the official ones.

Version 4 stores the biases of queries and values as `q_bias` and `v_bias`; version 5 renamed them to `query.bias` and
`value.bias`. Its first releases silently load older files with zero biases; later ones convert them, and write the old
names again. Both forms are read here; a key bias, which some releases write, must be zero.
A file of `VideoMAEModel` lacks the prefix `videomae.` of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from videomae.core.errors import listing
from videomae.models.encoder import EncoderConfig
from videomae.models.weights.files import State, WeightsError

Form = Literal["v4", "v5"]

_TOP = {
    "videomae.embeddings.patch_embeddings.projection": "encoder.patch_embed.proj",
    "videomae.layernorm": "encoder.norm",
    "encoder_to_decoder": "encoder_to_decoder",
    "decoder.norm": "decoder.norm",
    "decoder.head": "decoder.head",
    "fc_norm": "fc_norm",
    "classifier": "head",
}
_BASE_MODEL = ("embeddings.", "encoder.layer.", "layernorm.")  # keys of VideoMAEModel
_STACKS = {"videomae.encoder.layer": "encoder.blocks", "decoder.decoder_layers": "decoder.blocks"}
_LAYER = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_BIASES: dict[Form, dict[str, str]] = {
    "v4": {"q_bias": "q_bias", "v_bias": "v_bias"},
    "v5": {"q_bias": "query.bias", "v_bias": "value.bias"},
}


def is_huggingface(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(("videomae.", *_BASE_MODEL)) for key in state)


def from_huggingface(state: Mapping[str, Tensor], *, source: str) -> State:
    """The same tensors under official names, a fine-tuned model's encoder without its prefix.

    Raises:
        WeightsError: a key is unknown, a key bias is not zero, or a layer misses one of query, key and value.
    """
    renamed: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    unknown: list[str] = []
    for key, value in state.items():
        name, part = _official(f"videomae.{key}" if key.startswith(_BASE_MODEL) else key)
        if name is None:
            unknown.append(key)
        elif part is None:
            renamed[name] = value
        elif part == "key.bias":
            if value.any():
                raise WeightsError(f"{source}: {key} is not zero, but VideoMAE's keys have no bias")
        else:
            parts.setdefault(name, {})[part] = value
    if unknown:
        raise WeightsError(f"{source}: unused keys: {listing(unknown)}; give a VideoMAE model of transformers")
    for name, found in parts.items():
        absent = [part for part in ("query", "key", "value") if part not in found]
        if absent:
            raise WeightsError(f"{source}: missing keys: {', '.join(absent)} of {name}")
        renamed[f"{name}.qkv.weight"] = torch.cat([found["query"], found["key"], found["value"]])
    if any(key.startswith(("head.", "fc_norm.")) for key in renamed):
        return {key.removeprefix("encoder."): value for key, value in renamed.items()}
    return renamed


def to_huggingface(state: Mapping[str, Tensor], *, form: Form) -> State:
    """The reverse, from official names: a pretraining state with its prefixes, or a fine-tuned one without."""
    if "head.weight" in state:
        state = {key if key.startswith(("fc_norm.", "head.")) else f"encoder.{key}": v for key, v in state.items()}
    renamed: State = {}
    for key, value in state.items():
        if key == "mask_token":
            renamed[key] = value
        elif match := re.fullmatch(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)", key):
            stack = "videomae.encoder.layer" if match[1] == "encoder" else "decoder.decoder_layers"
            renamed |= _their_layer(f"{stack}.{match[2]}", match[3], value, form)
        else:
            stem, _, kind = key.rpartition(".")
            renamed[f"{_reverse(_TOP)[stem]}.{kind}"] = value
    return renamed


def to_config(encoder: EncoderConfig, state: Mapping[str, Tensor], classes: Sequence[str] = ()) -> dict[str, Any]:
    """transformers' config.json for a state in official names; `classes` names the outputs of a head."""
    config: dict[str, Any] = {
        "model_type": "videomae",
        "image_size": encoder.size,
        "patch_size": encoder.patch,
        "num_frames": encoder.frames,
        "tubelet_size": encoder.tubelet,
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": round(encoder.dim * encoder.mlp_ratio),
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "qv_bias": True,
    }
    if "head.weight" in state:
        names = tuple(classes) or tuple(f"LABEL_{number}" for number in range(len(state["head.weight"])))
        labels = to_labels(names)
        return config | labels | {"architectures": ["VideoMAEForVideoClassification"], "use_mean_pooling": True}
    return config | {"architectures": ["VideoMAEModel"], "use_mean_pooling": False}


def to_labels(classes: Sequence[str]) -> dict[str, Any]:
    """The part of transformers' config.json that names the outputs of a head."""
    numbers = {name: number for number, name in enumerate(classes)}
    return {"id2label": {str(number): name for name, number in numbers.items()}, "label2id": numbers}


def to_preprocessor(size: int, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """transformers' preprocessor_config.json: short side to `size` pixels, centre crop, scale to [0, 1], normalise."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _official(key: str) -> tuple[str | None, str | None]:
    """The official name, or None for an unknown key; for parts of an attention, its name and which part."""
    if key == "mask_token":
        return key, None
    for theirs, ours in _STACKS.items():
        if match := re.fullmatch(rf"{re.escape(theirs)}\.(\d+)\.(.+)", key):
            return _official_layer(f"{ours}.{match[1]}", match[2])
    stem, _, kind = key.rpartition(".")
    return (f"{_TOP[stem]}.{kind}", None) if stem in _TOP else (None, None)


def _official_layer(block: str, rest: str) -> tuple[str | None, str | None]:
    if match := re.fullmatch(r"attention\.attention\.(.+)", rest):
        part = match[1]
        for names in _BIASES.values():
            for ours, theirs in names.items():
                if part == theirs:
                    return f"{block}.attn.{ours}", None
        if part in ("query.weight", "key.weight", "value.weight"):
            return f"{block}.attn", part.removesuffix(".weight")
        return (f"{block}.attn", part) if part == "key.bias" else (None, None)
    stem, _, kind = rest.rpartition(".")
    return (f"{block}.{_LAYER[stem]}.{kind}", None) if stem in _LAYER else (None, None)


def _their_layer(layer: str, rest: str, value: Tensor, form: Form) -> State:
    attention = f"{layer}.attention.attention"
    if rest == "attn.qkv.weight":
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return {f"{attention}.{name}.weight": part.contiguous() for name, part in parts}
    if rest in ("attn.q_bias", "attn.v_bias"):
        return {f"{attention}.{_BIASES[form][rest.removeprefix('attn.')]}": value}
    stem, _, kind = rest.rpartition(".")
    return {f"{layer}.{_reverse(_LAYER)[stem]}.{kind}": value}


def _reverse(names: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in names.items()}
