"""The commands that concern more than one stage. Heavy imports stand in the functions, so that --help is quick."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import click

from videomae.command import PATH, examples, json_option


@click.command(
    epilog=examples(
        "videomae export runs/NAME",
        "videomae export runs/NAME --step 200 --weights master --out encoder",
        "videomae export runs/NAME --to onnx --check clip.mp4",
    )
)
@click.argument("run", type=PATH)
@click.option("--step", type=int, help="Step of the checkpoint; default: the newest valid one.")
@click.option("--weights", type=click.Choice(["ema", "master"]), help="Default: the average (ema) where it is kept.")
@click.option("--out", type=PATH, help="Folder; default: export-step-... in the run directory.")
@click.option(
    "--to",
    "form",
    type=click.Choice(["onnx", "torchscript", "huggingface", "safetensors"]),
    help="Form for other programs, compared with the original; default: the form of a run's export/.",
)
@click.option("--check", type=PATH, multiple=True, help="Video to compare on, with --to; default: the run's shards.")
@click.option("--tolerance", type=float, default=1e-4, help="Largest difference that is accepted, with --to.")
@json_option
def export(
    run: Path, *, step: int | None, weights: str | None, out: Path | None, form: str | None, as_json: bool, **proof: Any
) -> None:
    """Export the encoder or classifier of a run.

    RUN is the directory of a pretraining or fine-tuning run, which may still train. Without --to, the folder has the
    form that a finished run leaves in its export/. With --to, RUN may be such a folder too; the export is loaded
    again, compared with the original on real clips and timed, and gets a model card.
    """
    from finetune.export import export_classifier
    from launch.exports.export import export_run
    from launch.job import Job
    from pretrain.export import export_encoder
    from videomae.core.progress import log_to
    from videomae.run.directory import RunDirectory

    log_to(None)
    average = None if weights is None else weights == "ema"
    if form is not None:
        report = export_run(run, cast(Any, form), out=out, step=step, average=average, **proof)
        click.echo(json.dumps(dataclasses.asdict(report)) if as_json else str(report))
        return
    if Job.read(RunDirectory(run).config).module == "pretrain":
        folder = export_encoder(run, step=step, average=average, out=out)
        text = f"{folder}: fine-tune from it with model.weights={folder}"
    else:
        folder = export_classifier(run, step=step, average=average, out=out)
        text = f"{folder}: classifier.safetensors and classifier.json"
    click.echo(json.dumps({"out": str(folder)}) if as_json else text)


@click.command(
    epilog=examples("videomae models", "videomae models s3d", "videomae models late_fusion frames=8 size=112 --json")
)
@click.argument("name", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--classes", type=int, default=2, help="Classes of the model in the layer table.")
@click.option("--no-fields", is_flag=True, help="Omit receptive fields, which take a while.")
@json_option
def models(name: str | None, overrides: tuple[str, ...], *, classes: int, no_fields: bool, as_json: bool) -> None:
    """List the models, or the layers of one model.

    Without NAME: parameters and GMACs of every model, measured and published. With NAME: sizes, parameters, GMACs and
    receptive fields of its layers; KEY=VALUE changes a setting of that model.
    """
    from launch import model_tables

    if name is None:
        model_tables.show_models(as_json=as_json)
    else:
        model_tables.show_layers(name, overrides, classes=classes, fields=not no_fields, as_json=as_json)


@click.command(
    epilog=examples("videomae demo --out runs/demo", "videomae demo --out runs/demo-clips --data path/to/clips")
)
@click.option("--out", type=PATH, default=Path("runs/demo"), help="Folder of the results.")
@click.option("--data", type=PATH, help="Your videos: train|val / class / *.mp4, or folders of frames.")
def demo(out: Path, data: Path | None) -> int:
    """Run the whole pipeline on this machine, from videos to a report.

    Builds shards of synthetic videos or of yours, pretrains on up to 8 GPUs or on 2 CPU processes, trains and evaluates
    the rows of a benchmark, and writes OUT/report.html. Each stage reuses finished results and resumes unfinished ones.
    """
    from launch.demo import run_demo

    return run_demo(out, data)
