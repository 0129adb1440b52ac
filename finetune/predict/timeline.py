"""Timelines of scores as CSV, JSON and PNG, and reading the scores back for the threshold of alarms."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np

from finetune.predict.alarms import Alarm, AlarmConfig, TimedScore
from finetune.predict.classifier import Prediction, Score
from finetune.predictions import write_csv
from videomae.core.errors import UserError
from videomae.core.files import atomic_path, write_json

_MOST_POINTS = 2000  # of a plotted line; of more windows, the highest score of each stretch is drawn
_COLUMNS = ("start", "end", "label")
SUMMARY = "predictions.csv"  # a line per video, beside the files of this module


@dataclass(frozen=True)
class Timeline:
    """The prediction of one file, and the alarms in it where an alarm class is chosen."""

    prediction: Prediction
    alarm: AlarmConfig | None = None
    alarms: Sequence[Alarm] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        prediction = self.prediction
        return {
            "source": prediction.source,
            "label": prediction.label,
            "score": round(prediction.score, 6),
            "scores": by_class(prediction.classes, prediction.probabilities),
            "alarm": None if self.alarm is None else {"class": self.alarm.name, **vars(self.alarm.rule)},
            "alarms": [alarm.to_dict() for alarm in self.alarms],
            "windows": [
                {
                    "start": round(window.start, 3),
                    "end": round(window.end, 3),
                    "scores": by_class(prediction.classes, window.probabilities),
                }
                for window in prediction.windows
            ],
        }


def by_class(classes: Sequence[str], probabilities: Sequence[float]) -> dict[str, float]:
    """Rounded probabilities by class."""
    return {name: round(value, 6) for name, value in zip(classes, probabilities, strict=True)}


def write_timeline(timeline: Timeline, stem: Path) -> None:
    """Write STEM.json, STEM.csv and STEM.png."""
    json_file, csv_file, png_file = (stem.with_name(stem.name + suffix) for suffix in (".json", ".csv", ".png"))
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(json_file, timeline.to_dict())
    classes = timeline.prediction.classes
    write_csv(csv_file, csv_header(classes), (csv_row(window, classes) for window in timeline.prediction.windows))
    draw_timeline(timeline, png_file)


def csv_header(classes: Sequence[str]) -> list[str]:
    """The columns: start and end in seconds, the label, and the probability of each class."""
    return [*_COLUMNS, *classes]


def csv_row(window: Score, classes: Sequence[str]) -> list[str]:
    label = classes[int(np.argmax(window.probabilities))]
    return [f"{window.start:.3f}", f"{window.end:.3f}", label, *(f"{value:.6f}" for value in window.probabilities)]


def draw_timeline(timeline: Timeline, file: Path) -> None:
    """Draw the probability over time: of the alarm's class with its thresholds and alarms, or of every class."""
    prediction, alarmed = timeline.prediction, timeline.alarm
    figure = matplotlib.figure.Figure(figsize=(10, 3), layout="constrained")
    plot = figure.add_subplot()
    names = prediction.classes if alarmed is None else (alarmed.name,)
    for name in names:
        column = prediction.classes.index(name)
        points = [(window.start, window.end, window.probabilities[column]) for window in prediction.windows]
        times, values = _steps(points)
        plot.plot(times, values, label=name, linewidth=1.5)
    for alarm in timeline.alarms:
        plot.axvspan(alarm.start, alarm.end, color="tab:red", alpha=0.2, linewidth=0)
    if alarmed is not None:
        rule = alarmed.rule
        plot.axhline(rule.on, color="tab:red", linestyle="--", linewidth=1, label=f"on from {rule.on:.3g}")
        plot.axhline(rule.off, color="tab:grey", linestyle=":", linewidth=1, label=f"off below {rule.off:.3g}")
    plot.set(xlabel="seconds", ylabel="probability", ylim=(-0.02, 1.02), title=_printable(prediction.source))
    plot.set_xlim(prediction.windows[0].start, max(window.end for window in prediction.windows))
    plot.legend(loc="upper right", fontsize="small")
    plot.grid(alpha=0.3)
    with atomic_path(file) as part:
        figure.savefig(part, format="png", dpi=120)


def _steps(points: Sequence[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
    """Points of a line through the middles of windows, from the start of the first to the end of the last."""
    if len(points) > _MOST_POINTS:
        parts = np.array_split(np.arange(len(points)), _MOST_POINTS)
        points = [max((points[place] for place in part), key=lambda point: point[2]) for part in parts]
    times = [points[0][0], *((start + end) / 2 for start, end, _ in points), points[-1][1]]
    return times, [points[0][2], *(value for _, _, value in points), points[-1][2]]


def _printable(text: str) -> str:
    """Matplotlib reads a dollar sign as the start of mathematics."""
    return text.replace("$", r"\$")


def read_scores(place: Path, alarm_class: str) -> list[list[TimedScore]]:
    """Read the scores of recordings: from a CSV file of this module, or all CSV files of a folder.

    A file has the columns `start` and `end`, in seconds, and `score` or one named like the class. With a column
    `source`, it holds one recording per source.

    Raises:
        UserError: there is no such file, or a column is missing or no number.
    """
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.rglob("*.csv") if file.name != SUMMARY)
    if not files or not files[0].is_file():
        raise UserError(f"no scores at {place}; write them with: videomae predict RUN VIDEOS --out FOLDER")
    return [scores for file in files for scores in _read_csv(file, alarm_class)]


def _read_csv(file: Path, alarm_class: str) -> Iterable[list[TimedScore]]:
    recordings: dict[str, list[TimedScore]] = {}
    with file.open(newline="", encoding="utf-8-sig") as opened:
        rows = csv.DictReader(opened)
        columns = rows.fieldnames or ()
        column = alarm_class if alarm_class in columns else "score"
        missing = [name for name in ("start", "end", column) if name not in columns]
        if missing:
            raise UserError(f"{file}: no column {missing[0]!r}; wanted start, end and {alarm_class} or score")
        for row in rows:
            try:
                score = TimedScore(float(row["start"]), float(row["end"]), float(row[column]))
            except (TypeError, ValueError):
                raise UserError(f"{file}, line {rows.line_num}: start, end and {column} must be numbers") from None
            recordings.setdefault(row.get("source") or "", []).append(score)
    return [sorted(scores) for scores in recordings.values()]


def timed_scores(prediction: Prediction, alarm_class: str) -> list[TimedScore]:
    """The scores of one class in order of time."""
    column = prediction.classes.index(alarm_class)
    return [TimedScore(window.start, window.end, window.probabilities[column]) for window in prediction.windows]
