"""The exported encoder: `encoder.safetensors` beside `encoder.json`, the result of pretraining.

The keys are those of `VideoEncoder`, final norm included; the JSON holds the encoder's config and its origin. The file
of a whole autoencoder, which `videomae checkpoint export` writes, serves as well: it holds the config in its metadata.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from videomae.core.config import ConfigError, parse, to_dict
from videomae.core.files import write_atomic
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.weights.files import State, WeightsError, differences, load_strictly, read_state, without

TENSORS = "encoder.safetensors"
DESCRIPTION = "encoder.json"
_ENCODER = "encoder."  # prefix of the encoder's keys in an autoencoder


class EncoderExport(NamedTuple):
    """The content of an exported encoder."""

    config: EncoderConfig
    state: State
    metadata: dict[str, Any]


def save_encoder(state: Mapping[str, Tensor], config: EncoderConfig, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write the two files into `folder`; each appears whole or not at all, the JSON last.

    Raises:
        WeightsError: the keys and shapes of `state` are not those of `VideoEncoder(config)`.
    """
    _check(state, config, source=f"the state to be exported to {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    description = json.dumps({"encoder": to_dict(config), "metadata": dict(metadata)}, indent=2) + "\n"
    write_atomic(folder / TENSORS, safetensors.torch.save(tensors), sync=True)
    write_atomic(folder / DESCRIPTION, description, sync=True)


def load_encoder(path: Path | str) -> EncoderExport:
    """Read an exported encoder from its folder or the path of its tensors, or that of a whole autoencoder.

    Raises:
        WeightsError: a file is missing or damaged, or the tensors do not fit the config.
    """
    config, metadata = describe_encoder(path)
    state = read_state(Path(path) if Path(path).suffix == ".safetensors" else Path(path) / TENSORS)
    if is_autoencoder(Path(path)):
        state = {key.removeprefix(_ENCODER): value for key, value in state.items() if key.startswith(_ENCODER)}
    _check(state, config, source=str(path))
    return EncoderExport(config, state, metadata)


def is_export(path: Path) -> bool:
    """Whether `path` is the folder of an exported encoder, its safetensors file, or that of a whole autoencoder."""
    folder = path.parent if path.suffix == ".safetensors" else path
    return (folder / DESCRIPTION).is_file() or is_autoencoder(path)


def is_autoencoder(path: Path) -> bool:
    """Whether `path` is the file of a whole autoencoder, with the encoder's config in its metadata."""
    return "encoder" in _metadata(path)


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for anything else."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safetensors.safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError:
        return {}


def describe_encoder(path: Path | str) -> tuple[EncoderConfig, dict[str, Any]]:
    """The config and metadata of an exported encoder or a whole autoencoder, without its tensors.

    Raises:
        WeightsError: the description is missing or damaged.
    """
    within = _metadata(Path(path))
    if "encoder" in within:
        try:
            return parse(EncoderConfig, json.loads(within.pop("encoder")), source=str(path)), dict(within)
        except (json.JSONDecodeError, TypeError, ConfigError) as error:
            raise WeightsError(f"{path}: its metadata describes no encoder: {error}") from None
    folder = Path(path).parent if Path(path).suffix == ".safetensors" else Path(path)
    description = folder / DESCRIPTION
    if Path(path).is_file() and (Path(path) == folder or not description.is_file()):
        raise WeightsError(
            f"{path} is no exported encoder; import it first: videomae weights import {path} runs/imported"
        )
    if not description.is_file():
        raise WeightsError(
            f"no {DESCRIPTION} in {folder}; give the export folder of a pretraining run, for example runs/NAME/export"
        )
    try:
        content = json.loads(description.read_text())
        config = parse(EncoderConfig, content["encoder"], source=str(description))
        return config, dict(content.get("metadata", {}))
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError, ConfigError) as error:
        raise WeightsError(f"{description}: not the description of an exported encoder: {error}") from None


def encoder_config(given: EncoderConfig | None, weights: str | None) -> EncoderConfig:
    """The encoder's config: that of the weights, which must equal `given` if both are present.

    Drop path and final norm depend on the training stage and are not compared.

    Raises:
        WeightsError: both are present and differ; the message names each setting.
    """
    if weights is None:
        return given or EncoderConfig()
    exported, _ = describe_encoder(weights)
    if given is None:
        return exported
    per_stage = {"drop_path", "final_norm"}
    names = [field.name for field in dataclasses.fields(EncoderConfig) if field.name not in per_stage]
    differing = [
        f"{name} is {getattr(given, name)} in the config and {getattr(exported, name)} in {weights}"
        for name in names
        if getattr(given, name) != getattr(exported, name)
    ]
    if differing:
        raise WeightsError("; ".join(differing) + "; give encoder the settings of the weights")
    return given


def load_backbone(encoder: VideoEncoder, weights: str) -> None:
    """Load an exported encoder strictly; its final norm is skipped if `encoder` has none."""
    export = load_encoder(weights)
    dropped = [] if encoder.config.final_norm else ["norm."]
    load_strictly(encoder, without(export.state, dropped), source=f"the encoder in {weights}")


def _check(state: Mapping[str, Tensor], config: EncoderConfig, *, source: str) -> None:
    with torch.device("meta"):
        wanted = VideoEncoder(config).state_dict()
    found = differences(state, wanted)
    if found:
        raise WeightsError(f"{source} is no encoder of dim {config.dim} and depth {config.depth}; {found}")
