"""The commands `videomae weights ...`. Heavy imports stand in the functions, so that --help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from videomae.command import PATH, examples


@click.command(
    "import",
    epilog=examples(
        "videomae weights import checkpoint.pth runs/imported",
        "videomae finetune configs/finetune/videomae.yaml model.weights=runs/imported",
    ),
)
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@click.option("--frames", type=int, help="Frames of the input; default: from the folder's config, else 16.")
@click.option("--size", type=int, help="Pixels of the input; default: from the folder's config, else 224.")
@click.option("--heads", type=int, help="Attention heads; default: from the folder's config, else as published.")
def import_weights(source: Path, out: Path, *, frames: int | None, size: int | None, heads: int | None) -> None:
    """Import a pretrained VideoMAE encoder.

    SOURCE is a checkpoint file of VideoMAE, VideoMAEv2, mmaction2 or transformers, or a folder of transformers. OUT is
    the export folder to write.
    """
    from videomae.models.weights.convert import import_encoder

    report = import_encoder(source, out, frames=frames, size=size, heads=heads)
    click.echo(f"{out}: encoder of dim {report.config.dim} and depth {report.config.depth} from {source}")
    if report.skipped:
        click.echo(f"ignored, as not part of the encoder: {', '.join(report.skipped)}")
    click.echo(f"fine-tune from it with model.weights={out}")


@click.command("export", epilog=examples("videomae weights export runs/NAME/export huggingface-videomae"))
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@click.option("--form", type=click.Choice(["v4", "v5"]), default="v4", help="Version of transformers that names keys.")
def export_weights(source: Path, out: Path, *, form: Literal["v4", "v5"]) -> None:
    """Export an encoder or a VideoMAE classifier for Hugging Face transformers.

    SOURCE is the export folder of a run, OUT the folder to write.
    """
    from finetune.export import DESCRIPTION, classifier_to_huggingface
    from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD
    from videomae.models.weights.convert import export_to_huggingface

    if (source / DESCRIPTION).is_file():
        classifier_to_huggingface(source, out, form=form)
        readers = "AutoModelForVideoClassification"
    else:
        export_to_huggingface(source, out, form=form, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        readers = "AutoModel"
    click.echo(f"{out}: {form} form of {source}; read it with {readers} and AutoImageProcessor")
