"""A classifier that others fine-tuned, as our exported classifier: `python -m finetune.adopt CHECKPOINT OUT ...`.

Takes official VideoMAE and VideoMAEv2 files and folders or files of Hugging Face transformers, head included. The
result is what a run's `export/` holds, for predictions and for evaluation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune.export import ClassifierDescription, save_classifier
from finetune.models.videomae import VideomaeClassifier, VideomaeConfig
from videomae.command import guarded
from videomae.models.weights.convert import read_official
from videomae.models.weights.files import WeightsError, load_strictly
from videomae.models.weights.official import encoder_config, take_apart


def import_classifier(
    source: Path, out: Path, *, classes: Sequence[str], frames: int | None, size: int | None, heads: int | None
) -> None:
    """Write the classifier in `source` to the folder `out`; settings given win over a folder's config.json.

    Raises:
        WeightsError: no fine-tuned checkpoint, unused or missing keys, or another number of classes.
    """
    state, theirs = read_official(source)
    parts = take_apart(state, source=str(source))
    if "head.weight" not in parts.rest:
        raise WeightsError(f"{source} has no head; take its encoder in with: python -m videomae.models.weights import")
    if len(parts.rest["head.weight"]) != len(classes):
        raise WeightsError(
            f"{source} tells {len(parts.rest['head.weight'])} classes apart, but {len(classes)} names are given; "
            "type --classes with one name for each, in the order of its logits"
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m finetune.adopt", description="Take in a fine-tuned VideoMAE.")
    parser.add_argument("source", type=Path, help="a checkpoint file, or a folder of transformers")
    parser.add_argument("out", type=Path, help="the export folder to write, for example runs/NAME/export")
    parser.add_argument("--classes", required=True, help="names in the order of the logits, with commas between")
    parser.add_argument("--frames", type=int, help="default: the folder's config, else 16")
    parser.add_argument("--size", type=int, help="default: the folder's config, else 224")
    parser.add_argument("--heads", type=int, help="default: the folder's config, else the published number")
    given = parser.parse_args(arguments)
    classes = [name.strip() for name in given.classes.split(",")]
    return guarded(
        lambda: import_classifier(
            given.source, given.out, classes=classes, frames=given.frames, size=given.size, heads=given.heads
        )
    )


if __name__ == "__main__":
    sys.exit(main())
