"""The command `videomae predict`: its options, the alarm rule that follows from them, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.predict.alarms import OFF_RATIO, AlarmConfig, AlarmRule, threshold_for
from finetune.predict.annotate import clock
from finetune.predict.classifier import Classifier
from finetune.predict.files import FileOptions, find_class, list_videos, predict_files
from finetune.predict.live import LiveConfig
from finetune.predict.timeline import Timeline, read_scores
from finetune.predict.watch import WatchOptions, watch_camera
from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.core.signals import handle_signals
from videomae.data.video import is_camera

_ON = 0.5


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of the command line, under their names there; None where the run decides."""

    out: Path | None = None
    annotate: bool = False
    window: float | None = None
    hop: float | None = None
    clips: int | None = None
    crops: int | None = None
    batch: int = 16
    alarm_class: str | None = None
    on: float | None = None
    off: float | None = None
    min_seconds: float = 0.0
    negatives: Path | None = None
    false_alarms: float = 1.0
    timeout: float = 10.0
    duration: float | None = None

    def __post_init__(self) -> None:
        if self.annotate and self.out is None:
            raise UserError("--annotate writes videos; give their folder with --out FOLDER")
        if self.alarm_class is None and (self.on is not None or self.off is not None or self.negatives is not None):
            raise UserError("--on, --off and --negatives belong to alarms; give the class with --alarm CLASS")
        if self.on is not None and self.negatives is not None:
            raise UserError("--on and --negatives both set the threshold; give one of them")


def predict_command(run: Path, sources: Sequence[str], options: PredictOptions, *, as_json: bool) -> Iterator[str]:
    """Predict on all sources and yield the lines to print.

    Raises:
        UserError: the run is not finished, a source is no video, or the options do not fit the model.
    """
    cameras = [source for source in sources if is_camera(source)]
    if cameras and len(sources) > 1:
        raise UserError(f"got {len(sources)} sources with a camera among them; start one command for each camera")
    videos = [] if cameras else list_videos(sources)
    classifier = Classifier.load(run, clips=options.clips, crops=options.crops, batch=options.batch)
    if cameras:
        yield from _watch(classifier, cameras[0], options, as_json=as_json)
        return
    sliding = options.window is not None or options.hop is not None
    files = FileOptions(
        windows=classifier.windows(seconds=options.window, hop=options.hop) if sliding else None,
        alarm=alarm_config(classifier, options),
        out=options.out,
        annotate=options.annotate,
    )
    timelines = predict_files(classifier, videos, files)
    if as_json:
        yield json.dumps([timeline.to_dict() for timeline in timelines])
        return
    for timeline in timelines:
        yield from describe(timeline)
    if options.out is not None:
        yield f"{options.out}: timelines (JSON, CSV, PNG) and predictions.csv"


def _watch(classifier: Classifier, source: str, options: PredictOptions, *, as_json: bool) -> Iterator[str]:
    """Watch a camera until a signal comes; yield a line of JSON for each event, or a line of text for the rare ones."""
    watch = WatchOptions(
        windows=classifier.windows(seconds=options.window, hop=options.hop),
        alarm=alarm_config(classifier, options),
        out=options.out,
        annotate=options.annotate,
        duration=options.duration,
        live=LiveConfig(timeout=options.timeout),
    )
    label = None
    with handle_signals() as request:
        for event in watch_camera(classifier, source, watch, stopped=lambda: request.reason is not None):
            if as_json:
                yield json.dumps(event)
            elif event["event"] != "window":
                yield "  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in event.values())
            elif event["label"] != label:
                label = event["label"]
                yield f"{event['time']}  {label} {event['scores'][label]:.1%}, {event['behind']:.1f} s behind"


def alarm_config(classifier: Classifier, options: PredictOptions) -> AlarmConfig | None:
    """Return the class and rule of alarms; the threshold comes from `on`, or from the scores of negatives."""
    if options.alarm_class is None:
        return None
    name = find_class(classifier.classes, options.alarm_class)
    if options.negatives is None:
        on = _ON if options.on is None else options.on
        off = on * OFF_RATIO if options.off is None else options.off
        return AlarmConfig(name, AlarmRule(on=on, off=off, seconds=options.min_seconds))
    scores = read_scores(options.negatives, name)
    rule, rate = threshold_for(scores, per_day=options.false_alarms, seconds=options.min_seconds)
    logger.info(
        "alarms from %.4f: %d on %.3g hours of negatives, %.3g a day; with 95 %% confidence at most %.3g a day",
        *(rule.on, rate.alarms, rate.seconds / 3600, rate.per_day, rate.upper_per_day),
    )
    return AlarmConfig(name, rule)


def describe(timeline: Timeline) -> Iterator[str]:
    """Format a prediction as a line, followed by a line per alarm."""
    prediction = timeline.prediction
    windows = "" if len(prediction.windows) == 1 else f"   {len(prediction.windows)} windows"
    yield f"{prediction.source}   {prediction.label} {prediction.score:.1%}{windows}"
    for alarm in timeline.alarms:
        period = f"{clock(alarm.start)} to {clock(alarm.end)}"
        assert timeline.alarm is not None
        yield f"  alarm: {timeline.alarm.name} from {period}, peak {alarm.peak:.1%}"
