"""Import a fine-tuned VideoMAE classifier: `videomae weights import-classifier CHECKPOINT OUT`.

Reads official VideoMAE and VideoMAEv2 checkpoints and Hugging Face transformers, including the head. The result has the
form of a run's `export/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.export import ClassifierDescription, save_classifier
from finetune.models.videomae import VideomaeClassifier, VideomaeConfig
from videomae.models.weights.convert import read_official
from videomae.models.weights.files import WeightsError, load_strictly
from videomae.models.weights.official import encoder_config, take_apart


def import_classifier(
    source: Path, out: Path, *, classes: Sequence[str], frames: int | None, size: int | None, heads: int | None
) -> None:
    """Write the classifier in `source` to the folder `out`; arguments take precedence over the folder's config.json.

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
