"""The commands of the supervised stage. Heavy imports stand in the functions, so that --help is quick."""

from __future__ import annotations

import json
from pathlib import Path

import click

from videomae.command import (
    PATH,
    config_arguments,
    examples,
    finish,
    guarded,
    json_option,
    run_stage,
)
from videomae.core.signals import handle_signals


@click.command(
    epilog=examples(
        "videomae finetune configs/finetune/videomae.yaml model.weights=runs/NAME/export",
        "videomae finetune configs/finetune/s3d.yaml batch=16",
        "torchrun --standalone --nproc-per-node 8 -m finetune configs/finetune/videomae.yaml",
    ),
)
@config_arguments
def finetune(config: Path, overrides: tuple[str, ...]) -> int:
    """Fine-tune an exported encoder, or train a baseline.

    CONFIG is a YAML file, such as those below configs/finetune/. KEY=VALUE overrides one setting. The same command
    resumes a stopped run. To start one process per GPU or to run on several hosts, use `videomae launch`.
    """
    with handle_signals():
        from finetune.config import FinetuneConfig
        from finetune.train import train

        return run_stage(FinetuneConfig, train, config, overrides)


@click.command(
    epilog=examples(
        "videomae benchmark configs/demo/benchmark.yaml",
        "videomae benchmark configs/benchmark/rwf2000.yaml encoder=runs/vit_small_rwf2000/export",
        "videomae benchmark configs/benchmark/rwf2000.yaml --rows S3D --seeds 0",
        "torchrun --standalone --nproc-per-node 8 -m finetune.benchmark configs/benchmark/rwf2000.yaml share=rows",
    ),
)
@config_arguments
@click.option("--rows", multiple=True, help="Train this row alone, by its title; may be repeated.")
@click.option("--seeds", multiple=True, type=int, help="Train this seed alone; may be repeated.")
@json_option
def benchmark(
    config: Path, overrides: tuple[str, ...], *, rows: tuple[str, ...], seeds: tuple[int, ...], as_json: bool
) -> int:
    """Train and compare several models under one protocol.

    CONFIG is a YAML file, such as those below configs/benchmark/. Each row of the table is a fine-tuning run for each
    seed; finished runs are reused, and several processes may work on one benchmark. Prints the table and writes
    DIRECTORY/benchmark.json, DIRECTORY/report.html and DIRECTORY/report.md.
    """
    with handle_signals():  # between the rows too
        from finetune.benchmark.command import run_benchmark
        from finetune.benchmark.protocol import Chosen

        chosen = Chosen(rows or None, seeds or None)
        return finish(guarded(lambda: run_benchmark(config, overrides, chosen, as_json=as_json)))


@click.command(
    epilog=examples(
        "videomae evaluate runs/NAME",
        "videomae evaluate runs/NAME --clips 5 --crops 3 --json",
        "videomae evaluate runs/NAME --negatives videos/quiet --false-alarms 1",
    ),
)
@click.argument("run", type=PATH)
@click.option("--negatives", type=PATH, help="Count false alarms on this folder of videos without the positive class.")
@click.option("--false-alarms", type=float, default=1.0, help="False alarms a day that the threshold may give.")
@click.option("--clips", type=click.IntRange(1), help="Temporal views per video; default: those of the run.")
@click.option("--crops", type=click.Choice([1, 3]), help="Spatial views per video; default: those of the run.")
@json_option
def evaluate(
    run: Path, negatives: Path | None, false_alarms: float, clips: int | None, crops: int | None, *, as_json: bool
) -> None:
    """Evaluate a finished fine-tuning run on its val split, or count its false alarms on other videos.

    RUN is a run directory. With --negatives, prints the false alarms an hour at each threshold and a threshold to use,
    and writes the scores to RUN/negatives, for `videomae predict --negatives`.
    """
    if negatives is not None:
        from finetune.negatives import count_false_alarms

        alarms = count_false_alarms(run, negatives, per_day=false_alarms)
        click.echo(json.dumps(alarms.to_dict()) if as_json else str(alarms))
        return
    from finetune.evaluate import FinishedRun
    from finetune.evaluation import describe
    from videomae.core.progress import log_to

    log_to(None)
    result = FinishedRun.read(run).evaluate(clips=clips, crops=crops)
    click.echo(json.dumps(result.to_dict()) if as_json else describe(result).rstrip())


@click.command(
    epilog=examples("videomae ensemble --fusion svm runs/single_frame runs/temporal_stream"),
)
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("--fusion", type=click.Choice(["average", "svm"]), default="average", help="How scores are combined.")
@json_option
def ensemble(runs: tuple[Path, ...], fusion: str, *, as_json: bool) -> None:
    """Evaluate several finished runs as one classifier.

    RUNS are run directories on the same shards. `average` takes the mean of their probabilities; `svm` fits a linear
    SVM to their scores on the train split, as two-stream networks do.
    """
    from finetune.ensemble import fuse
    from finetune.evaluate import FinishedRun
    from finetune.evaluation import describe
    from videomae.core.progress import log_to

    log_to(None)
    result = fuse([FinishedRun.read(run) for run in runs], fusion)
    click.echo(json.dumps(result.to_dict()) if as_json else describe(result).rstrip())


@click.command(
    epilog=examples("videomae report runs/demo", "videomae report runs/demo --pretraining pretrain"),
)
@click.argument("folder", type=PATH)
@click.option("--pretraining", help="Pretraining run, relative to FOLDER, instead of the recorded one.")
def report(folder: Path, pretraining: str | None) -> None:
    """Write the HTML report of a benchmark again.

    FOLDER is the directory of the benchmark; it holds benchmark.json.
    """
    from finetune.benchmark.report import PAGE, write
    from videomae.core.progress import log_to, logger

    log_to(None)
    write(folder, pretraining=pretraining)
    logger.info("report: %s", folder / PAGE)


@click.command(
    epilog=examples("videomae weights import-classifier CHECKPOINT runs/NAME/export --classes NonFight,Fight"),
)
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@click.option("--classes", required=True, help="Class names in the order of the logits, separated by commas.")
@click.option("--frames", type=int, help="Frames of the input; default: from the folder's config, else 16.")
@click.option("--size", type=int, help="Pixels of the input; default: from the folder's config, else 224.")
@click.option("--heads", type=int, help="Attention heads; default: from the folder's config, else as published.")
def import_classifier(
    source: Path, out: Path, classes: str, *, frames: int | None, size: int | None, heads: int | None
) -> None:
    """Import a fine-tuned VideoMAE classifier.

    SOURCE is a checkpoint file of VideoMAE, VideoMAEv2, mmaction2 or transformers, or a folder of transformers. OUT is
    the export folder to write.
    """
    from finetune.export import import_classifier

    names = [name.strip() for name in classes.split(",")]
    import_classifier(source, out, classes=names, frames=frames, size=size, heads=heads)
