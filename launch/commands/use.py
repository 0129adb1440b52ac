"""The commands that use a trained model. Heavy imports stand in the functions, so that --help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from videomae.command import PATH, SETTINGS, examples, json_option


@click.command(
    context_settings=SETTINGS,
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
@click.option("--negatives", type=PATH, help="Scores of videos without alarms, as --out writes them: sets --on.")
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
