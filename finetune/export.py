"""Save, load, import and convert exported classifiers: `classifier.safetensors` and `classifier.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import FinetuneConfig
from finetune.models import ModelConfig, build
from finetune.models.videomae import VideomaeClassifier, VideomaeConfig
from finetune.models.vivit import JointVivit
from finetune.stored_clips import StoredClips, describe_clips
from finetune.stream import split
from videomae.core.config import configclass, load, parse, to_dict
from videomae.core.errors import UserError
from videomae.core.files import atomic_path, write_json
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.reader import read_full
from videomae.models.weights.convert import read_official, write_huggingface, write_model_folder
from videomae.models.weights.files import State, WeightsError, load_strictly, read_state
from videomae.models.weights.huggingface import Form, to_huggingface, to_labels, to_preprocessor
from videomae.models.weights.official import encoder_config, take_apart
from videomae.run.checkpoint.inspection import pick_checkpoint
from videomae.run.directory import RunDirectory

TENSORS = "classifier.safetensors"
DESCRIPTION = "classifier.json"
_VIVIT_EMBEDDINGS = {"cls_token": "cls_token", "position_embeddings": "pos_embed"}  # transformers' names of ours


@configclass
class ClassifierDescription:
    """Content of classifier.json: the model config, the class names in the order of the logits, the training clips."""

    model: ModelConfig
    classes: tuple[str, ...]
    stored: StoredClips | None = None  # null: unknown, as for imported weights
    ema: float | None = None  # decay of the exported moving average; null: the weights of the last step, not averaged


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained model on the CPU, in evaluation mode, with its config, class names and the form of its clips."""

    module: nn.Module
    model: ModelConfig
    classes: tuple[str, ...]
    stored: StoredClips | None = None


def save_classifier(state: Mapping[str, Tensor], description: ClassifierDescription, folder: Path) -> None:
    """Write both files to `folder`. Each write is atomic; the JSON file is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / TENSORS) as part:
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, part)
    write_json(folder / DESCRIPTION, to_dict(description))


def load_classifier(folder: Path) -> TrainedClassifier:
    """Read an exported classifier.

    Raises:
        WeightsError: a file is missing or damaged, or the tensors do not match the description.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        raise WeightsError(
            f"no {DESCRIPTION} in {folder}; finish the run first: videomae finetune {folder.parent}/config.yaml"
        )
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise WeightsError(f"{file}: not valid JSON ({error}); copy the export again") from None
    description = parse(ClassifierDescription, values, source=str(file))
    module = build(description.model, len(description.classes), initialise=False)
    load_strictly(module, read_state(folder / TENSORS), source=str(folder / TENSORS))
    return TrainedClassifier(module.eval(), description.model, description.classes, description.stored)


def load_trained(folder: Path) -> TrainedClassifier:
    """Load the classifier of a finished run, or of the folder of an export.

    Raises:
        UserError: the run is not finished, or holds no classifier.
    """
    if (folder / DESCRIPTION).is_file():
        return load_classifier(folder)
    run = RunDirectory(folder)
    if not run.config.is_file():
        raise UserError(f"no run at {folder}: it holds neither config.yaml nor {DESCRIPTION}; give a run directory")
    if not (run.export / DESCRIPTION).is_file():
        raise UserError(
            f"{folder} holds no classifier: the run is not finished, or is a pretraining run; finish it with "
            f"videomae finetune {run.config}, or export a checkpoint with videomae export {folder}"
        )
    return load_classifier(run.export)


def import_classifier(
    source: Path, out: Path, *, classes: Sequence[str], frames: int | None, size: int | None, heads: int | None
) -> None:
    """Write the fine-tuned classifier of the official VideoMAE, VideoMAEv2 or transformers in `source` to `out`.

    The result has the form of a run's `export/`. Arguments take precedence over the folder's config.json.

    Raises:
        WeightsError: the checkpoint has no head, unused or missing keys, or another number of classes.
    """
    state, theirs = read_official(source)
    parts = take_apart(state, source=str(source))
    if "head.weight" not in parts.rest:
        raise WeightsError(f"{source} has no head; import its encoder with: videomae weights import")
    if len(parts.rest["head.weight"]) != len(classes):
        raise WeightsError(
            f"{source} has {len(parts.rest['head.weight'])} classes, but --classes has {len(classes)} names; "
            "give one name per class, in the order of the logits"
        )
    encoder = encoder_config(
        parts.encoder,
        frames=frames or theirs.get("num_frames", 16),
        size=size or theirs.get("image_size", 224),
        heads=heads or theirs.get("num_attention_heads"),
    )
    config = VideomaeConfig(encoder=encoder, drop_path=0.0)
    model = VideomaeClassifier(config, len(classes))
    complete = {f"encoder.{key}": value for key, value in parts.encoder.items()} | parts.rest
    load_strictly(model, complete, source=str(source))
    save_classifier(model.state_dict(), ClassifierDescription(model=config, classes=tuple(classes)), out)


def classifier_to_huggingface(source: Path, out: Path, *, form: Form) -> None:
    """Write an exported VideoMAE or vivit_1 as a folder of transformers (`AutoModelForVideoClassification`).

    transformers' norm before the head of VideoMAE has an epsilon of 1e-5, ours and the official one 1e-6; logits differ
    by about that much. The names of ViViT's keys are the same in versions 4 and 5, whatever the `form`.

    Raises:
        WeightsError: `source` is not an exported classifier, or is of another model.
    """
    classifier = load_classifier(source)
    if isinstance(classifier.module, JointVivit):
        state, settings = _vivit_to_huggingface(classifier.module)
        # The processor of ViViT takes pixels of [-1, 1] to be normalised.
        shape = classifier.module.input
        scaled = [2 * mean - 1 for mean in shape.mean], [2 * std for std in shape.std]
        preprocessor = to_preprocessor(shape.size, *scaled)
        preprocessor |= {"image_processor_type": "VivitImageProcessor", "rescale_factor": 2 / 255, "offset": True}
        write_model_folder(out, state, settings | to_labels(classifier.classes), preprocessor)
        return
    if not isinstance(classifier.module, VideomaeClassifier):
        raise WeightsError(
            f"{source} is a {classifier.model.name}; transformers has counterparts of videomae and vivit_1 alone"
        )
    own = classifier.module.state_dict()
    state = {key.removeprefix("encoder."): value for key, value in own.items()}
    shape = classifier.module.input
    preprocessor = to_preprocessor(shape.size, shape.mean, shape.std)
    config = classifier.module.encoder.config
    write_huggingface(state, config, out, form=form, preprocessor=preprocessor, classes=classifier.classes)


def _vivit_to_huggingface(model: JointVivit) -> tuple[State, dict[str, Any]]:
    """transformers' state and config of ViViT's model 1.

    Its keys have a bias, which is zero here, and its patches span whole tubelets: of patches of the middle frame, the
    weights of the other frames are zero.
    """
    config, state = model.config, model.state_dict()
    embedding = {f"vivit.embeddings.{name}": state.pop(ours) for name, ours in _VIVIT_EMBEDDINGS.items()}
    found = to_huggingface(state, form="v5")
    found = {key.replace("videomae.", "vivit.", 1): value for key, value in found.items()} | embedding
    for key in [key for key in found if key.endswith("query.bias")]:
        found[key.replace("query", "key")] = torch.zeros_like(found[key])
    patches = "vivit.embeddings.patch_embeddings.projection.weight"
    if config.embedding == "uniform":
        middle = config.tubelet // 2
        found[patches] = functional.pad(found[patches], (0, 0, 0, 0, middle, config.tubelet - 1 - middle))
    return found, {
        "model_type": "vivit",
        "architectures": ["VivitForVideoClassification"],
        "image_size": config.size,
        "num_frames": config.frames,
        "tubelet_size": [config.tubelet, config.patch, config.patch],
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": round(config.dim * config.mlp_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
    }


def export_classifier(
    run: Path, *, step: int | None = None, average: bool | None = None, out: Path | None = None
) -> Path:
    """Export the classifier from the latest valid checkpoint of `run`, or from the one at `step`.

    The run may still be training. The class names are read from its shards.

    Args:
        run: the run directory.
        step: the step of the checkpoint; None selects the latest valid checkpoint.
        average: whether to export the moving average of the weights; None exports it if the run keeps one.
        out: the output folder; None selects `export-step-...` in the run directory.

    Returns:
        The output folder.

    Raises:
        UserError: there is no valid checkpoint, or the shards of the run are missing.
    """
    config = load(FinetuneConfig, RunDirectory(run).config)
    checkpoint = pick_checkpoint(run, step)
    averaged = config.optimizer.ema is not None if average is None else average
    state = read_full(checkpoint.folder, EMA if averaged else MASTER)
    folder = out or run / f"export-{checkpoint.folder.name}"
    ema = config.optimizer.ema if averaged else None
    train = split(config, "train")
    stored = describe_clips(train, config.evaluation)
    save_classifier(
        state, ClassifierDescription(model=config.model, classes=train.classes, stored=stored, ema=ema), folder
    )
    return folder
