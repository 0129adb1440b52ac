"""Convert checkpoints between our export, official VideoMAE and Hugging Face transformers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from videomae.core.files import write_atomic, write_json
from videomae.models.encoder import EncoderConfig
from videomae.models.weights.export import load_encoder, save_encoder
from videomae.models.weights.files import INDEX_SUFFIX, State, WeightsError, read_state, strip_wrappers
from videomae.models.weights.huggingface import (
    Form,
    from_huggingface,
    is_huggingface,
    to_config,
    to_huggingface,
    to_preprocessor,
)
from videomae.models.weights.official import encoder_config, take_apart

_FILES = tuple(name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", INDEX_SUFFIX))


@dataclass(frozen=True)
class ImportReport:
    """The result of an import."""

    config: EncoderConfig
    skipped: tuple[str, ...]  # modules outside the encoder: decoder, head


def read_official(path: Path) -> tuple[State, dict[str, Any]]:
    """Read a VideoMAE checkpoint of any known form: the state under official names, and transformers' config, if any.

    `path` is a file, or a folder of transformers: config.json beside a safetensors or bin file, which may be sharded.

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
        config = _read_config(path / "config.json")
        path = found[0]
    state = strip_wrappers(read_state(path), source=str(path))
    return (from_huggingface(state, source=str(path)) if is_huggingface(state) else state), config


def _read_config(file: Path) -> dict[str, Any]:
    """transformers' config.json; empty if there is none. Raises WeightsError if it is damaged."""
    try:
        config = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise WeightsError(f"{file}: not valid JSON ({error}); copy or download it again") from None
    if not isinstance(config, dict) or config.get("model_type", "videomae") != "videomae":
        raise WeightsError(f"{file}: not the config of a VideoMAE model of transformers")
    return config


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
    if parts.rest and parts.pretraining and not theirs.get("use_mean_pooling", False):  # all but that have a final norm
        config = dataclasses.replace(config, final_norm=True)
    run = source.name if source.is_dir() else source.stem
    save_encoder(parts.encoder, config, out, {"run": run, "source": source.name})
    skipped = {key.split(".")[0] for key in parts.rest}
    return ImportReport(config, tuple(sorted(skipped)))


def export_to_huggingface(
    source: Path, out: Path, *, form: Form = "v4", mean: Sequence[float], std: Sequence[float]
) -> None:
    """Write the exported encoder `source` as a folder that transformers' AutoModel and AutoImageProcessor load.

    `form` is the version of transformers whose key names are written; `mean` and `std` of each channel, in [0, 1],
    normalise the encoder's input.

    Raises:
        WeightsError: `source` is not an exported encoder, or has no counterpart in transformers.
    """
    export = load_encoder(source)
    if not export.config.final_norm:
        raise WeightsError(f"{source} has no final norm, which VideoMAEModel needs; export a pretraining run's encoder")
    prefixed = {f"encoder.{key}": value for key, value in export.state.items()}
    write_huggingface(
        prefixed, export.config, out, form=form, preprocessor=to_preprocessor(export.config.size, mean, std)
    )


def write_huggingface(
    state: State,
    config: EncoderConfig,
    out: Path,
    *,
    form: Form,
    preprocessor: Mapping[str, Any],
    classes: Sequence[str] = (),
) -> None:
    """Write a state in official names, of an encoder with prefixes or of a classifier, as transformers' folder.

    Raises:
        WeightsError: the encoder has positions that transformers' VideoMAE lacks.
    """
    if config.positions != "sincos_1d":
        raise WeightsError(
            f"transformers' VideoMAE has sincos_1d positions, the encoder has {config.positions}; export it with "
            "videomae export --to onnx, torchscript or safetensors"
        )
    write_model_folder(out, to_huggingface(state, form=form), to_config(config, state, classes), preprocessor)


def write_model_folder(out: Path, state: State, config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> None:
    """Write a folder of transformers: a state in its names, config.json and preprocessor_config.json."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous() for key, value in state.items()}
    write_atomic(out / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}), sync=True)
    write_json(out / "preprocessor_config.json", preprocessor)
    write_json(out / "config.json", config)
