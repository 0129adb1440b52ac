"""False alarms on videos without the positive class: `videomae evaluate RUN --negatives FOLDER`.

The videos are scored by sliding windows, as `videomae predict` does. An alarm begins with a window at or above the
threshold and ends with the first one below four fifths of it. The run gets `negatives.json`, and in `negatives/` the
scores of each video, from which `videomae predict --negatives` chooses its threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import FinetuneConfig
from finetune.predict.alarms import OFF_RATIO, AlarmRule, TimedScore, find_alarms, threshold_for
from finetune.predict.classifier import Classifier
from finetune.predict.files import FileOptions, list_videos, predict_files
from finetune.predict.timeline import timed_scores
from finetune.statistics.operating import positive_class
from videomae.core.config import load
from videomae.core.files import write_json
from videomae.run.directory import RunDirectory

FILE = "negatives.json"
FOLDER = "negatives"
_POINTS = 101  # thresholds of the curve


@dataclass(frozen=True)
class FalseAlarms:
    """False alarms an hour at each threshold, and the lowest threshold for at most `per_day` alarms a day."""

    positive: str
    videos: int
    hours: float
    curve: tuple[tuple[float, float], ...]
    per_day: float
    threshold: float
    alarms: int
    upper_per_day: float  # of the one-sided 95 % Poisson interval at that threshold

    def to_dict(self) -> dict[str, Any]:
        points = [{"threshold": threshold, "alarms_per_hour": rate} for threshold, rate in self.curve]
        return {**vars(self), "curve": points}

    def __str__(self) -> str:
        lines = [f"{self.videos} videos of {self.hours:.3f} hours without {self.positive}", "threshold  alarms an hour"]
        lines += [f"{threshold:9.2f}  {rate:.2f}" for threshold, rate in self.curve[:: (_POINTS - 1) // 10]]
        bound = f"95 % confidence: at most {self.upper_per_day:.1f}"
        return "\n".join(
            [*lines, f"at most {self.per_day:g} alarms a day: threshold {self.threshold:.4f} ({bound} a day)"]
        )


def count_false_alarms(run: Path, folder: Path, *, per_day: float = 1.0) -> FalseAlarms:
    """Score the videos in `folder` with a finished run and write both results to the run.

    Raises:
        UserError: the run is not finished, the folder holds no video, or there are too many alarms at any threshold.
    """
    videos, directory = list_videos([str(folder)]), RunDirectory(run)
    classifier = Classifier.load(run)
    positive = load(FinetuneConfig, directory.config).evaluation.positive if directory.config.is_file() else None
    name = classifier.classes[positive_class(classifier.classes, positive)]
    timelines = predict_files(classifier, videos, FileOptions(out=run / FOLDER))
    recordings = [timed_scores(timeline.prediction, name) for timeline in timelines]
    result = summarize(recordings, positive=name, per_day=per_day)
    write_json(run / FILE, result.to_dict())
    return result


def summarize(recordings: Sequence[Sequence[TimedScore]], *, positive: str, per_day: float) -> FalseAlarms:
    """Count the alarms in the scores of each recording at thresholds from 0 to 1. Raises UserError."""
    rule, rate = threshold_for(recordings, per_day=per_day, seconds=0.0)
    hours = rate.seconds / 3600
    curve = []
    for threshold in np.linspace(0, 1, _POINTS).round(6).tolist():
        tried = AlarmRule(on=threshold, off=threshold * OFF_RATIO)
        curve.append((threshold, sum(len(find_alarms(recording, tried)) for recording in recordings) / hours))
    return FalseAlarms(
        positive=positive,
        videos=len(recordings),
        hours=hours,
        curve=tuple(curve),
        per_day=per_day,
        threshold=rule.on,
        alarms=rate.alarms,
        upper_per_day=rate.upper_per_day,
    )
