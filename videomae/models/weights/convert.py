"""Convert checkpoints between our export, official VideoMAE and Hugging Face transformers."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from videomae.core.files import write_atomic, write_json
from videomae.models.encoder import EncoderConfig
from videomae.models.weights.export import load_encoder, save_encoder
from videomae.models.weights.files import State, WeightsError, read_state
from videomae.models.weights.huggingface import Form, from_huggingface, is_huggingface, to_config, to_huggingface
from videomae.models.weights.official import encoder_config, take_apart

_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class ImportReport:
    """The result of an import."""

    config: EncoderConfig
    skipped: tuple[str, ...]  # modules outside the encoder: decoder, head


def read_official(path: Path) -> tuple[State, dict[str, Any]]:
    """Read a VideoMAE checkpoint of any known form: the state under official names, and transformers' config, if any.

    Args:
        path: a file, or a folder of transformers (config.json beside model.safetensors or pytorch_model.bin).

    Raises:
        WeightsError: nothing can be read, or keys are unknown.
    """
    config: dict[str, Any] = {}
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).is_file()]
        if not found:
            raise WeightsError(
                f"{path} holds none of {', '.join(_FILES)}; give a checkpoint file or transformers' folder"
            )
        if (path / "config.json").is_file():
            config = json.loads((path / "config.json").read_text())
        path = found[0]
    state = read_state(path)
    return (from_huggingface(state, source=str(path)) if is_huggingface(state) else state), config


def import_encoder(
    source: Path, out: Path, *, frames: int | None = None, size: int | None = None, heads: int | None = None
) -> ImportReport:
    """Write the encoder of a foreign checkpoint as our export; arguments take precedence over the folder's config.json.

    Raises:
        WeightsError: the checkpoint has unknown or missing keys, or its number of heads is unknown.
    """
    state, theirs = read_official(source)
    parts = take_apart(state, source=str(source))
    config = encoder_config(
        parts.encoder,
        frames=frames or theirs.get("num_frames", 16),
        size=size or theirs.get("image_size", 224),
        heads=heads or theirs.get("num_attention_heads"),
    )
    if parts.pretraining and not theirs.get("use_mean_pooling", False):  # with it, transformers has no final norm
        config = dataclasses.replace(config, final_norm=True)
    run = source.name if source.is_dir() else source.stem
    save_encoder(parts.encoder, config, out, {"run": run, "source": source.name})
    skipped = {key.split(".")[0] for key in parts.rest}
    return ImportReport(config, tuple(sorted(skipped)))


def export_to_huggingface(source: Path, out: Path, *, form: Form = "v4") -> None:
    """Write our exported encoder as a folder that transformers' VideoMAEModel loads.

    Raises:
        WeightsError: `source` is not an exported encoder.
    """
    export = load_encoder(source)
    if not export.config.final_norm:
        raise WeightsError(f"{source} has no final norm, which VideoMAEModel needs; export a pretraining run's encoder")
    prefixed = {f"encoder.{key}": value for key, value in export.state.items()}
    write_huggingface(prefixed, export.config, out, form=form)


def write_huggingface(state: State, config: EncoderConfig, out: Path, *, form: Form) -> None:
    """Write a state in official names, of an encoder with prefixes or of a classifier, as transformers' folder.

    Raises:
        WeightsError: the encoder has positions that transformers' VideoMAE lacks.
    """
    if config.positions != "sincos_1d":
        raise WeightsError(f"transformers' VideoMAE has sincos_1d positions, the encoder has {config.positions}")
    out.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous() for key, value in to_huggingface(state, form=form).items()}
    write_atomic(out / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}), sync=True)
    write_json(out / "config.json", to_config(config, state))
