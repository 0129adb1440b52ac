"""Predict on files and folders, and write the results: `videomae predict RUN SOURCE...`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.predict.alarms import AlarmConfig, find_alarms
from finetune.predict.annotate import annotate_video
from finetune.predict.classifier import Classifier, Prediction, Score
from finetune.predict.timeline import SUMMARY, Timeline, timed_scores, write_timeline
from finetune.predict.windows import WindowConfig
from finetune.predictions import write_csv
from videomae.core.errors import UserError
from videomae.core.progress import logger, track
from videomae.data.video import SUFFIXES, VideoError


@dataclass(frozen=True)
class FileOptions:
    """How files are scored and what is written of each."""

    windows: WindowConfig | None = None  # None: by windows only where a file is longer than the training clips
    alarm: AlarmConfig | None = None
    out: Path | None = None
    annotate: bool = False


@dataclass(frozen=True)
class VideoSourceFile:
    """A video file and the name of its results, relative to the output folder."""

    path: Path
    name: str


def list_videos(sources: Sequence[str]) -> list[VideoSourceFile]:
    """List the files among `sources` and all videos below the folders among them, in order, each with its own name.

    Raises:
        VideoError: a source does not exist, or a folder holds no video.
    """
    found: list[VideoSourceFile] = []
    for source in sources:
        folder = Path(source)
        if not folder.is_dir():
            if not folder.is_file():
                raise VideoError(f"{source}: no such file; give a video file, a folder, a camera or an address")
            found.append(VideoSourceFile(folder, folder.name))
            continue
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not paths:
            raise VideoError(f"{source} holds no videos; their names end in {', '.join(SUFFIXES)}")
        found += [VideoSourceFile(path, str(path.relative_to(folder))) for path in paths]
    stems = [str(Path(file.name).with_suffix("")) for file in found]
    if len(set(stems)) < len(stems):
        found = [VideoSourceFile(file.path, f"{number:04}-{Path(file.name).name}") for number, file in enumerate(found)]
    return found


def predict_files(classifier: Classifier, videos: Sequence[VideoSourceFile], options: FileOptions) -> list[Timeline]:
    """Predict on every file and write its results.

    Among several files, one that cannot be read is logged and left out.

    Raises:
        VideoError: no file can be read.
    """
    timelines: list[Timeline] = []
    errors: list[VideoError] = []
    with track("Predicting", total=len(videos), show=len(videos) > 1) as task:
        for video in videos:
            try:
                timelines.append(predict_file(classifier, video, options, progress=len(videos) == 1))
            except VideoError as error:
                errors.append(error)
                if len(videos) > 1:
                    logger.error("%s", error)
            task.advance(note=video.name)
    if not timelines:
        raise errors[0]
    if options.out is not None:
        rows = (_summary(timeline.prediction) for timeline in timelines)
        write_csv(options.out / SUMMARY, ["source", "label", "score", *classifier.classes], rows)
    return timelines


def predict_file(
    classifier: Classifier, video: VideoSourceFile, options: FileOptions, *, progress: bool = False
) -> Timeline:
    """Predict on one file and write its results. Raises VideoError."""
    expected, scores = classifier.scores(video.path, options.windows)
    found: list[Score] = []
    with track(video.name, total=expected, show=progress and expected > 1) as task:
        for score in scores:
            found.append(score)
            task.advance()
    prediction = Prediction(str(video.path), classifier.classes, tuple(found))
    alarm, alarms = options.alarm, []
    if alarm is not None:
        alarms = find_alarms(timed_scores(prediction, alarm.name), alarm.rule)
    timeline = Timeline(prediction, alarm, alarms)
    if options.out is not None:
        stem = options.out / Path(video.name).with_suffix("")
        write_timeline(timeline, stem)
        if options.annotate:
            annotate_video(video.path, timeline, stem.with_name(stem.name + ".annotated.mp4"))
    return timeline


def find_class(classes: Sequence[str], name: str) -> str:
    """Return the class called `name`, whatever its case. Raises UserError."""
    found = next((each for each in classes if each.casefold() == name.casefold()), None)
    if found is None:
        raise UserError(f"the model has no class {name!r}; it has {', '.join(classes)}")
    return found


def _summary(one: Prediction) -> list[str]:
    return [one.source, one.label, f"{one.score:.6f}", *(f"{value:.6f}" for value in one.probabilities)]
