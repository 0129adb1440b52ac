"""The exported classifier: `classifier.safetensors` beside `classifier.json`, all that using it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from finetune.models import ModelConfig, build
from videomae.core.config import configclass, parse, to_dict
from videomae.core.files import atomic_path, write_json
from videomae.models.weights.files import WeightsError, load_strictly, read_state

TENSORS = "classifier.safetensors"
DESCRIPTION = "classifier.json"


@configclass
class ClassifierDescription:
    """What classifier.json holds: the model's config and the classes in the order of the logits."""

    model: ModelConfig
    classes: tuple[str, ...]
    ema: float | None = None  # optimizer.ema of a moving average of the weights; null: the last weights


@dataclass(frozen=True)
class Classifier:
    """A trained model on the host, in evaluation mode."""

    module: nn.Module
    model: ModelConfig
    classes: tuple[str, ...]


def save_classifier(state: Mapping[str, Tensor], description: ClassifierDescription, folder: Path) -> None:
    """Write both files into `folder`; each appears whole or not at all, the JSON last."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / TENSORS) as part:
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, part)
    write_json(folder / DESCRIPTION, to_dict(description))


def load_classifier(folder: Path) -> Classifier:
    """Read an exported classifier.

    Raises:
        WeightsError: a file is missing or damaged, or tensors and description do not belong together.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        raise WeightsError(
            f"no {DESCRIPTION} in {folder}; finish the run first: python -m finetune {folder.parent}/config.yaml"
        )
    description = parse(ClassifierDescription, json.loads(file.read_text()), source=str(file))
    module = build(description.model, len(description.classes), initialise=False)
    load_strictly(module, read_state(folder / TENSORS), source=str(folder / TENSORS))
    return Classifier(module.eval(), description.model, description.classes)
