"""The commands `videomae checkpoint ...` and `videomae weights ...`. Heavy imports stand in the functions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from videomae.command import PATH, examples, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from videomae.run.checkpoint.inspection import CheckpointInfo

step_option = click.option("--step", type=int, help="Step of the checkpoint; default: the latest valid one.")


@click.command(
    epilog=examples("videomae checkpoint ls runs/NAME", "videomae checkpoint ls runs/NAME/checkpoints --json")
)
@click.argument("path", type=PATH)
@json_option
def ls(path: Path, *, as_json: bool) -> None:
    """List checkpoints with their step, size, age and writer.

    PATH is a run directory, its checkpoints folder, or one checkpoint. File sizes are compared with the manifest;
    `videomae checkpoint verify` compares hashes.
    """
    _list(path, thorough=False, as_json=as_json)


@click.command(
    epilog=examples(
        "videomae checkpoint verify runs/NAME", "videomae checkpoint verify runs/NAME/checkpoints/step-00000200"
    )
)
@click.argument("path", type=PATH)
@json_option
def verify(path: Path, *, as_json: bool) -> int:
    """Check every byte of checkpoints against their hashes.

    PATH is a run directory, its checkpoints folder, or one checkpoint. The exit code is 1 if one is not valid.
    """
    return int(any(row.fault for row in _list(path, thorough=True, as_json=as_json)))


@click.command(
    epilog=examples(
        "videomae checkpoint export runs/NAME weights.safetensors",
        "videomae checkpoint export runs/NAME weights.safetensors --weights ema --step 200",
    )
)
@click.argument("path", type=PATH)
@click.argument("out", type=PATH)
@step_option
@click.option("--weights", type=click.Choice(["master", "ema"]), default="master", help="Weights, or their average.")
@json_option
def export(path: Path, out: Path, *, step: int | None, weights: str, as_json: bool) -> None:
    """Export the full fp32 weights as one safetensors file.

    PATH is a run directory, its checkpoints folder, or one checkpoint. Pretraining can start from the file with
    weights=FILE; `videomae export` writes the encoder or classifier alone.
    """
    from videomae.core.progress import log_to
    from videomae.run.checkpoint.inspection import pick_checkpoint
    from videomae.run.checkpoint.transfer import export_weights

    log_to(None)
    checkpoint = pick_checkpoint(path, step)
    tensors = export_weights(checkpoint, out, weights=weights)
    result = {"out": str(out), "step": checkpoint.step, "weights": weights, "tensors": tensors}
    text = f"{out}: {tensors} tensors, {weights} of step {checkpoint.step}"
    click.echo(json.dumps(result) if as_json else text)


@click.command(
    epilog=examples(
        "videomae checkpoint convert runs/NAME resharded --ranks 4",
        "videomae checkpoint convert runs/NAME checkpoint.pt",
    )
)
@click.argument("path", type=PATH)
@click.argument("out", type=PATH)
@step_option
@click.option("--ranks", type=int, default=1, help="Number of files to write.")
@json_option
def convert(path: Path, out: Path, *, step: int | None, ranks: int, as_json: bool) -> None:
    """Convert a checkpoint to another number of files, or to one file for torch.load.

    PATH is a run directory, its checkpoints folder, or one checkpoint. OUT is a folder, or a file that ends in .pt.
    """
    from videomae.core.progress import log_to
    from videomae.run.checkpoint.inspection import pick_checkpoint
    from videomae.run.checkpoint.transfer import convert_to_ranks, convert_to_torch

    log_to(None)
    checkpoint = pick_checkpoint(path, step)
    if out.suffix in (".pt", ".pth"):
        convert_to_torch(checkpoint, out)
        text = f"{out}: step {checkpoint.step}; read it with torch.load(PATH, weights_only=True)"
    else:
        convert_to_ranks(checkpoint, out, ranks=ranks)
        text = f"{out}: step {checkpoint.step} in {ranks} files; resume from it with checkpoint.resume=PATH"
    result = {"out": str(out), "step": checkpoint.step, "from": str(checkpoint.folder)}
    click.echo(json.dumps(result) if as_json else text)


def _list(path: Path, *, thorough: bool, as_json: bool) -> list[CheckpointInfo]:
    from videomae.core.progress import log_to, print_wide
    from videomae.run.checkpoint.inspection import list_checkpoints

    log_to(None)
    found = list_checkpoints(path, hashes=thorough)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found]))
    else:
        print_wide(_table(found, thorough))
    return found


def _table(found: list[CheckpointInfo], thorough: bool) -> Table:
    from rich.table import Table

    from videomae.core.progress import time_since

    table = Table()
    for heading in ("checkpoint", "step", "MB", "age", "written by", "valid" if thorough else "valid (sizes)"):
        table.add_column(heading, justify="right" if heading in ("step", "MB", "age") else "left", overflow="fold")
    for row in found:
        by = "{kind}, ZeRO {zero_stage}, {precision}, {world} ranks".format(**row.engine) if row.engine else ""
        step = "" if row.step is None else str(row.step)
        table.add_row(
            row.name, step, f"{row.bytes / 1e6:.1f}", time_since(row.saved) if row.saved else "", by, row.fault or "yes"
        )
    return table


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
