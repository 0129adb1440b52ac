"""The commands that use a trained model. Heavy imports stand in the functions, so that --help is quick."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from videomae.command import PATH, examples, json_option


@click.command(
    epilog=examples(
        "videomae predict runs/NAME clip.mp4",
        "videomae predict runs/NAME recordings/ --out predictions --annotate --alarm Fight --on 0.8",
        "videomae predict runs/NAME rtsp://camera/stream --out predictions --alarm Fight --negatives quiet.csv",
    ),
)
@click.argument("run", type=PATH)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", type=PATH, help="Folder for timelines as JSON, CSV and PNG, and predictions.csv.")
@click.option("--annotate", is_flag=True, help="Also write each video with its predictions drawn in; needs --out.")
@click.option("--window", type=float, help="Seconds of video per score; default: the length of the training clips.")
@click.option("--hop", type=float, help="Seconds from one window to the next; default: half a window.")
@click.option("--clips", type=click.IntRange(1), help="Temporal views per window; default: those of the run.")
@click.option("--crops", type=click.Choice([1, 3]), help="Spatial views per window; default: those of the run.")
@click.option("--batch", type=click.IntRange(1), default=16, help="Views per forward pass.")
@click.option("--alarm", "alarm_class", metavar="CLASS", help="Raise alarms for this class.")
@click.option("--on", type=click.FloatRange(0, 1), help="Probability that raises an alarm; default: 0.5.")
@click.option("--off", type=click.FloatRange(0, 1), help="Probability below which it ends; default: 0.8 times --on.")
@click.option("--min-seconds", type=click.FloatRange(0), default=0.0, help="Time above the threshold before an alarm.")
@click.option("--negatives", type=PATH, help="CSV scores of videos without the class, as --out writes them: sets --on.")
@click.option(
    "--false-alarms", type=click.FloatRange(0), default=1.0, help="False alarms a day that --negatives allows."
)
@click.option("--timeout", type=click.FloatRange(0.1), default=10.0, help="Seconds without data from a lost camera.")
@click.option("--duration", type=click.FloatRange(0), help="Seconds to watch a camera; default: until a signal.")
@json_option
def predict(run: Path, sources: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Classify videos with a finished fine-tuning run.

    RUN is a run directory or an exported classifier. A SOURCE is a video file, a folder of videos, a camera's
    number or device, or an address (rtsp://, http://). A file that is no longer than the training clips is scored like
    a sample of the evaluation, a longer one and a camera by sliding windows.
    """
    from finetune.predict.command import PredictOptions, predict_command
    from videomae.core.progress import log_to

    log_to(None)
    for line in predict_command(run, sources, PredictOptions(**options), as_json=as_json):
        click.echo(line)


@click.command(
    epilog=examples(
        "videomae reconstruct runs/NAME clip.mp4 --out pictures",
        "videomae reconstruct checkpoint.pth a.mp4 b.mp4 --mask random --ratio 0.75 --json",
    ),
)
@click.argument("model", type=PATH, metavar="RUN|WEIGHTS")
@click.argument("videos", type=PATH, nargs=-1, required=True, metavar="VIDEO...")
@click.option("--out", type=PATH, default=Path("reconstructions"), help="Folder of the pictures.")
@click.option("--mask", type=click.Choice(["tube", "random", "frame"]), help="Default: the mask of the training.")
@click.option("--ratio", type=float, help="Fraction that is hidden; default: that of the training.")
@click.option("--stride", type=click.IntRange(1), help="Stored frames between two of the clip; default: the run's.")
@click.option("--seed", type=int, default=0, help="Seed of the masks.")
@json_option
def reconstruct(
    model: Path,
    videos: tuple[Path, ...],
    *,
    out: Path,
    mask: str | None,
    ratio: float | None,
    stride: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Show what a pretrained model predicts of hidden patches.

    RUN is a pretraining run with a checkpoint, WEIGHTS a pretraining checkpoint of VideoMAE or of transformers. Writes
    the central clip of each video, masked and reconstructed, as PNG, GIF and mp4, and prints its error.
    """
    from pretrain.reconstruct_videos import load_autoencoder, mask_config, reconstruct_videos
    from videomae.core.progress import log_to

    log_to(None)
    trained = load_autoencoder(model)
    if stride is not None:
        trained = dataclasses.replace(trained, stride=stride)
    found = reconstruct_videos(trained, videos, out, mask=mask_config(trained, mask, ratio), seed=seed)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found]))
        return
    for one in found:
        click.echo(f"{one.source}   error {one.pixel_error:.4f} on {one.hidden:.0%} of the patches   {one.files[0]}")


@click.command(
    epilog=examples(
        "videomae extract runs/NAME shards/train features",
        "videomae extract runs/NAME/export shards/val features --patches --format parquet",
    ),
)
@click.argument("run", type=PATH)
@click.argument("shards", type=PATH)
@click.argument("out", type=PATH)
@click.option("--patches", is_flag=True, help="One feature per patch, not per clip: of encoders, videomae, probes.")
@click.option("--format", "form", type=click.Choice(["npz", "parquet"]), default="npz", help="Of the files.")
@click.option("--batch", type=click.IntRange(1), default=16, help="Clips per forward pass.")
@json_option
def extract(run: Path, shards: Path, out: Path, *, patches: bool, form: str, batch: int, as_json: bool) -> None:
    """Write the features of every sample of a split.

    RUN is a pretraining or fine-tuning run, or its export, SHARDS the folder of one split, OUT the folder of
    part-00000 and following files with keys, labels and features.
    """
    from launch.extract import extract_features
    from videomae.core.progress import log_to

    log_to(None)
    found = extract_features(run, shards, out, patches=patches, form=form, batch=batch)
    text = f"{out}: {found['samples']} samples in {found['files']} file(s), each {found['shape']}"
    click.echo(json.dumps(found) if as_json else text)
